"""From artefacts to what the figures of Loo et al. 2022 are drawn from: long tables, one row per value."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from robust_tangents.figures import checks, opened

ACCURACIES = ("accuracy", "robust_accuracy", "first_accuracy", "zero_gradient")


def kernel_measures(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Columns row, panel, run, seed, epoch, value; velocity lies at the middle between its checkpoints.

    Args:
        rows: rows of a figure: ``title``, and ``curves`` with ``label`` and the ``files`` of kind "kernel measures".
    """
    tables = []
    for row, run, measures, seed in opened.of_curves(rows, "kernel measures"):
        for panel, (epochs, values) in _panels(measures[f"seed{seed}"]).items():
            columns = {"row": row["title"], "panel": panel, "run": run, "seed": seed, "epoch": epochs, "value": values}
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

    Panels are those of ACCURACIES and of `checks.RECORDED` that a network has under the row's attack, and
    relative_magnitude. Networks that give attacks no gradient to follow have no robust accuracy.

    Args:
        rows: rows of a figure: ``title``, ``attack``, and ``curves`` with ``label`` and the ``files`` of kind
            "stage 2".
    """
    tables = []
    for row, parent, stage2, seed in opened.of_curves(rows, "stage 2"):
        epochs = stage2[f"seed{seed}/spawn_epochs"]
        for network in set(stage2.names(f"seed{seed}")) - {"spawn_epochs"}:
            group = f"seed{seed}/{network}"
            names = {panel: f"{group}/{row['attack']}/{panel}" for panel in (*ACCURACIES, *checks.RECORDED)}
            names["relative_magnitude"] = f"{group}/relative_magnitude"
            for panel, name in names.items():
                if name in stage2:
                    columns = {"row": row["title"], "panel": panel, "parent": parent, "network": network, "seed": seed}
                    tables.append(pd.DataFrame({**columns, "epoch": epochs, "value": stage2[name]}))
    table = checks.attackable(pd.concat(tables), ["row", "parent", "network", "seed", "epoch"])
    return table.sort_values(["row", "parent", "network", "panel", "seed", "epoch"], kind="stable", ignore_index=True)


def failed_checks(table: pd.DataFrame) -> list[str]:
    """One line for each of CHECKS that fails somewhere in a table of `second_stages`: which, and where."""
    several_rows = table["row"].nunique() > 1

    def place(row: str, parent: str, network: str) -> str:
        return f"{row + ', ' if several_rows else ''}{network} from {parent} parent"

    return checks.failed(table, ["row", "parent", "network"], place)


def transfer(paths: Iterable[str]) -> pd.DataFrame:
    """Columns source, target, seed, value, ``masked``, and those of `attack_checks.RECORDED`, of the target.

    The value is the accuracy of the target under PGD made on the source; on the diagonal it is the target's robust
    accuracy, after all attacks on itself. ``masked`` says whether PGD on some other source leaves less of the target
    than that, beyond chance. Sources and targets read "parent, variant, epoch", in the order of the files of kind
    "transfer".
    """
    tables = []
    for measured, seed in opened.of_seeds(paths, "transfer"):
        found = measured[f"seed{seed}"]
        names = [name.decode().replace("|", ", ") for name in found["networks"]]
        matrix = np.where(np.eye(len(names), dtype=bool), found["robust_accuracy"], found["accuracy"])
        table = pd.DataFrame(matrix, index=names, columns=names)
        table = table.rename_axis("source").melt(ignore_index=False, var_name="target").reset_index()
        masked = dict(zip(names, found["stronger_than_white_box"], strict=True))
        recorded = {name: table["target"].map(dict(zip(names, found[name], strict=True))) for name in checks.RECORDED}
        tables.append(table.assign(seed=seed, masked=table["target"].map(masked), **recorded))
    return pd.concat(tables, ignore_index=True)


def failed_checks_of_targets(table: pd.DataFrame) -> list[str]:
    """The same of a table of `transfer`."""
    diagonal = table[table["source"] == table["target"]]
    networks = diagonal["target"].str.rsplit(", ", n=1, expand=True)
    diagonal = diagonal.assign(network=networks[0], epoch=networks[1].astype(float))
    diagonal = diagonal[["network", "seed", "epoch", *checks.RECORDED]]
    long = diagonal.melt(["network", "seed", "epoch"], var_name="panel")
    return checks.failed(long, ["network"], str)


def eigenvector_shares(paths: Iterable[str]) -> pd.DataFrame:
    """Columns seed, network, direction, cosine, low_frequency_share, of files of kind "eigenvector images"."""
    tables = []
    for artefact, seed in opened.of_seeds(paths, "eigenvector images"):
        for network in _texts(artefact["networks"]):
            made = artefact[f"seed{seed}/{network}"]
            columns = {"seed": seed, "network": network, "direction": _texts(artefact["directions"])}
            columns |= {"cosine": made["cosines"], "low_frequency_share": made["low_frequency_share"]}
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables)


def eigenvector_images(paths: Iterable[str]) -> tuple[dict[str, dict[str, np.ndarray]], float, float]:
    """The first seed's images by network and direction, and the mean low-frequency share of real images and that of
    white noise."""
    images: dict[str, dict[str, np.ndarray]] = {}
    natural, noise = [], np.nan
    for artefact, seed in opened.of_seeds(paths, "eigenvector images"):
        directions, noise = _texts(artefact["directions"]), float(artefact["white_noise_share"])
        for network in _texts(artefact["networks"]):
            made = artefact[f"seed{seed}/{network}"]
            natural.append(float(made["natural_low_frequency_share"]))
            images.setdefault(network, dict(zip(directions, made["images"], strict=True)))
    return images, float(np.mean(natural)), noise


def _texts(array: np.ndarray) -> list[str]:
    return [text.decode() for text in array]


TABLES: dict[str, Callable[[Mapping[str, Any]], pd.DataFrame]] = {
    "loo_fig1": lambda spec: kernel_measures(spec["rows"]),
    "loo_fig2": lambda spec: second_stages(spec["rows"]),
    "loo_frozen_kernel": lambda spec: second_stages(spec["rows"]),
    "loo_transfer": lambda spec: transfer(spec["files"]),
    "loo_eigenvectors": lambda spec: eigenvector_shares(spec["files"]),
}
"""By kind of figure, its table from the figure's settings."""
