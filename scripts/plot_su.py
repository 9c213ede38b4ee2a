"""Draw a figure of Su et al. 2023."""

import _plot
from robust_tangents.figures import su, su_tables


def collapse(table, spec):
    return su.collapse(table, spec["style"]["colours"], spec["switches"])


DRAWINGS = {
    "su_standard": collapse,
    "su_adversarial": collapse,
    "su_trades": collapse,
    "su_fresh_attacks": collapse,
    "su_leaping": lambda table, spec: su.leaping(table, spec["style"]["colours"], spec["switches"]),
    "su_alignment": lambda table, spec: su.alignment(table, spec["style"]["colours"], spec["switches"]),
    "su_layers": lambda table, spec: su.layers(table, spec["style"]["colours"]),
    "su_nearest_centre": lambda table, spec: su.nearest_centre(table, spec["style"]["colours"], spec["switches"]),
}

if __name__ == "__main__":
    _plot.run(__doc__, su_tables.TABLES, DRAWINGS)
