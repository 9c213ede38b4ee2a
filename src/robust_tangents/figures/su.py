"""Figures of Su et al. 2023 from long tables of numbers (see `su_tables.collapse`).

The paper's layout is not known to us: all of them are our reconstruction.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robust_tangents.figures import style
from robust_tangents.figures.style import DASHES, LINES

CONDITIONS = {
    "clean": "clean",
    "perturbed": "perturbed",
    "stale": "perturbed, as trained on",
    "targeted": "targeted at the next class",
    "gaussian": "Gaussian noise",
    "sign_noise": "sign noise",
}
PANELS = {
    "accuracy": "Accuracy (%)",
    "loss": "Cross-entropy",
    "nc1": "NC1: within- over between-class spread",
    "equinorm": "NC2: unequal norms of class means",
    "equiangularity": "NC2: cosines off −1 / (C − 1)",
    "nc3": "NC3: classifier against class means",
    "nc4": "NC4: nearest centre against network",
}
CLASSIFIER = {"equinorm": "classifier_equinorm", "equiangularity": "classifier_equiangularity"}
ANGLES = {
    "targeted to target": "targeted images to the target's mean",
    "targeted to source": "targeted images to their own class's mean",
    "perturbed to own": "untargeted images to their own class's mean",
}
DISPLACEMENTS = {
    "centred_angle": "Angle of centred means (rad)",
    "angle": "Angle of means (rad)",
    "centred_distance": "Distance of centred means",
    "distance": "Distance of means",
}
LAYERS = {
    "nc1": "NC1",
    "equinorm": "NC2: unequal norms",
    "equiangularity": "NC2: cosines off −1 / (C − 1)",
    "nearest_centre_accuracy": "Nearest-centre accuracy (%)",
}
IDEAL: dict[str, Any] = {"color": "0.35", "linewidth": 1, "linestyle": (0, (1, 1)), "zorder": 0}


def _readable(label: str) -> str:
    return label.replace("_", " ")


def _mark(ax: Axes, switches: Sequence[float]) -> None:
    for switch in switches:
        ax.axvline(switch, color="0.75", linewidth=1, zorder=0)


def _legend(figure: Figure, colours: Mapping[str, Any], more: Sequence[Line2D], switches: Sequence[float]) -> None:
    handles = [Line2D([], [], color=colour, marker="o", markersize=3, label=name) for name, colour in colours.items()]
    handles += more
    if switches:
        handles.append(Line2D([], [], color="0.75", linewidth=1, label="settings change"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8))


def _ideal(label: str = "ideal") -> Line2D:
    return Line2D([], [], label=label, **IDEAL)


def collapse(table: pd.DataFrame, colours: Mapping[str, str], switches: Sequence[float]) -> Figure:
    """Accuracy, loss and NC1 to NC4 over training: a block of panels per run, a curve per condition of images.

    Args:
        table: training images; measures of PANELS at the penultimate stage and of the network, and those of the
            classifier.
        colours: configured colours of conditions.
        switches: epochs at which a run branches off another, marked.

    Source: Su et al. 2023, claims C1, C3 and C6; our layout.
    """
    style.apply()
    conditions = [name for name in CONDITIONS if name in set(table["condition"])]
    chosen = style.palette(conditions, colours)
    blocks = list(table[["row", "run"]].drop_duplicates().itertuples(index=False, name=None))
    figure, axes = plt.subplots(2 * len(blocks), 4, figsize=(12, 4.4 * len(blocks) + 0.6), squeeze=False, sharex=True)
    for block, (row, run) in enumerate(blocks):
        of_run = table[(table["row"] == row) & (table["run"] == run)]
        panels = axes[2 * block : 2 * block + 2].ravel()
        for ax, (measure, title) in zip(panels, PANELS.items(), strict=False):
            part = of_run[of_run["measure"] == measure]
            part = part.assign(value=part["value"] * (100 if measure == "accuracy" else 1))
            sns.lineplot(
                part,
                x="epoch",
                y="value",
                hue="condition",
                hue_order=conditions[::-1],
                palette=chosen,
                ax=ax,
                **LINES,
            )
            if measure in CLASSIFIER:
                rows = of_run[(of_run["measure"] == CLASSIFIER[measure]) & (of_run["condition"] == "clean")]
                lines = LINES | {"marker": ""}
                sns.lineplot(rows, x="epoch", y="value", color="black", dashes=DASHES, ax=ax, **lines)
                ax.lines[-1].set_dashes(DASHES)
            _mark(ax, switches)
            _scale(ax, measure)
            ax.set(xlabel="Epoch", ylabel="")
            ax.set_title(title)
        panels[3].tick_params(labelbottom=True)
        panels[-1].set_axis_off()
        panels[-1].text(
            0.05, 0.9, f"{_readable(run)}\n{row}", transform=panels[-1].transAxes, va="top", size="large", weight="bold"
        )
    names = {CONDITIONS[name]: colour for name, colour in chosen.items()}
    more = [Line2D([], [], color="black", dashes=DASHES, label="classifier rows"), _ideal("at collapse")]
    _legend(figure, names, more, switches)
    return figure


def _scale(ax: Axes, measure: str) -> None:
    """Logarithmic for what falls by orders of magnitude, else down to the value at collapse, which is drawn."""
    if measure in ("loss", "nc1"):
        ax.set_yscale("log")
        ax.annotate("at collapse: 0", (0.03, 0.03), xycoords="axes fraction", va="bottom", color="0.35")
    elif measure.endswith("accuracy"):
        ax.axhline(100, **IDEAL)
        ax.set_ylim(-3, 103)
    else:
        ax.axhline(0, **IDEAL)


def leaping(table: pd.DataFrame, colours: Mapping[str, str], switches: Sequence[float]) -> Figure:
    """Where attacked features go: angles to class means over training, and nearest clean class means at its end.

    Args:
        table: measures centred_angle, source_centred_angle, accuracy, nearest_centre_accuracy and nearest_clean of
            training images, at the penultimate stage and of the network.

    Source: Su et al. 2023, claim C2; our layout.
    """
    style.apply()
    rows = list(table[["row", "run"]].drop_duplicates().itertuples(index=False, name=None))
    figure, axes = plt.subplots(len(rows), 4, figsize=(14, 3.4 * len(rows) + 0.5), squeeze=False)
    chosen = style.palette(list(ANGLES), colours)
    for i, (row, run) in enumerate(rows):
        of_run = table[(table["row"] == row) & (table["run"] == run)]
        classes = int(of_run["class"].max()) + 1
        _angles(axes[i, 0], of_run, chosen, classes)
        _hits(axes[i, 1], of_run)
        for ax in axes[i, :2]:
            _mark(ax, switches)
            ax.set_xlabel("Epoch")
        axes[i, 0].set_ylabel(f"{_readable(run)}, {row}")
        last = of_run[(of_run["measure"] == "nearest_clean") & (of_run["epoch"] == of_run["epoch"].max())]
        for ax, condition in zip(axes[i, 2:], ("perturbed", "targeted"), strict=True):
            _confusion(ax, last[last["condition"] == condition], condition, classes)
    handles = [Line2D([], [], color=chosen[name], marker="o", markersize=3, label=ANGLES[name]) for name in ANGLES]
    handles += [
        Line2D([], [], color="black", label="target predicted"),
        Line2D([], [], color="black", dashes=DASHES, label="target's mean nearest"),
        _ideal("a full leap; two vertices of a simplex"),
    ]
    if switches:
        handles.append(Line2D([], [], color="0.75", linewidth=1, label="settings change"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _angles(ax: Axes, table: pd.DataFrame, colours: Mapping[str, Any], classes: int) -> None:
    of = {
        "targeted to target": ("targeted", "centred_angle"),
        "targeted to source": ("targeted", "source_centred_angle"),
        "perturbed to own": ("perturbed", "centred_angle"),
    }
    for name, (condition, measure) in of.items():
        part = table[(table["condition"] == condition) & (table["measure"] == measure)]
        over_classes = part.groupby(["seed", "epoch"], as_index=False)["value"].mean()
        sns.lineplot(over_classes, x="epoch", y="value", color=colours[name], ax=ax, **LINES)
    for angle in (0, np.arccos(-1 / (classes - 1))):
        ax.axhline(angle, **IDEAL)
    ax.set(ylim=(-0.05, np.pi * 0.75), ylabel="")
    ax.set_title("Angle to a clean class mean (rad, centred)")


def _hits(ax: Axes, table: pd.DataFrame) -> None:
    shares = table["measure"].isin(["accuracy", "nearest_centre_accuracy"])
    part = table[(table["condition"] == "targeted") & shares]
    sns.lineplot(
        part.assign(value=100 * part["value"]), x="epoch", y="value", color="black", ax=ax, style="measure",
        style_order=["accuracy", "nearest_centre_accuracy"], dashes=["", DASHES],
        **LINES | {"marker": None, "markers": ["o", "o"]},
    )  # fmt: skip
    ax.axhline(100, **IDEAL)
    ax.set(ylim=(-3, 103), ylabel="")
    ax.set_title("Targeted images that reach the target (%)")


def _confusion(ax: Axes, table: pd.DataFrame, condition: str, classes: int) -> None:
    """Share of each source class near each clean class mean; targeted images come from the class before their label."""
    source = table["class"] - (condition == "targeted")
    nearest = table["stage"].str.removeprefix("centre ").astype(int)
    shares = table.assign(source=source % classes, nearest=nearest)
    matrix = 100 * shares.pivot_table(index="source", columns="nearest", values="value")
    few = classes <= 20
    sns.heatmap(
        matrix, ax=ax, vmin=0, vmax=100, cmap="rocket_r", annot=few, fmt=".0f", cbar=not few, annot_kws={"size": 6}
    )
    name = "targeted at the next class" if condition == "targeted" else "untargeted"
    ax.set(xlabel="Nearest clean class mean", ylabel="Class", title=f"{name.capitalize()} (%)")
    ax.tick_params(length=0)


def alignment(table: pd.DataFrame, colours: Mapping[str, str], switches: Sequence[float]) -> Figure:
    """Clean against perturbed class means: over training (mean over classes), and class by class at its end.

    Args:
        table: measures of DISPLACEMENTS for perturbed training images.

    Source: Su et al. 2023, claim C3; our layout.
    """
    style.apply()
    rows, runs = list(table["row"].unique()), list(table["run"].unique())
    chosen = style.palette(runs, colours)
    figure, axes = plt.subplots(2 * len(rows), 4, figsize=(12, 4.6 * len(rows) + 0.5), squeeze=False)
    for i, row in enumerate(rows):
        of_row = table[table["row"] == row]
        ends = of_row.groupby("run")["epoch"].transform("max")
        for j, (measure, title) in enumerate(DISPLACEMENTS.items()):
            over, at_end = axes[2 * i, j], axes[2 * i + 1, j]
            part = of_row[of_row["measure"] == measure]
            averaged = part.groupby(["run", "seed", "epoch"], as_index=False)["value"].mean()
            sns.lineplot(averaged, x="epoch", y="value", hue="run", hue_order=runs, palette=chosen, ax=over, **LINES)
            last = part[part["epoch"] == ends[part.index]]
            sns.pointplot(
                last, x="class", y="value", hue="run", hue_order=runs, palette=chosen, ax=at_end, legend=False,
                errorbar=style.SPREAD, linestyle="none", markersize=3, dodge=0.4, err_kws={"linewidth": 1},
            )  # fmt: skip
            _mark(over, switches)
            over.set(xlabel="Epoch", ylabel="", title=title)
            at_end.set(xlabel="Class, last epoch", ylabel="")
            for ax in (over, at_end):
                ax.axhline(0, **IDEAL)
                if measure.endswith("angle"):
                    ax.axhline(np.pi / 2, **IDEAL)
            if part["class"].nunique() > 20:
                at_end.set_xticks([])
        axes[2 * i, 0].set_ylabel(row)
    names = {_readable(name): colour for name, colour in chosen.items()}
    _legend(figure, names, [_ideal("the same mean; unrelated directions")], switches)
    return figure


def layers(table: pd.DataFrame, colours: Mapping[str, str]) -> Figure:
    """Collapse by layer at the end of training: a row per run, clean and perturbed, training and test images.

    Args:
        table: measures of LAYERS at every stage, in the order of the network.

    Source: Su et al. 2023, claim C5; our layout.
    """
    style.apply()
    blocks = list(table[["row", "run"]].drop_duplicates().itertuples(index=False, name=None))
    conditions = ["clean", "perturbed"]
    chosen = style.palette(conditions, colours)
    figure, axes = plt.subplots(len(blocks), 4, figsize=(12, 2.3 * len(blocks) + 0.8), squeeze=False, sharey="col")
    for i, (row, run) in enumerate(blocks):
        of_run = table[(table["row"] == row) & (table["run"] == run)]
        for ax, (measure, title) in zip(axes[i], LAYERS.items(), strict=True):
            part = of_run[of_run["measure"] == measure]
            part = part.assign(value=part["value"] * (100 if measure.endswith("accuracy") else 1))
            sns.lineplot(
                part, x="stage", y="value", hue="condition", hue_order=conditions, palette=chosen, ax=ax, sort=False,
                style="part", style_order=["train", "test"], dashes=["", DASHES],
                **LINES | {"marker": None, "markers": ["o", "o"]},
            )  # fmt: skip
            _scale(ax, measure)
            ax.tick_params("x", rotation=60)
            ax.set(xlabel="", ylabel="", title=title if i == 0 else "")
            if i + 1 < len(blocks):
                ax.set_xticklabels([])
        axes[i, 0].set_ylabel(f"{_readable(run)}\n{row}")
    more = [
        Line2D([], [], color="0.3", label="training images"),
        Line2D([], [], color="0.3", dashes=DASHES, label="test images"),
        _ideal("at collapse"),
    ]
    _legend(figure, chosen, more, [])
    return figure


def nearest_centre(table: pd.DataFrame, colours: Mapping[str, str], switches: Sequence[float]) -> Figure:
    """Accuracy of the nearest clean class mean against that of the network over training.

    Args:
        table: measures accuracy and nearest_centre_accuracy, clean and perturbed, training and test images, of the
            network and the penultimate stage.

    Source: Su et al. 2023, claim C4; our layout.
    """
    style.apply()
    rows, runs = list(table["row"].unique()), list(table["run"].unique())
    chosen = style.palette(runs, colours)
    kinds = [(part, condition) for part in ("train", "test") for condition in ("clean", "perturbed")]
    figure, axes = plt.subplots(len(rows), 4, figsize=(12, 2.6 * len(rows) + 0.6), squeeze=False, sharey=True)
    table = table.assign(value=100 * table["value"])
    for i, row in enumerate(rows):
        for ax, (part, condition) in zip(axes[i], kinds, strict=True):
            shown = table[(table["row"] == row) & (table["part"] == part) & (table["condition"] == condition)]
            sns.lineplot(
                shown, x="epoch", y="value", hue="run", hue_order=runs, palette=chosen, ax=ax, style="measure",
                style_order=["accuracy", "nearest_centre_accuracy"], dashes=["", DASHES],
                **LINES | {"marker": None, "markers": ["o", "o"]},
            )  # fmt: skip
            _mark(ax, switches)
            ax.set(xlabel="Epoch", ylabel="", ylim=(-3, 103))
            ax.set_title(f"{'Training' if part == 'train' else 'Test'} images, {condition}" if i == 0 else "")
        axes[i, 0].set_ylabel(f"{row}\nAccuracy (%)")
    more = [
        Line2D([], [], color="0.3", label="network"),
        Line2D([], [], color="0.3", dashes=DASHES, label="nearest clean class mean"),
    ]
    _legend(figure, {_readable(name): colour for name, colour in chosen.items()}, more, switches)
    return figure
