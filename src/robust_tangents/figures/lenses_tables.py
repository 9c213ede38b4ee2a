"""From artefacts to what the figure of all three papers is drawn from: one row per value."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from robust_tangents.figures import checks, loo_tables, opened, su_tables, tsilivis_tables

COLUMNS = ["panel", "condition", "run", "seed", "epoch", "value"]


def eigenfeatures(paths: Iterable[str]) -> pd.DataFrame:
    """Columns run, seed, epoch, index, eigenvalue, condition (clean, perturbed), value (accuracy of a feature)."""
    tables = []
    for artefact, seed in opened.of_seeds(paths, "eigenfeatures"):
        for run in artefact.spec["networks"]:
            found = artefact[f"seed{seed}/{run}"]
            for condition, name in (("clean", "usefulness"), ("perturbed", "robustness")):
                epochs, indices = np.indices(found[name].shape)
                columns = {"run": run, "seed": seed, "epoch": found["epochs"][epochs.ravel()]}
                columns |= {"index": indices.ravel(), "eigenvalue": found["eigenvalues"].ravel()}
                columns |= {"condition": condition, "value": found[name].ravel()}
                tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def network_robustness(paths: Iterable[str]) -> pd.DataFrame:
    """Columns run, seed, epoch, panel (robust_accuracy, `checks.RECORDED`), value, of files of kind "eigenfeatures"."""
    tables = []
    for artefact, seed in opened.of_seeds(paths, "eigenfeatures"):
        for run in artefact.spec["networks"]:
            found = artefact[f"seed{seed}/{run}"]
            for panel in ("robust_accuracy", *checks.RECORDED):
                columns = {"run": run, "seed": seed, "epoch": found["epochs"], "panel": panel}
                tables.append(pd.DataFrame({**columns, "value": found[f"network_{panel}"]}))
    return checks.attackable(pd.concat(tables, ignore_index=True), ["run", "seed", "epoch"])


def three_lenses(spec: Mapping[str, Any]) -> pd.DataFrame:
    """Columns panel, condition (clean, perturbed, or empty), run, seed, epoch, value.

    Panels: accuracy (of the network, test images; perturbed: robust accuracy) and the checks of the latter; velocity,
    distance_to_final and effective_rank; mass (of the squared eigenvalues in the top eigenspace); features (mean
    accuracy of the top features of the kernel, test images); nc1 and angle (of centred class means with those of clean
    images; training images, mean over classes).
    """
    [row] = spec["rows"]

    def files(kind: str) -> list[dict[str, Any]]:
        return [{**row, "curves": [{"label": curve["label"], "files": curve[kind]} for curve in row["curves"]]}]

    kernels = loo_tables.kernel_measures(files("measures"))
    mass = tsilivis_tables.mass(tsilivis_tables.kernel_dynamics(files("measures")))
    collapse = su_tables.collapse(files("collapse"), ["accuracy", "nc1", "centred_angle"])
    collapse = collapse[collapse["condition"].isin(["clean", "perturbed"])]
    of_network = collapse[(collapse["measure"] == "accuracy") & (collapse["part"] == "test")]
    of_network = of_network[of_network["condition"] == "clean"]
    last = collapse[(collapse["stage"] == "penultimate") & (collapse["part"] == "train")]
    angles = last[last["measure"] == "centred_angle"]
    angles = angles.groupby(["condition", "run", "seed", "epoch"], as_index=False)["value"].mean()
    robust = network_robustness(spec["files"])
    features = eigenfeatures(spec["files"])
    features = features.groupby(["condition", "run", "seed", "epoch"], as_index=False)["value"].mean()
    parts = [
        of_network.assign(panel="accuracy"),
        robust[robust["panel"] == "robust_accuracy"].assign(panel="accuracy", condition="perturbed"),
        robust[robust["panel"].isin(checks.RECORDED)].assign(condition=""),
        kernels[kernels["panel"] != "specialization"].assign(condition=""),
        mass[mass["top"] == mass["top"].max()].assign(panel="mass", condition=""),
        features.assign(panel="features"),
        last[last["measure"] == "nc1"].assign(panel="nc1"),
        angles[angles["condition"] == "perturbed"].assign(panel="angle"),
    ]
    return pd.concat([part[COLUMNS] for part in parts], ignore_index=True)


TABLES: dict[str, Callable[[Mapping[str, Any]], pd.DataFrame]] = {"three_lenses": three_lenses}
"""By kind of figure, its table from the figure's settings."""
