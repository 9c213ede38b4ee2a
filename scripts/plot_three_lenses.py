"""Draw the figure of all three papers."""

import _plot
from robust_tangents.figures import lenses, lenses_tables


def three_lenses(table, spec):
    title = spec["rows"][0]["title"]
    return lenses.three_lenses(table, spec["style"]["colours"], spec["switches"], title, spec["chance"])


if __name__ == "__main__":
    _plot.run(__doc__, lenses_tables.TABLES, {"three_lenses": three_lenses})
