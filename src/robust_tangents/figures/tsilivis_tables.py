"""From artefacts to what the figures of Tsilivis and Kempe 2022 are drawn from."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from robust_tangents import storage
from robust_tangents.figures import checks, opened


def _architectures(paths: Iterable[str]) -> Iterator[tuple[str, storage.Artefact]]:
    """Every architecture of files of kind "kernel features", in the order in which they were asked for."""
    for path in paths:
        with storage.read(path, "kernel features") as artefact:
            for name in artefact.spec["architectures"]:
                yield name, artefact


def features(paths: Iterable[str]) -> pd.DataFrame:
    """Columns architecture, index (0 for the largest eigenvalue), eigenvalue (share of the largest), usefulness,
    robustness (not a number where the feature was not attacked), majority (share of the commonest class)."""
    tables = []
    for name, artefact in _architectures(paths):
        found = {key: artefact[f"{name}/{key}"] for key in ("eigenvalues", "usefulness", "attacked", "robustness")}
        robustness = np.full(len(found["eigenvalues"]), np.nan)
        robustness[found["attacked"]] = found["robustness"]
        columns = {
            "architecture": name,
            "index": np.arange(len(robustness)),
            "eigenvalue": found["eigenvalues"] / found["eigenvalues"][0],
            "usefulness": found["usefulness"],
            "robustness": robustness,
            "majority": float(artefact[f"{name}/majority"]),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def accuracies(paths: Iterable[str]) -> pd.DataFrame:
    """Columns architecture, accuracy, robust_accuracy of the whole predictors."""
    rows = [
        (name, float(artefact[f"{name}/accuracy"]), float(artefact[f"{name}/robust_accuracy"]))
        for name, artefact in _architectures(paths)
    ]
    return pd.DataFrame(rows, columns=["architecture", "accuracy", "robust_accuracy"])


def shown(paths: Iterable[str], c: int) -> dict[str, dict[str, Any]]:
    """Of every architecture what is kept of the first test image of a class, and the names of the classes."""
    result = {}
    for name, artefact in _architectures(paths):
        kept = {key: value[c] for key, value in artefact[f"{name}/shown"].items()}
        kept["class_names"] = [text.decode() for text in artefact["class_names"]]
        kept["eigenvalues"] = artefact[f"{name}/eigenvalues"]
        result[name] = kept
    return result


def decomposition(shown: Mapping[str, Any]) -> pd.DataFrame:
    """How the gradient of a predictor is made up of those of its features, largest eigenvalue first.

    Columns index; eigenvalue (share of the largest); share, ⟨∇f⁽ⁱ⁾, ∇f⟩ / ‖∇f‖², which sums to 1; cosine of ∇f⁽ⁱ⁾ with
    ∇f; and cumulative, the cosine of Σ_{j≤i} ∇f⁽ʲ⁾ with ∇f.

    Args:
        shown: ``gradients`` (n, H, W, C) of all features at one image, ``eigenvalues`` (n,).
    """
    gradients = shown["gradients"].reshape(len(shown["gradients"]), -1).astype(np.float64)
    sums = gradients.cumsum(axis=0)
    whole = sums[-1]

    def cosine(rows: np.ndarray) -> np.ndarray:
        return rows @ whole / (np.linalg.norm(rows, axis=1) * np.linalg.norm(whole))

    return pd.DataFrame(
        {
            "index": np.arange(len(gradients)),
            "eigenvalue": shown["eigenvalues"] / shown["eigenvalues"][0],
            "share": gradients @ whole / (whole @ whole),
            "cosine": cosine(gradients),
            "cumulative": cosine(sums),
        }
    )


def agreement(paths: Iterable[str]) -> pd.DataFrame:
    """Columns first, second (architectures), index, value: mean over test images of the absolute cosine between the
    gradients of the features of one rank."""
    kept = {}
    for name, artefact in _architectures(paths):
        gradients = artefact[f"{name}/gradients"].astype(np.float64)
        flat = gradients.reshape(*gradients.shape[:2], -1)
        kept[name] = flat / np.linalg.norm(flat, axis=-1, keepdims=True)
    tables = []
    for first, a in kept.items():
        for second, b in kept.items():
            cosines = np.abs(np.einsum("mid,mid->mi", a, b)).mean(axis=0)
            columns = {"first": first, "second": second, "index": np.arange(len(cosines)), "value": cosines}
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def chance_cosine(paths: Iterable[str]) -> float:
    """Expected absolute cosine of random directions in image space, about √(2 / πd)."""
    for name, artefact in _architectures(paths):
        return float(np.sqrt(2 / (np.pi * np.prod(artefact[f"{name}/gradients"].shape[2:]))))
    raise AssertionError("a figure has at least one file")


def kernel_dynamics(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per row (kernel), run and seed what is measured on full kernels over training.

    Each with row, run, seed, ``epochs`` (T,), ``distances`` (T, T), ``polar`` (by space: ``radius`` and ``angle``), and
    ``mass`` (T, k).

    Args:
        rows: rows of a figure: ``kernel``, and ``curves`` with ``label`` and ``files`` of kind "kernel measures".
    """
    found = []
    for row, run, measures, seed in opened.of_curves(rows, "kernel measures"):
        kept = {key: measures[f"seed{seed}/{key}"] for key in ("epochs", "distances", "polar", "mass")}
        found.append({"row": row["kernel"], "run": run, "seed": seed, **kept})
    return found


