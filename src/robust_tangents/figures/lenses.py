"""The figure of all three papers."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robust_tangents.figures import checks, style
from robust_tangents.figures.style import DASHES, LINES

PANELS = {
    "accuracy": "Test accuracy, clean and robust (%)",
    "velocity": "Loo et al.: kernel velocity (per epoch)",
    "distance_to_final": "Loo et al.: distance to the final kernel",
    "effective_rank": "Loo et al.: effective rank",
    "mass": "Tsilivis & Kempe: top eigenvalues' mass (%)",
    "features": "Tsilivis & Kempe: top features (%)",
    "nc1": "Su et al.: NC1",
    "angle": "Su et al.: attacked class means turned (rad)",
}
IN_PER_CENT = ("accuracy", "mass", "features")


def three_lenses(
    table: pd.DataFrame, colours: Mapping[str, str], switches: Sequence[float], title: str, chance: float
) -> Figure:
    """Runs through the measures of all three papers on one axis of time; mean and range over seeds.

    Args:
        table: columns panel (keys of PANELS), condition (clean, perturbed, or empty), run, seed, epoch, value.
        colours: configured colours of runs.
        switches: epochs at which a run branches off another, marked.
        title: of the whole figure.
        chance: accuracy of guessing, a fraction.
    """
    style.apply()
    runs = list(table["run"].unique())
    chosen = style.palette(runs, colours)
    figure, axes = plt.subplots(2, 4, figsize=(13, 5.2), sharex=True)
    for ax, (panel, name) in zip(axes.flat, PANELS.items(), strict=True):
        part = table[table["panel"] == panel]
        part = part.assign(value=part["value"] * (100 if panel in IN_PER_CENT else 1))
        # What has no clean and attacked version is drawn as one solid line.
        part = part.assign(condition=part["condition"].where((part["condition"] != "") & (panel != "angle"), "clean"))
        sns.lineplot(
            part, x="epoch", y="value", hue="run", hue_order=runs, palette=chosen, ax=ax, style="condition",
            style_order=["clean", "perturbed"], dashes=["", DASHES], **LINES | {"marker": None, "markers": ["o", "o"]},
        )  # fmt: skip
        for switch in switches:
            ax.axvline(switch, color="0.75", linewidth=1, zorder=0)
        if panel in ("velocity", "nc1"):
            ax.set_yscale("log")
        if panel in ("accuracy", "features"):
            ax.axhline(100 * chance, color="0.5", linestyle=":", linewidth=1, zorder=0)
            ax.set_ylim(-2, 102)
        if panel == "angle":
            ax.set_ylim(bottom=0)
        ax.set(xlabel="", ylabel="", title=name)
    last = table["epoch"].max()
    for ax in axes[1]:
        # Most happens early: from the first epoch on the axis is logarithmic.
        ax.set_xscale("symlog", linthresh=1, linscale=0.5)
        ticks = [tick for tick in (0, 1, 2, 5, 10, 20, 50, 100, 200, 400) if tick <= last]
        ax.set_xticks(ticks, list(map(str, ticks)))
        ax.minorticks_off()
        ax.set_xlim(-0.1, last * 1.05)
        ax.set_xlabel("Epoch")
    handles = [Line2D([], [], color=chosen[run], marker="o", markersize=3.5, label=f"{run} training") for run in runs]
    handles += [
        Line2D([], [], color="0.3", label="clean images"),
        Line2D([], [], color="0.3", dashes=DASHES, label="under attack"),
        Line2D([], [], color="0.5", linestyle=":", linewidth=1, label="guessing"),
    ]
    if switches:
        handles.append(Line2D([], [], color="0.75", linewidth=1, label="settings change"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.suptitle(title)
    style.warn(figure, checks.failed(table, ["run"], lambda run: f"{run} training"))
    return figure
