"""Draw a figure of Tsilivis & Kempe 2022."""

import _job

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from robust_tangents.figures import style, tsilivis, tsilivis_tables

Drawn = tuple[Figure, pd.DataFrame]


def fig1(spec: dict) -> Drawn:
    shown = tsilivis_tables.shown(spec["files"], spec["class"])[spec["architecture"]]
    table = tsilivis.decomposition(shown)
    features = [index for index in spec["shown"] if index < len(table)]
    return tsilivis.fig1(shown, table, features, f"{spec['title']}, {spec['architecture']}"), table


def fig2(spec: dict) -> Drawn:
    table = tsilivis_tables.lazy_networks(spec["files"])
    return tsilivis.fig2(table, spec["title"]), table


def fig3(spec: dict) -> Drawn:
    shown, table = tsilivis_tables.shown(spec["files"], spec["class"]), tsilivis_tables.features(spec["files"])
    return tsilivis.fig3(shown, table, min(5, len(table)), spec["title"]), table


def fig4(spec: dict) -> Drawn:
    table, agreement = tsilivis_tables.features(spec["files"]), tsilivis_tables.agreement(spec["files"])
    chance = tsilivis_tables.chance_cosine(spec["files"])
    figure = tsilivis.fig4(table, agreement, chance, spec["style"]["colours"], spec["title"])
    return figure, pd.concat([table, agreement], keys=["feature", "agreement"], names=["kind", None]).reset_index(
        "kind"
    )


def fig5(spec: dict) -> Drawn:
    table = tsilivis_tables.subsets(spec["files"])
    attacks = [attack for attack in table["attack"].unique() if attack]
    return tsilivis.fig5(table, attacks, spec["title"]), table


def fig6(spec: dict) -> Drawn:
    every = tsilivis_tables.kernel_dynamics(spec["rows"])
    settled: dict[str, list[float]] = {}
    for entry in every:
        settled.setdefault(entry["run"], []).append(tsilivis_tables.settled(entry))
    first = [entry for entry in every if entry["seed"] == every[0]["seed"]]
    figure = tsilivis.fig6(first, settled, spec["style"]["colours"], spec["rows"][0]["title"])
    tables = {"distance": tsilivis_tables.distances(every), "polar": tsilivis_tables.polar(every)}
    return figure, pd.concat(tables, names=["kind", None]).reset_index("kind")


def fig7(spec: dict) -> Drawn:
    table = tsilivis_tables.mass(tsilivis_tables.kernel_dynamics(spec["rows"]))
    names = {row["kernel"]: row["kernel"].replace("_", " ") for row in spec["rows"]}
    return tsilivis.fig7(table, spec["style"]["colours"], names, spec["rows"][0]["title"]), table


def fig8(spec: dict) -> Drawn:
    table = tsilivis_tables.linearized_runs(spec["rows"])
    names = {row["stage2"]: row["stage2"].replace("_", " ") for row in spec["rows"]}
    return tsilivis.fig8(table, names, spec["rows"][0]["title"]), table


def eigenattacks(spec: dict) -> Drawn:
    table = tsilivis_tables.eigenattacks(spec["files"])
    return tsilivis.eigenattacks(table, spec["style"]["colours"], spec["title"]), table


DRAW: dict[str, Callable[[dict], Drawn]] = {
    "tsilivis_fig1": fig1,
    "tsilivis_fig2": fig2,
    "tsilivis_fig3": fig3,
    "tsilivis_fig4": fig4,
    "tsilivis_fig5": fig5,
    "tsilivis_fig6": fig6,
    "tsilivis_fig7": fig7,
    "tsilivis_fig8": fig8,
    "tsilivis_eigenattacks": eigenattacks,
}


def main(options) -> None:
    figure, table = DRAW[options.spec["figure"]](options.spec)
    style.save(figure, table, options.out.with_suffix(""), options.spec["style"]["dpi"])


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="PDF to write; SVG, PNG and CSV go beside it")
    _job.run(main, parser)
