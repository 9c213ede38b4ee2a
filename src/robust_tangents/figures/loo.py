"""Figures of Loo et al. 2022 from long tables of numbers (one row per value)."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from robust_tangents.figures import loo_tables, style
from robust_tangents.figures.style import DASHES, LINES

KERNEL_PANELS = {
    "velocity": "Kernel velocity dS/dt (per epoch)",
    "distance_to_final": "Distance S to the final kernel",
    "effective_rank": "Effective rank",
    "specialization": "Mean kernel specialization",
}
CONTROL: dict[str, Any] = {"first_accuracy": "", "robust_accuracy": DASHES, "zero_gradient": (1, 1)}
SECOND_STAGE = ("standard", "linearized", "centered", "nonlinear", "nonlinear_centered")


def fig1(table: pd.DataFrame, colours: Mapping[str, str], switches: Sequence[float]) -> Figure:
    """Kernel evolution over training: one row per data set, one curve per run, mean and range over seeds.

    Args:
        table: columns row, panel (keys of KERNEL_PANELS), run, seed, epoch, value.
        colours: configured colours of runs.
        switches: epochs at which a run changes its objective, marked by a dotted line.

    Source: Loo et al. 2022, Fig. 1.
    """
    style.apply()
    rows, panels = list(table["row"].unique()), [p for p in KERNEL_PANELS if p in set(table["panel"])]
    runs = list(table["run"].unique())
    figure, axes = plt.subplots(
        len(rows), len(panels), figsize=(2.9 * len(panels), 2.5 * len(rows) + 0.4), squeeze=False, sharex=True
    )
    chosen = style.palette(runs, colours)
    for i, row in enumerate(rows):
        for j, panel in enumerate(panels):
            ax = axes[i, j]
            part = table[(table["row"] == row) & (table["panel"] == panel)]
            if part.empty:
                ax.set_axis_off()
                continue
            # Drawn last to first: where a run branches off, the run it branches from stays visible.
            sns.lineplot(part, x="epoch", y="value", hue="run", hue_order=runs[::-1], palette=chosen, ax=ax, **LINES)
            for switch in switches:
                ax.axvline(switch, color="0.5", linestyle=":", linewidth=1, zorder=0)
            if panel == "velocity":
                ax.set_yscale("log")
            ax.set(xlabel="Epoch" if i == len(rows) - 1 else "", ylabel="")
            ax.set_title(f"({'abcd'[j]}) {KERNEL_PANELS[panel]}" if i == 0 else "")
        axes[i, 0].set_ylabel(row)
    handles = [Line2D([], [], color=chosen[run], marker="o", markersize=3.5, label=run) for run in runs]
    if switches:
        handles.append(Line2D([], [], color="0.5", linestyle=":", linewidth=1, label="switch of objective"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _accuracies(ax: Axes, table: pd.DataFrame, palette: Mapping[str, Any]) -> None:
    """Clean (solid) and robust (dashed) accuracy in per cent against spawn epoch, one colour per network."""
    part = table[table["panel"].isin(["accuracy", "robust_accuracy"])].assign(value=lambda t: 100 * t["value"])
    sns.lineplot(
        part, x="epoch", y="value", hue="network", hue_order=list(palette), palette=dict(palette), ax=ax,
        style="panel", style_order=["accuracy", "robust_accuracy"], dashes=["", DASHES], **LINES,
    )  # fmt: skip
    ax.set(ylim=(-2, 102), xlabel="", ylabel="")


def _spawn_axis(ax: Axes, last: float) -> None:
    """Spawn epochs on an axis that shows 0 and spreads the early ones."""
    ax.set_xscale("symlog", linthresh=1, linscale=0.5)
    ax.set_xlim(left=-0.1)
    ticks = [tick for tick in (0, 1, 2, 5, 10, 20, 50, 100) if tick <= last]
    ax.set_xticks(ticks, list(map(str, ticks)))
    ax.minorticks_off()
    ax.set_xlabel("Spawn epoch of the second stage")


def _row_titles(axes: np.ndarray, titles: Sequence[str]) -> None:
    for ax, title in zip(axes[:, 0], titles, strict=True):
        ax.set_ylabel("Test accuracy (%)")
        ax.annotate(title, (-0.28, 0.5), xycoords="axes fraction", rotation=90, va="center", ha="center", weight="bold")


def _accuracy_legend(figure: Figure, palette: Mapping[str, Any], *more: Line2D) -> None:
    handles = [Line2D([], [], color=colour, label=name) for name, colour in palette.items()]
    handles += [
        Line2D([], [], color="0.3", label="clean"),
        Line2D([], [], color="0.3", dashes=DASHES, label="under attack"),
    ]
    figure.legend(handles=[*handles, *more], loc="outside lower center", ncols=len(handles) + len(more))


def fig2(table: pd.DataFrame, rows: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> Figure:
    """Second-stage accuracy against spawn epoch, one column per parent, and the first-order part's relative size.

    Args:
        table: columns row, panel ("accuracy", "robust_accuracy", "relative_magnitude"), parent, network (one of
            SECOND_STAGE), seed, epoch, value. Values that are not finite are left out of the drawing.
        rows: title and curves (labels of parents) of every row.
        colours: configured colours of networks and parents.

    Source: Loo et al. 2022, Fig. 2.
    """
    style.apply()
    networks = style.palette([name for name in SECOND_STAGE if name in set(table["network"])], colours)
    parents = style.palette([curve["label"] for curve in rows[0]["curves"]], colours)
    columns = len(parents) + 1
    figure, axes = plt.subplots(len(rows), columns, figsize=(3.2 * columns, 2.7 * len(rows) + 0.5), squeeze=False)
    table = table[np.isfinite(table["value"])]
    for i, row in enumerate(rows):
        of_row = table[table["row"] == row["title"]]
        for ax, parent in zip(axes[i], parents, strict=False):
            _accuracies(ax, of_row[of_row["parent"] == parent], networks)
            ax.set_title(f"{parent} parent")
        ax = axes[i, -1]
        part = of_row[of_row["panel"] == "relative_magnitude"]
        sns.lineplot(part, x="epoch", y="value", hue="parent", hue_order=list(parents), palette=parents, ax=ax, **LINES)
        ax.set(yscale="log", ylabel="", title="Relative size of the first-order part")
        ax.legend([Line2D([], [], color=colour) for colour in parents.values()], [f"{p} parent" for p in parents])
        for ax in axes[i]:
            _spawn_axis(ax, table["epoch"].max())
    _row_titles(axes, [row["title"] for row in rows])
    _accuracy_legend(figure, networks)
    style.warn(figure, loo_tables.failed_checks(table))
    return figure


def frozen_kernel(table: pd.DataFrame, rows: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> Figure:
    """Adversarial training on frozen kernels: accuracies against spawn epoch, and which attack they are due to.

    One column per parent with the accuracies of linearized and centered networks and, as horizontal lines, those of
    the baseline parent at its last spawn epoch; then one column with what the first and what all attacks leave of
    networks from the first parent, and the images whose cross-entropy gradient is exactly zero.

    Args:
        table: as for `fig2`, with the panels "first_accuracy" and "zero_gradient" as well.
        rows: title, curves (labels of parents), ``baseline`` (one of them) and ``reference`` (a fraction or None).
        colours: configured colours of networks.

    Source: Loo et al. 2022, section 7 (its topic and headline number; the layout is ours).
    """
    style.apply()
    networks = style.palette([name for name in SECOND_STAGE[1:] if name in set(table["network"])], colours)
    parents = [curve["label"] for curve in rows[0]["curves"]]
    columns = len(parents) + 1
    figure, axes = plt.subplots(len(rows), columns, figsize=(3.2 * columns, 2.7 * len(rows) + 0.6), squeeze=False)
    shown = [table[table["network"] != "standard"]]
    for i, row in enumerate(rows):
        of_row = table[table["row"] == row["title"]]
        standard = of_row[(of_row["parent"] == row["baseline"]) & (of_row["network"] == "standard")]
        shown.append(standard[standard["epoch"] == standard["epoch"].max()])
        baseline = shown[-1].groupby("panel")["value"].mean() * 100
        for ax, parent in zip(axes[i], parents, strict=False):
            _accuracies(ax, of_row[(of_row["parent"] == parent) & (of_row["network"] != "standard")], networks)
            ax.axhline(baseline["accuracy"], color="0.3", linewidth=1)
            if "robust_accuracy" in baseline:  # not where attacks have no gradient to follow
                ax.axhline(baseline["robust_accuracy"], color="0.3", linewidth=1, dashes=DASHES)
            if row["reference"] is not None:
                ax.axhline(100 * row["reference"], color="tab:red", linewidth=1, linestyle=":")
            ax.set_title(f"{parent} parent")
        ax = axes[i, -1]
        control = of_row[(of_row["parent"] == parents[0]) & of_row["panel"].isin(list(CONTROL))]
        sns.lineplot(
            control.assign(value=lambda t: 100 * t["value"]), x="epoch", y="value", hue="network",
            hue_order=list(networks), palette=networks, style="panel", style_order=list(CONTROL),
            dashes=list(CONTROL.values()), ax=ax, **LINES,
        )  # fmt: skip
        ax.set(ylim=(-2, 102), ylabel="", title=f"Attack by attack, {parents[0]} parent")
        names = ("after the first attack", "after all attacks", "zero gradient (images)")
        handles = [Line2D([], [], color="0.3", dashes=dash or (None, None)) for dash in CONTROL.values()]
        ax.legend(handles, names, loc="best")
        for ax in axes[i]:
            _spawn_axis(ax, table["epoch"].max())
    _row_titles(axes, [row["title"] for row in rows])
    more = [Line2D([], [], color="0.3", linewidth=1, label=f"{rows[0]['baseline']} training itself")]
    if any(row["reference"] is not None for row in rows):
        more.append(Line2D([], [], color="tab:red", linewidth=1, linestyle=":", label="stated by the paper"))
    _accuracy_legend(figure, networks, *more)
    style.warn(figure, loo_tables.failed_checks(pd.concat(shown)))
    return figure


def transfer(table: pd.DataFrame) -> Figure:
    """Accuracy of every network (columns) under PGD made on every network (rows), mean over seeds, in per cent.

    The diagonal, outlined, is robust accuracy: what all attacks on the network itself leave.

    Args:
        table: of `loo_tables.transfer`; names read "parent, variant, epoch". Where a source gave attacks no gradient,
            values are not numbers, and cells stay empty.

    Source: our reconstruction of a figure that the authors' code suggests (Loo et al. 2022).
    """
    style.apply()
    names = list(table["source"].unique())
    matrix = table.groupby(["source", "target"])["value"].mean().unstack("target").loc[names, names] * 100
    size = 1.6 + 0.42 * len(names)
    figure, ax = plt.subplots(figsize=(size + 1.2, size))
    sns.heatmap(
        matrix, ax=ax, annot=True, fmt=".0f", cmap="viridis", vmin=0, vmax=100, square=True, linewidths=0.5,
        annot_kws={"size": 7}, cbar_kws={"label": "Accuracy of the target (%)", "shrink": 0.7},
    )  # fmt: skip
    groups = [name.rsplit(", ", 2)[0] for name in names]
    for place in [i for i in range(1, len(groups)) if groups[i] != groups[i - 1]]:
        ax.axhline(place, color="white", linewidth=2.5)
        ax.axvline(place, color="white", linewidth=2.5)
    for place in range(len(names)):
        ax.add_patch(Rectangle((place, place), 1, 1, fill=False, edgecolor="tab:red", linewidth=1.2))
    ax.set(
        xlabel="Target (parent, network, spawn epoch); outlined: robust accuracy of the target",
        ylabel="Source of the PGD attack",
    )
    ax.tick_params(length=0)
    warnings = loo_tables.failed_checks_of_targets(table)
    if masked := " | ".join(table.loc[table["masked"], "target"].unique()):
        warnings.append(f"an attack made elsewhere is stronger than the white-box one: {masked}")
    style.warn(figure, warnings)
    return figure
