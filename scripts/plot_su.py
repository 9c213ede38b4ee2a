"""Draw a figure of Su et al. 2023."""

import _job

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from robust_tangents.figures import style, su, tables

Drawn = tuple[Figure, pd.DataFrame]


def collapse(spec: dict) -> Drawn:
    table = tables.collapse(spec["rows"], [*su.PANELS, *su.CLASSIFIER.values()])
    shown = set(su.CONDITIONS) - {"stale"}
    if spec["figure"] == "su_fresh_attacks":
        shown = {"clean", "perturbed", "stale"}
    last = table["stage"].isin(["network", "penultimate"])
    table = table[(table["part"] == "train") & last & table["condition"].isin(shown)]
    return su.collapse(table, spec["style"]["colours"], spec["switches"]), table


def leaping(spec: dict) -> Drawn:
    measures = ["centred_angle", "source_centred_angle", "accuracy", "nearest_centre_accuracy", "nearest_clean"]
    table = tables.collapse(spec["rows"], measures)
    shown = table["stage"].isin(["network", "penultimate"]) | table["stage"].str.startswith("centre ")
    table = table[(table["part"] == "train") & table["condition"].isin(["perturbed", "targeted"]) & shown]
    return su.leaping(table, spec["style"]["colours"], spec["switches"]), table


def alignment(spec: dict) -> Drawn:
    table = tables.collapse(spec["rows"], su.DISPLACEMENTS)
    table = table[(table["part"] == "train") & (table["condition"] == "perturbed")]
    return su.alignment(table, spec["style"]["colours"], spec["switches"]), table


def layers(spec: dict) -> Drawn:
    table = tables.collapse(spec["rows"], su.LAYERS)
    ends = table.groupby(["row", "run"])["epoch"].transform("max")
    table = table[(table["epoch"] == ends) & table["condition"].isin(["clean", "perturbed"])]
    return su.layers(table, spec["style"]["colours"]), table


def nearest_centre(spec: dict) -> Drawn:
    table = tables.collapse(spec["rows"], ["accuracy", "nearest_centre_accuracy"])
    table = table[table["condition"].isin(["clean", "perturbed"]) & table["stage"].isin(["network", "penultimate"])]
    return su.nearest_centre(table, spec["style"]["colours"], spec["switches"]), table


DRAW: dict[str, Callable[[dict], Drawn]] = {
    "su_standard": collapse,
    "su_adversarial": collapse,
    "su_trades": collapse,
    "su_fresh_attacks": collapse,
    "su_leaping": leaping,
    "su_alignment": alignment,
    "su_layers": layers,
    "su_nearest_centre": nearest_centre,
}


def main(options) -> None:
    figure, table = DRAW[options.spec["figure"]](options.spec)
    style.save(figure, table, options.out.with_suffix(""), options.spec["style"]["dpi"])


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="PDF to write; SVG, PNG and CSV go beside it")
    _job.run(main, parser)
