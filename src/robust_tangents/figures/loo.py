"""Figures of Loo et al. 2022 from long tables of numbers (one row per value)."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robust_tangents.figures import style

KERNEL_PANELS = {
    "velocity": "Kernel velocity dS/dt (per epoch)",
    "distance_to_final": "Distance S to the final kernel",
    "effective_rank": "Effective rank",
    "specialization": "Mean kernel specialization",
}
LINES: dict[str, Any] = {
    "errorbar": style.SPREAD,
    "legend": False,
    "marker": "o",
    "markersize": 3.5,
    "markeredgewidth": 0,
}
SECOND_STAGE = ("standard", "linearized", "centered")


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


def fig2(table: pd.DataFrame, colours: Mapping[str, str]) -> Figure:
    """Second-stage accuracy against spawn epoch, one column per parent, and the first-order part's relative size.

    Args:
        table: columns row, panel ("accuracy", "robust_accuracy", "relative_magnitude"), parent, network (one of
            SECOND_STAGE), seed, epoch, value. Values that are not finite are left out of the drawing.
        colours: configured colours of networks and parents.

    Source: Loo et al. 2022, Fig. 2.
    """
    style.apply()
    rows, parents = list(table["row"].unique()), list(table["parent"].unique())
    networks = [name for name in SECOND_STAGE if name in set(table["network"])]
    by_network, by_parent = style.palette(networks, colours), style.palette(parents, colours)
    columns = len(parents) + 1
    figure, axes = plt.subplots(len(rows), columns, figsize=(3.2 * columns, 2.7 * len(rows) + 0.5), squeeze=False)
    table = table[np.isfinite(table["value"])]
    for i, row in enumerate(rows):
        for j, parent in enumerate(parents):
            ax = axes[i, j]
            part = table[(table["row"] == row) & (table["parent"] == parent)]
            part = part[part["panel"].isin(["accuracy", "robust_accuracy"])].assign(value=lambda t: 100 * t["value"])
            sns.lineplot(
                part, x="epoch", y="value", hue="network", hue_order=networks, palette=by_network, ax=ax,
                style="panel", style_order=["accuracy", "robust_accuracy"], dashes=["", (3, 1.5)], **LINES,
            )  # fmt: skip
            ax.set(ylim=(-2, 102), xlabel="", ylabel="Test accuracy (%)" if j == 0 else "", title=f"{parent} parent")
        ax = axes[i, -1]
        part = table[(table["row"] == row) & (table["panel"] == "relative_magnitude")]
        sns.lineplot(part, x="epoch", y="value", hue="parent", hue_order=parents, palette=by_parent, ax=ax, **LINES)
        ax.set(yscale="log", xlabel="", ylabel="", title="Relative size of the first-order part")
        ax.legend([Line2D([], [], color=by_parent[parent]) for parent in parents], [f"{p} parent" for p in parents])
        for ax in axes[i]:
            ax.set_xscale("symlog", linthresh=1, linscale=0.5)
            ax.set_xlim(left=-0.1)
            ticks = [tick for tick in (0, 1, 2, 5, 10, 20, 50, 100) if tick <= table["epoch"].max()]
            ax.set_xticks(ticks, map(str, ticks))
            ax.minorticks_off()
        axes[i, 0].annotate(
            row, (-0.28, 0.5), xycoords="axes fraction", rotation=90, va="center", ha="center", weight="bold"
        )
    for ax in axes[-1]:
        ax.set_xlabel("Spawn epoch of the second stage")
    handles = [Line2D([], [], color=by_network[name], label=name) for name in networks]
    handles += [
        Line2D([], [], color="0.3", label="clean"),
        Line2D([], [], color="0.3", dashes=(3, 1.5), label="under attack"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure
