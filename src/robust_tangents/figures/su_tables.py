"""From artefacts to what the figures of Su et al. 2023 are drawn from: long tables, one row per value."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from robust_tangents import storage
from robust_tangents.figures import opened

BY_CLASS = (
    "distance",
    "angle",
    "centred_distance",
    "centred_angle",
    "source_centred_distance",
    "source_centred_angle",
)


def collapse(rows: Iterable[Mapping[str, Any]], measures: Collection[str]) -> pd.DataFrame:
    """Columns row, run, part, condition, stage, measure, seed, epoch, class, value: one row per number.

    ``stage`` is "network" for measures of the whole network; ``class`` is −1 for measures that are no array over
    classes, and the label whose images are counted for "nearest_clean", of which ``stage`` is the nearest centre.
    Undefined values are left out.

    Args:
        rows: rows of a figure: ``title``, and ``curves`` with ``label`` and the ``files`` of kind "collapse".
        measures: names as in `robust_tangents.collapse`.
    """
    tables = []
    for row, run, measured, seed in opened.of_curves(rows, "collapse"):
        stages = [text.decode() for text in measured["stages"]]
        tables += [
            _long(measured, f"seed{seed}", part, condition, measure, stages).assign(
                row=row["title"], run=run, seed=seed
            )
            for part in ("train", "test")
            for condition in measured.names(f"seed{seed}/{part}")
            for measure in measured.names(f"seed{seed}/{part}/{condition}")
            if measure in measures
        ]
    table = pd.concat(tables, ignore_index=True)
    columns = ["row", "run", "part", "condition", "stage", "measure", "seed", "epoch", "class", "value"]
    return table.loc[np.isfinite(table["value"]), columns].reset_index(drop=True)


def _long(
    measured: storage.Artefact, seed: str, part: str, condition: str, measure: str, stages: Sequence[str]
) -> pd.DataFrame:
    """One array of a file of kind "collapse": over epochs and, maybe, over stages, classes, or labels and centres."""
    values = measured[f"{seed}/{part}/{condition}/{measure}"]
    kinds: list[Sequence[Any]] = [[-1], ["network"]]
    if measure == "nearest_clean":
        kinds = [range(values.shape[1]), [f"centre {label}" for label in range(values.shape[2])]]
    elif measure in BY_CLASS:
        kinds = [range(values.shape[1]), ["penultimate"]]
    elif values.ndim == 2:
        kinds = [[-1], stages]
    names = ["epoch", "class", "stage"]
    index = pd.MultiIndex.from_product([measured[f"{seed}/epochs"], *kinds], names=names)
    table = pd.DataFrame({"value": values.reshape(-1)}, index=index).reset_index()
    return table.assign(part=part, condition=condition, measure=measure)


_LAST = ("network", "penultimate")


def _over_training(spec: Mapping[str, Any]) -> pd.DataFrame:
    """Everything that tells of collapse in training images, at the end of the network."""
    measures = ("accuracy", "loss", "nc1", "equinorm", "equiangularity", "nc3", "nc4")
    table = collapse(spec["rows"], [*measures, "classifier_equinorm", "classifier_equiangularity"])
    table = table[(table["part"] == "train") & table["stage"].isin(_LAST)]
    if spec["figure"] == "su_fresh_attacks":
        return table[table["condition"].isin(["clean", "perturbed", "stale"])]
    return table[table["condition"] != "stale"]


def _leaping(spec: Mapping[str, Any]) -> pd.DataFrame:
    measures = ("centred_angle", "source_centred_angle", "accuracy", "nearest_centre_accuracy", "nearest_clean")
    table = collapse(spec["rows"], measures)
    shown = table["stage"].isin(_LAST) | table["stage"].str.startswith("centre ")
    return table[(table["part"] == "train") & table["condition"].isin(["perturbed", "targeted"]) & shown]


def _alignment(spec: Mapping[str, Any]) -> pd.DataFrame:
    table = collapse(spec["rows"], ("centred_angle", "angle", "centred_distance", "distance"))
    return table[(table["part"] == "train") & (table["condition"] == "perturbed")]


def _layers(spec: Mapping[str, Any]) -> pd.DataFrame:
    table = collapse(spec["rows"], ("nc1", "equinorm", "equiangularity", "nearest_centre_accuracy"))
    ends = table.groupby(["row", "run"])["epoch"].transform("max")
    return table[(table["epoch"] == ends) & table["condition"].isin(["clean", "perturbed"])]


def _nearest_centre(spec: Mapping[str, Any]) -> pd.DataFrame:
    table = collapse(spec["rows"], ("accuracy", "nearest_centre_accuracy"))
    return table[table["condition"].isin(["clean", "perturbed"]) & table["stage"].isin(_LAST)]


TABLES: dict[str, Callable[[Mapping[str, Any]], pd.DataFrame]] = {
    "su_standard": _over_training,
    "su_adversarial": _over_training,
    "su_trades": _over_training,
    "su_fresh_attacks": _over_training,
    "su_leaping": _leaping,
    "su_alignment": _alignment,
    "su_layers": _layers,
    "su_nearest_centre": _nearest_centre,
}
"""By kind of figure, its table from the figure's settings."""
