"""Draw a figure of Tsilivis & Kempe 2022."""

import _plot
from robust_tangents.figures import tsilivis, tsilivis_tables


def fig1(table, spec):
    shown = tsilivis_tables.shown(spec["files"], spec["class"])[spec["architecture"]]
    features = [index for index in spec["shown"] if index < len(table)]
    return tsilivis.fig1(shown, table, features, f"{spec['title']}, {spec['architecture']}")


def fig3(table, spec):
    shown = tsilivis_tables.shown(spec["files"], spec["class"])
    return tsilivis.fig3(shown, table, min(5, len(table)), spec["title"])


def fig4(table, spec):
    features, agreement = (table[table["kind"] == kind] for kind in ("feature", "agreement"))
    chance = tsilivis_tables.chance_cosine(spec["files"])
    return tsilivis.fig4(features, agreement, chance, spec["style"]["colours"], spec["title"])


def fig5(table, spec):
    attacks = [attack for attack in table["attack"].unique() if attack]
    return tsilivis.fig5(table, attacks, spec["title"])


def fig6(table, spec):
    every = tsilivis_tables.kernel_dynamics(spec["rows"])
    settled: dict[str, list[float]] = {}
    for entry in every:
        settled.setdefault(entry["run"], []).append(tsilivis_tables.settled(entry))
    first = [entry for entry in every if entry["seed"] == every[0]["seed"]]
    return tsilivis.fig6(first, settled, spec["style"]["colours"], spec["rows"][0]["title"])


def fig7(table, spec):
    names = {row["kernel"]: row["kernel"].replace("_", " ") for row in spec["rows"]}
    return tsilivis.fig7(table, spec["style"]["colours"], names, spec["rows"][0]["title"])


def fig8(table, spec):
    names = {row["stage2"]: row["stage2"].replace("_", " ") for row in spec["rows"]}
    return tsilivis.fig8(table, names, spec["rows"][0]["title"])


DRAWINGS = {
    "tsilivis_fig1": fig1,
    "tsilivis_fig2": lambda table, spec: tsilivis.fig2(table, spec["title"]),
    "tsilivis_fig3": fig3,
    "tsilivis_fig4": fig4,
    "tsilivis_fig5": fig5,
    "tsilivis_fig6": fig6,
    "tsilivis_fig7": fig7,
    "tsilivis_fig8": fig8,
    "tsilivis_eigenattacks": lambda table, spec: tsilivis.eigenattacks(table, spec["style"]["colours"], spec["title"]),
}

if __name__ == "__main__":
    _plot.run(__doc__, tsilivis_tables.TABLES, DRAWINGS)