def _named(entry: Mapping[str, Any], columns: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame({**{key: entry[key] for key in ("row", "run", "seed")}, **columns})


def polar(dynamics: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Columns row, run, seed, epoch, space (full, top, bottom), radius, angle, of `kernel_dynamics`."""
    tables = [
        _named(entry, {"epoch": entry["epochs"], "space": space, **path})
        for entry in dynamics
        for space, path in entry["polar"].items()
    ]
    return pd.concat(tables, ignore_index=True)


def distances(dynamics: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Columns row, run, seed, epoch, other, value: kernel distances between all epochs."""
    tables = []
    for entry in dynamics:
        epochs, values = entry["epochs"], entry["distances"].ravel()
        columns = {"epoch": np.repeat(epochs, len(epochs)), "other": np.tile(epochs, len(epochs)), "value": values}
        tables.append(_named(entry, columns))
    return pd.concat(tables, ignore_index=True)


def settled(entry: Mapping[str, Any], part: float = 0.1) -> float:
    """First epoch from which on the kernel is within a part of the initial distance to its final state."""
    to_final = entry["distances"][:, -1]
    late = np.flatnonzero(to_final > part * to_final[0])
    return float(entry["epochs"][late[-1] + 1])


def mass(dynamics: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Columns row, run, seed, epoch, top (number of eigenvalues), value: share of the squared eigenvalues."""
    tables = []
    for entry in dynamics:
        k = entry["mass"].shape[1]
        for top in (k // 2, k):
            tables.append(_named(entry, {"epoch": entry["epochs"], "top": top, "value": entry["mass"][:, top - 1]}))
    return pd.concat(tables, ignore_index=True)


def linearized_runs(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Columns row (second stage), curve ("parent", or the epoch of linearization), seed, epoch, panel, value.

    Along the parent run, and along training of its linearization from some epochs. Panels: accuracy, robust_accuracy,
    and `checks.RECORDED`.

    Args:
        rows: rows of a figure: ``stage2``, ``attack``, and one curve with the files ``stage2`` of kind "stage 2" and
            ``segments`` of kind "segment".
    """
    tables = []
    panels = ("accuracy", "robust_accuracy", *checks.RECORDED)
    for row, _, segment, seed in opened.of_curves(rows, "segment", "segments"):
        metrics = segment[f"seed{seed}/metrics"]
        for panel in panels:
            columns = {"row": row["stage2"], "curve": "parent", "seed": seed, "epoch": metrics["epoch"].astype(float)}
            tables.append(pd.DataFrame({**columns, "panel": panel, "value": metrics[f"test_{panel}"]}))
    for row, _, stage2, seed in opened.of_curves(rows, "stage 2", "stage2"):
        for panel in panels:
            starts = stage2[f"seed{seed}/standard/{row['attack']}/{panel}"]
            trained = stage2[f"seed{seed}/linearized/history/{row['attack']}/{panel}"]
            for i, begin in enumerate(stage2[f"seed{seed}/spawn_epochs"]):
                values = np.concatenate([starts[i : i + 1], trained[i]])
                epochs = begin + stage2.spec["evaluate_every"] * np.arange(len(values))
                columns = {"row": row["stage2"], "curve": f"{begin:g}", "seed": seed, "epoch": epochs}
                tables.append(pd.DataFrame({**columns, "panel": panel, "value": values}))
    return checks.attackable(pd.concat(tables, ignore_index=True), ["row", "curve", "seed", "epoch"])


def eigenattacks(paths: Iterable[str]) -> pd.DataFrame:
    """Columns target, source, index, seed, value: accuracy of the target under the attack on a feature.

    Sources are labels of kernels, or clean, random and own, whose index is −1. The index of all features together is
    their number.
    """
    tables = []
    for artefact, seed in opened.of_seeds(paths, "eigenattacks"):
        measured = artefact[f"seed{seed}"]
        for i, target in enumerate(artefact.spec["targets"]):
            columns = {"target": target, "seed": seed}
            for source in ("clean", "random", "own"):
                value = [float(measured[source][i])]
                tables.append(pd.DataFrame({**columns, "source": source, "index": -1, "value": value}))
            for source in artefact.spec["networks"]:
                found = measured[source]
                columns |= {"source": source, "index": np.append(found["features"], artefact.spec["largest"])}
                values = np.append(found["accuracy"][:, i], found["accuracy_all"][i])
                tables.append(pd.DataFrame({**columns, "value": values}))
    return pd.concat(tables, ignore_index=True)


def lazy_networks(paths: Iterable[str]) -> pd.DataFrame:
    """Columns width (0 for the kernel's predictor), seed (−1 for it), steps, panel, value.

    Panels are accuracies: clean; own, under the attack on itself; kernel, under that on the predictor at the same time;
    and cosine, of the input gradients of network and predictor.
    """
    tables: list[pd.DataFrame] = []
    for artefact, seed in opened.of_seeds(paths, "lazy networks"):
        found = [(width, seed, artefact[f"seed{seed}/width{width}"]) for width in artefact.spec["widths"]]
        if not tables:  # the same in all files
            found.insert(0, (0, -1, artefact["predictor"]))
        for width, owner, panels in found:
            for panel, values in panels.items():
                columns = {"width": width, "seed": owner, "steps": artefact["steps"], "panel": panel, "value": values}
                tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def subsets(paths: Iterable[str]) -> pd.DataFrame:
    """Columns architecture, majority (share of the commonest class), set (robust, non-robust, all), threshold, size,
    attack ("" for clean images), value."""
    tables = []
    for name, artefact in _architectures(paths):
        if f"{name}/subsets" not in artefact:
            continue
        found = artefact[f"{name}/subsets"]
        attacks = {"": "accuracy", **{attack: attack for attack in artefact.spec["subsets"]["attacks"]}}
        for attack, key in attacks.items():
            for members, values in found[key].items():
                columns = {"architecture": name, "majority": float(artefact[f"{name}/majority"])}
                columns |= {"set": members, "threshold": found["thresholds"]}
                columns |= {"size": found["size"][members], "attack": attack, "value": values}
                tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def _dynamics(spec: Mapping[str, Any]) -> pd.DataFrame:
    every = kernel_dynamics(spec["rows"])
    tables = {"distance": distances(every), "polar": polar(every)}
    return pd.concat(tables, names=["kind", None]).reset_index("kind")


def _spectrum(spec: Mapping[str, Any]) -> pd.DataFrame:
    tables = {"feature": features(spec["files"]), "agreement": agreement(spec["files"])}
    return pd.concat(tables, names=["kind", None]).reset_index("kind")


TABLES: dict[str, Callable[[Mapping[str, Any]], pd.DataFrame]] = {
    "tsilivis_fig1": lambda spec: decomposition(shown(spec["files"], spec["class"])[spec["architecture"]]),
    "tsilivis_fig2": lambda spec: lazy_networks(spec["files"]),
    "tsilivis_fig3": lambda spec: features(spec["files"]),
    "tsilivis_fig4": _spectrum,
    "tsilivis_fig5": lambda spec: subsets(spec["files"]),
    "tsilivis_fig6": _dynamics,
    "tsilivis_fig7": lambda spec: mass(kernel_dynamics(spec["rows"])),
    "tsilivis_fig8": lambda spec: linearized_runs(spec["rows"]),
    "tsilivis_eigenattacks": lambda spec: eigenattacks(spec["files"]),
}
"""By kind of figure, its table from the figure's settings."""
