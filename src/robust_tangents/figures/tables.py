"""From artefacts to the long tables that figures are drawn from: one row per value."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from robust_tangents import storage
from robust_tangents.attack_checks import CHECKS

ACCURACIES = ("accuracy", "robust_accuracy", "pgd_accuracy", "margin_accuracy", "zero_gradient")

BY_CLASS = (
    "distance",
    "angle",
    "centred_distance",
    "centred_angle",
    "source_centred_distance",
    "source_centred_angle",
)


def kernel_measures(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Columns row, panel, run, seed, epoch, value; velocity lies at the middle between its checkpoints.

    Args:
        rows: rows of a figure: ``title``, and ``curves`` with ``label`` and the ``files`` of kind "kernel measures".
    """
    tables = []
    for row in rows:
        for curve in row["curves"]:
            for path in curve["files"]:
                with storage.read(path, "kernel measures") as measures:
                    for seed in measures.names():
                        for panel, (epochs, values) in _panels(measures[seed]).items():
                            columns = {"row": row["title"], "panel": panel, "run": curve["label"]}
                            columns |= {"seed": int(seed.removeprefix("seed")), "epoch": epochs, "value": values}
                            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def _panels(measured: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    epochs = measured["epochs"]
    panels = {
        "velocity": ((epochs[1:] + epochs[:-1]) / 2, measured["velocity"]),
        "distance_to_final": (epochs, measured["distance_to_final"]),
        "effective_rank": (epochs, measured["effective_rank"]),
    }
    if "specialization" in measured:
        diagonal = np.diagonal(measured["specialization"], axis1=1, axis2=2)
        panels["specialization"] = (epochs, diagonal.mean(axis=1))
    return panels


def second_stages(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Columns row, panel, parent, network, seed, epoch (of spawning), value.

    Panels are those of ACCURACIES and of CHECKS (0 or 1) that a network has under the row's attack, and
    relative_magnitude.

    Args:
        rows: rows of a figure: ``title``, ``attack``, and ``curves`` with ``label`` and the ``files`` of kind
            "stage 2".
    """
    tables = []
    for row in rows:
        for curve in row["curves"]:
            for path in curve["files"]:
                with storage.read(path, "stage 2") as stage2:
                    for seed in stage2.names():
                        epochs = stage2[f"{seed}/spawn_epochs"]
                        for network in set(stage2.names(seed)) - {"spawn_epochs"}:
                            names = {
                                panel: f"{seed}/{network}/{row['attack']}/{panel}" for panel in (*ACCURACIES, *CHECKS)
                            }
                            names["relative_magnitude"] = f"{seed}/{network}/relative_magnitude"
                            for panel, name in names.items():
                                if name in stage2:
                                    columns = {"row": row["title"], "panel": panel, "parent": curve["label"]}
                                    columns |= {"network": network, "seed": int(seed.removeprefix("seed"))}
                                    tables.append(pd.DataFrame({**columns, "epoch": epochs, "value": stage2[name]}))
    table = pd.concat(tables, ignore_index=True)
    return table.sort_values(["row", "parent", "network", "panel", "seed", "epoch"], kind="stable", ignore_index=True)


def failed_checks(table: pd.DataFrame) -> list[str]:
    """One line for each of CHECKS that fails somewhere in a table of `second_stages`: which, and where."""
    failed = table[table["panel"].isin(list(CHECKS)) & (table["value"] > 0)]
    several_rows = table["row"].nunique() > 1
    lines = []
    for check, where in failed.groupby("panel", sort=False):
        places = []
        for (row, parent, network), part in where.groupby(["row", "parent", "network"], sort=False):
            epochs = ", ".join(f"{epoch:g}" for epoch in sorted(part["epoch"].unique()))
            places.append(f"{row + ', ' if several_rows else ''}{network} from {parent} parent at {epochs}")
        lines.append(f"{CHECKS[str(check)]}: {'; '.join(places)}")
    return lines


def transfer(paths: Iterable[str]) -> pd.DataFrame:
    """Columns source, target, seed, value (accuracy of the target on attacks made on the source), and ``masked``.

    ``masked`` says whether some other source hurts the target more than its own attack, beyond chance. Sources and
    targets read "parent, variant, epoch", in the order of the files of kind "transfer".
    """
    tables = []
    for path in paths:
        with storage.read(path, "transfer") as measured:
            for seed in measured.names():
                names = [name.decode().replace("|", ", ") for name in measured[f"{seed}/networks"]]
                table = pd.DataFrame(measured[f"{seed}/accuracy"], index=names, columns=names)
                table = table.rename_axis("source").melt(ignore_index=False, var_name="target").reset_index()
                masked = dict(zip(names, measured[f"{seed}/stronger_than_white_box"], strict=True))
                table = table.assign(seed=int(seed.removeprefix("seed")), masked=table["target"].map(masked))
                tables.append(table)
    return pd.concat(tables, ignore_index=True)


def eigenvector_images(paths: Sequence[str]) -> tuple[pd.DataFrame, dict[str, dict[str, np.ndarray]], float, float]:
    """Of files of kind "eigenvector images": columns seed, network, direction, cosine, low_frequency_share.

    With it the first seed's images by network and direction, and the mean low-frequency share of real images and that
    of white noise.
    """
    images: dict[str, dict[str, np.ndarray]] = {}
    tables, natural, noise = [], [], np.nan
    for path in paths:
        with storage.read(path, "eigenvector images") as artefact:
            directions, networks = _texts(artefact["directions"]), _texts(artefact["networks"])
            for seed in artefact.spec["seeds"]:
                for network in networks:
                    made = artefact[f"seed{seed}/{network}"]
                    columns = {"seed": seed, "network": network, "direction": directions}
                    columns |= {"cosine": made["cosines"], "low_frequency_share": made["low_frequency_share"]}
                    tables.append(pd.DataFrame(columns))
                    natural.append(float(made["natural_low_frequency_share"]))
                    images.setdefault(network, dict(zip(directions, made["images"], strict=True)))
            noise = float(artefact["white_noise_share"])
    return pd.concat(tables), images, float(np.mean(natural)), noise


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
    for row in rows:
        for curve in row["curves"]:
            for path in curve["files"]:
                with storage.read(path, "collapse") as measured:
                    stages = _texts(measured["stages"])
                    for seed in measured.spec["seeds"]:
                        names = {"row": row["title"], "run": curve["label"], "seed": seed}
                        tables += [
                            _long(measured, f"seed{seed}", part, condition, measure, stages).assign(**names)
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


def _texts(array: np.ndarray) -> list[str]:
    return [text.decode() for text in array]
