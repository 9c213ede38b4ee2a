"""Figures of Tsilivis and Kempe 2022."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robust_tangents.figures import checks, style
from robust_tangents.figures.style import DASHES

SETS = {"all": "all", "robust": "useful and robust", "non-robust": "useful, not robust"}


def fig1(shown: Mapping[str, Any], table: pd.DataFrame, features: Sequence[int], title: str) -> Figure:
    """An image, its perturbation and the attacked image; below, the gradients of features that the first is made of.

    Args:
        shown: ``images``, ``attacked`` (H, W, C), ``gradients`` (n, H, W, C) of all features, ``labels``, ``correct``,
            ``fooled``, ``class_names``.
        table: of `tsilivis_tables.decomposition`.
        features: ranks of the features shown.
        title: of the whole figure.

    Source: Tsilivis & Kempe 2022, Fig. 1.
    """
    style.apply()
    image, moved = shown["images"], shown["attacked"]
    columns = max(3, len(features))
    figure = plt.figure(figsize=(style.CELL * columns + 3.6, 2 * style.CELL + 1.5))
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[style.CELL * columns + 0.3, 3.3])[0]
    axes = left.subplots(2, columns, squeeze=False)
    names, label = shown["class_names"], int(shown["labels"])
    said = {
        True: f"classified\n{names[label]}",
        False: f"classified\n{names[1 - label] if len(names) == 2 else 'wrongly'}",
    }
    style.show_image(axes[0, 0], image)
    axes[0, 0].set_title(said[bool(shown["correct"])], fontsize=8)
    style.show_image(axes[0, 1], moved - image, signed=True)
    axes[0, 1].set_title("+ perturbation\n(magnified)", fontsize=8)
    style.show_image(axes[0, 2], moved)
    axes[0, 2].set_title("= " + said[not shown["fooled"]], fontsize=8)
    for ax in axes[0, 3:]:
        ax.set_axis_off()
    for ax, index in zip(axes[1], features, strict=False):
        style.show_image(ax, shown["gradients"][index], signed=True)
        ax.set_title(f"feature {index + 1}", fontsize=8)
        share = round(100 * table["share"].iloc[index], 1) + 0.0  # no −0.0
        ax.set_xlabel(f"{share} %".replace("-", "−"), fontsize=8)
    for ax in axes[1, len(features) :]:
        ax.set_axis_off()
    ax = right.subplots()
    rank = table["index"] + 1
    ax.plot(rank, table["cumulative"], color="0.2", label="first features together")
    ax.plot(rank, table["cosine"].abs(), ".", color="tab:blue", markersize=3, label="each feature alone, |cosine|")
    ax.set(xscale="log", ylim=(-0.02, 1.02), xlabel="Feature, by eigenvalue", title="Cosine with the whole gradient")
    ax.legend(loc="best")
    figure.suptitle(title)
    return figure


def fig3(shown: Mapping[str, Mapping[str, Any]], table: pd.DataFrame, top: int, title: str) -> Figure:
    """Gradients of the top features of every architecture at one image, and robustness against usefulness of all.

    Args:
        shown: by architecture ``images`` (H, W, C) and ``gradients`` (n, H, W, C) of all features.
        table: columns architecture, index, eigenvalue, usefulness, robustness, majority.
        top: number of features shown.
        title: of the whole figure.

    Source: Tsilivis & Kempe 2022, Fig. 3 (its left and right part; the layout is ours).
    """
    style.apply()
    architectures = list(shown)
    rows = len(architectures)
    below = -(-rows // 2)
    height = max(style.CELL * rows + 0.6, 2.1 * below)
    figure = plt.figure(figsize=(style.CELL * (top + 1) + 5.4, height))
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[style.CELL * (top + 1) + 0.4, 5])[0]
    axes = left.subplots(rows, top + 1, squeeze=False)
    for i, name in enumerate(architectures):
        style.show_image(axes[i, 0], shown[name]["images"])
        axes[i, 0].set_ylabel(name, weight="bold")
        for j in range(top):
            style.show_image(axes[i, j + 1], shown[name]["gradients"][j], signed=True)
            if i == 0:
                axes[i, j + 1].set_title(f"feature {j + 1}", fontsize=8)
    scatters = right.subplots(below, 2, squeeze=False, sharex=True, sharey=True)
    norm = LogNorm(table["eigenvalue"].min(), 1)
    for ax, name in zip(scatters.flat, architectures, strict=False):
        part = table[(table["architecture"] == name) & table["robustness"].notna()][::-1]
        majority = part["majority"].iloc[0]
        ax.axhspan(majority, 1, color="0.93", zorder=0)
        drawn = ax.scatter(
            part["robustness"], part["usefulness"], c=part["eigenvalue"], norm=norm, cmap="viridis_r",
            s=8 + 90 * part["eigenvalue"] ** 0.5, linewidths=0.3, edgecolors="white",
        )  # fmt: skip
        ax.set_title(name)
        ax.set(xlim=(-0.04, 1.04), ylim=(0.2, 1.04))
    for ax in scatters.flat[rows:]:
        ax.set_axis_off()
    for ax in scatters.flat[max(0, rows - 2) : rows]:  # the lowest of each column
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("Robustness")
    for ax in scatters[:, 0]:
        ax.set_ylabel("Usefulness")
    right.colorbar(drawn, ax=scatters, label="Eigenvalue, share of the largest", shrink=0.8)
    figure.suptitle(title)
    return figure


def _binned(part: pd.DataFrame, value: str) -> pd.DataFrame:
    """Means over bins of equal length on the logarithm of the rank, of features for which the value is known."""
    part = part[part[value].notna()]
    edges = np.unique(np.round(np.geomspace(1, part["index"].max() + 2, 12)).astype(int))
    bins = np.digitize(part["index"] + 1, edges)
    return part.assign(rank=part["index"] + 1).groupby(bins)[["rank", value]].mean()


def fig4(table: pd.DataFrame, agreement: pd.DataFrame, chance: float, colours: Mapping[str, str], title: str) -> Figure:
    """Robustness and usefulness along the spectrum, and how alike the gradients of top features are.

    Args:
        table: as for `fig3`.
        agreement: columns first, second, index, value (mean absolute cosine).
        chance: its value for random directions.
        colours: configured colours of architectures.
        title: of the whole figure.

    Source: our reconstruction of Tsilivis & Kempe 2022, section 4.
    """
    style.apply()
    architectures = list(table["architecture"].unique())
    palette = style.palette(architectures, colours)
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.1), width_ratios=[1, 1, 1.1])
    for ax, value in zip(axes, ("robustness", "usefulness"), strict=False):
        for name in architectures:
            part = _binned(table[table["architecture"] == name], value)
            ax.plot(part["rank"], part[value], "o-", color=palette[name], markersize=3.5, markeredgewidth=0, label=name)
        ax.axhline(table["majority"].iloc[0], color="0.5", linestyle=":", linewidth=1, zorder=0)
        ax.set(xscale="log", ylim=(-0.02, 1.02), xlabel="Feature, by eigenvalue", title=value.capitalize())
    axes[0].legend()
    matrix = agreement.groupby(["first", "second"])["value"].mean().unstack("second").loc[architectures, architectures]
    sns.heatmap(
        matrix, ax=axes[2], annot=True, fmt=".2f", cmap="viridis", vmin=0, vmax=1, square=True,
        annot_kws={"size": 7}, cbar_kws={"shrink": 0.8},
    )  # fmt: skip
    axes[2].set(xlabel="", ylabel="", title=f"Mean |cosine| of top {agreement['index'].max() + 1} features")
    axes[2].set_xlabel(f"(random directions: {chance:.2f})")
    axes[2].tick_params(axis="x", rotation=45)
    axes[2].tick_params(axis="y", rotation=0)
    figure.suptitle(title)
    return figure


def fig5(table: pd.DataFrame, attacks: Sequence[str], title: str) -> Figure:
    """Accuracy of predictors made of some features against the robustness from which a feature counts as robust.

    One row per architecture: clean, then under every attack, then robust (under the last attack) against clean
    accuracy.

    Args:
        table: columns architecture, set (keys of SETS), threshold, attack ("" for none), value.
        attacks: names of the attacks.
        title: of the whole figure.

    Source: our reconstruction of Tsilivis & Kempe 2022, section 4.
    """
    style.apply()
    architectures = list(table["architecture"].unique())
    palette = dict(zip(SETS, ("0.35", *sns.color_palette("colorblind")[:2]), strict=True))
    headings = {"": "clean images", **{attack: f"under {attack.replace('_', ' ')}" for attack in attacks}}
    columns = len(headings) + 1
    figure, axes = plt.subplots(
        len(architectures), columns, figsize=(2.5 * columns, 2.3 * len(architectures) + 0.6), squeeze=False
    )
    for i, name in enumerate(architectures):
        of_name = table[table["architecture"] == name]
        for ax, attack in zip(axes[i], headings, strict=False):
            for members, colour in palette.items():
                part = of_name[(of_name["set"] == members) & (of_name["attack"] == attack) & (of_name["size"] > 0)]
                ax.plot(part["threshold"], 100 * part["value"], "o-", color=colour, markersize=3, markeredgewidth=0)
            ax.set(ylim=(-2, 102))
            if i == 0:
                ax.set_title(headings[attack].capitalize())
            if i == len(architectures) - 1:
                ax.set_xlabel("Threshold of robustness")
        axes[i, 0].set_ylabel(f"{name}: accuracy (%)")
        ax = axes[i, -1]
        for members, colour in palette.items():
            part = of_name[(of_name["set"] == members) & (of_name["size"] > 0)]
            points = part.pivot(index="threshold", columns="attack", values="value") * 100
            ax.plot(points[""], points[attacks[-1]], "o-", color=colour, markersize=3, markeredgewidth=0)
        ax.set(xlim=(-2, 102), ylim=(-2, 102))
        if i == 0:
            ax.set_title("Trade-off")
        if i == len(architectures) - 1:
            ax.set_xlabel("Clean accuracy (%)")
        ax.set_ylabel(f"Accuracy {headings[attacks[-1]]} (%)")
    handles = [Line2D([], [], color=palette[key], marker="o", markersize=3, label=text) for key, text in SETS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), title="Features")
    figure.suptitle(title)
    return figure


SPACES = {"full": "whole kernel", "top": "top {k}", "bottom": "the rest"}


def fig6(
    dynamics: Sequence[Mapping[str, Any]],
    settled: Mapping[str, Sequence[float]],
    colours: Mapping[str, str],
    title: str,
) -> Figure:
    """Kernel distances between all epochs, and the kernel's path in polar coordinates; one row per run, first seed.

    The path is that of the whole kernel, of its own top eigenspace and of the rest: the radius is the distance from
    the first kernel relative to the last one's, the angle that with the first kernel.

    Args:
        dynamics: one entry per run: run, ``epochs``, ``distances``, ``polar``, ``mass``.
        settled: by run, of all seeds, the epoch from which on the kernel stays near its final state.
        colours: configured colours of runs.
        title: of the whole figure.

    Source: Tsilivis & Kempe 2022, Fig. 6.
    """
    style.apply()
    palette = style.palette([entry["run"] for entry in dynamics], colours)
    rows = len(dynamics)
    figure = plt.figure(figsize=(11.5, 2.7 * rows + 0.3))
    grid = figure.add_gridspec(rows, 4, width_ratios=[1.15, 1, 1, 1])
    largest = max(float(entry["distances"].max()) for entry in dynamics)
    widest = {space: max(float(entry["polar"][space]["angle"].max()) for entry in dynamics) for space in SPACES}
    last = max(float(entry["epochs"][-1]) for entry in dynamics)
    for i, entry in enumerate(dynamics):
        ax = figure.add_subplot(grid[i, 0])
        epochs = entry["epochs"]
        # Checkpoints may lie unevenly: every one fills the space up to the middle to its neighbours.
        edges = np.concatenate([[epochs[0]], (epochs[1:] + epochs[:-1]) / 2, [epochs[-1]]])
        drawn = ax.pcolormesh(edges, edges, entry["distances"], cmap="viridis", vmin=0, vmax=largest, rasterized=True)
        ax.set(aspect="equal", xlabel="Epoch" if i == rows - 1 else "", ylabel="Epoch")
        ax.grid(False)
        ax.set_title(f"{entry['run']}: settled at epoch {np.mean(settled[entry['run']]):.3g}")
        ax.title.set_color(palette[entry["run"]])
        figure.colorbar(drawn, ax=ax, label="Kernel distance")
        for j, (space, name) in enumerate(SPACES.items(), start=1):
            ax = figure.add_subplot(grid[i, j], projection="polar")
            path = entry["polar"][space]
            ax.plot(path["angle"], path["radius"], color="0.75", linewidth=0.8, zorder=1)
            points = ax.scatter(
                path["angle"], path["radius"], c=epochs, cmap="plasma", s=12, vmin=0, vmax=last, zorder=2
            )
            ax.set(thetamin=0, thetamax=min(180, np.degrees(widest[space]) * 1.08), ylim=(0, None))
            ax.tick_params(labelsize=7)
            if i == 0:
                ax.set_title(name.format(k=entry["mass"].shape[1]))
        figure.colorbar(points, ax=ax, label="Epoch", shrink=0.8)
    figure.suptitle(title)
    return figure


def fig7(table: pd.DataFrame, colours: Mapping[str, str], names: Mapping[str, str], title: str) -> Figure:
    """Share of the squared eigenvalues that lies in the top eigenspace, over training; mean and range over seeds.

    Args:
        table: columns row, run, seed, epoch, top, value.
        colours: configured colours of runs.
        names: title of every row's panel.
        title: of the whole figure.

    Source: Tsilivis & Kempe 2022, Fig. 7.
    """
    style.apply()
    table = table[table["top"] == table["top"].max()]
    rows, runs = list(table["row"].unique()), list(table["run"].unique())
    palette = style.palette(runs, colours)
    figure, axes = plt.subplots(1, len(rows), figsize=(3.6 * len(rows) + 0.4, 3.1), squeeze=False, sharey=True)
    for ax, row in zip(axes[0], rows, strict=True):
        part = table[table["row"] == row].assign(value=lambda t: 100 * t["value"])
        sns.lineplot(
            part, x="epoch", y="value", hue="run", hue_order=runs, palette=palette, ax=ax,
            errorbar=style.SPREAD, marker="o", markersize=3.5, markeredgewidth=0, legend=False,
        )  # fmt: skip
        ax.set(xlabel="Epoch", ylabel=f"Mass in the top {table['top'].max()} (%)", title=names[row])
    handles = [Line2D([], [], color=palette[run], marker="o", markersize=3.5, label=run) for run in runs]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.suptitle(title)
    return figure


def fig8(table: pd.DataFrame, names: Mapping[str, str], title: str) -> Figure:
    """Clean and robust test accuracy of an adversarial run, and of its linearization trained on from some epochs.

    Args:
        table: columns row, curve ("parent" or the epoch of linearization), seed, epoch, panel (accuracy,
            robust_accuracy, `checks.RECORDED`), value.
        names: of the rows.
        title: of the panels, in front of their row's name.

    Source: Tsilivis & Kempe 2022, Fig. 8 (the epochs are ours).
    """
    style.apply()
    rows = list(table["row"].unique())
    accuracies = table[table["panel"].isin(["accuracy", "robust_accuracy"])]
    begins = [curve for curve in table["curve"].unique() if curve != "parent"]
    palette = {"parent": "0.2", **dict(zip(begins, sns.color_palette("viridis", len(begins) + 1), strict=False))}
    figure, axes = plt.subplots(1, len(rows), figsize=(3.8 * len(rows) + 0.4, 3.4), squeeze=False, sharey=True)
    for ax, row in zip(axes[0], rows, strict=True):
        part = accuracies[accuracies["row"] == row].assign(value=lambda t: 100 * t["value"])
        sns.lineplot(
            part, x="epoch", y="value", hue="curve", palette=palette, style="panel",
            style_order=["accuracy", "robust_accuracy"], dashes=["", DASHES], errorbar=style.SPREAD, legend=False,
            marker="o", markersize=3.5, markeredgewidth=0, ax=ax,
        )  # fmt: skip
        ax.set(xlabel="Epoch", ylabel="Test accuracy (%)", ylim=(-2, 102), title=f"{title}, {names[row]}")
    labels = {"parent": "network", **{begin: f"linearized at epoch {begin}" for begin in begins}}
    handles = [Line2D([], [], color=palette[curve], label=label) for curve, label in labels.items()]
    handles += [
        Line2D([], [], color="0.3", label="clean"),
        Line2D([], [], color="0.3", dashes=DASHES, label="under attack"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    once = table[(table["curve"] != "parent") | (table["row"] == rows[0])]  # the parent is the same in all rows

    def place(row: str, curve: str) -> str:
        return labels[curve] if curve == "parent" else f"{names[row]}, {labels[curve]},"

    style.warn(figure, checks.failed(once, ["row", "curve"], place))
    return figure


BASELINES: dict[str, Any] = {"clean": "-", "random": "--", "own": ":"}


def eigenattacks(table: pd.DataFrame, colours: Mapping[str, str], title: str) -> Figure:
    """Accuracy of trained networks, one panel each, under one-step attacks on single features of kernels.

    Args:
        table: columns target, source, index, seed, value; sources of BASELINES have no index.
        colours: configured colours of kernels.
        title: of the whole figure.

    Source: our reconstruction, after Tsilivis & Kempe 2022.
    """
    style.apply()
    targets = list(table["target"].unique())
    kernels = [source for source in table["source"].unique() if source not in BASELINES]
    palette = style.palette(kernels, colours)
    figure, axes = plt.subplots(1, len(targets), figsize=(3.8 * len(targets) + 0.4, 3.5), squeeze=False, sharey=True)
    for ax, target in zip(axes[0], targets, strict=True):
        part = table[table["target"] == target].assign(value=lambda t: 100 * t["value"], rank=lambda t: t["index"] + 1)
        of_kernels = part[part["source"].isin(kernels)]
        sns.lineplot(
            of_kernels[of_kernels["rank"] < of_kernels["rank"].max()],
            x="rank", y="value", hue="source", hue_order=kernels, palette=palette,
            errorbar=style.SPREAD, legend=False, marker="o", markersize=3.5, markeredgewidth=0, ax=ax,
        )  # fmt: skip
        together = of_kernels["rank"].max()
        for kernel in kernels:
            alone = of_kernels[(of_kernels["source"] == kernel) & (of_kernels["rank"] == together)]["value"]
            ax.plot(1.7 * together, alone.mean(), "*", color=palette[kernel], markersize=9)
        for source, look in BASELINES.items():
            ax.axhline(part.loc[part["source"] == source, "value"].mean(), color="0.4", linestyle=look, linewidth=1)
        ax.set(xscale="log", ylim=(-2, 102), xlabel="Feature, by eigenvalue", ylabel="Test accuracy (%)")
        ax.set_title(f"{target} network")
    handles = [Line2D([], [], color=palette[kernel], marker="o", label=f"{kernel} kernel") for kernel in kernels]
    names = {"clean": "clean images", "random": "random signs", "own": "attack on the network itself"}
    handles += [Line2D([], [], color="0.4", linestyle=look, label=names[key]) for key, look in BASELINES.items()]
    handles.append(Line2D([], [], color="0.4", marker="*", linestyle="", label="all these features together"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    figure.suptitle(title)
    return figure


TRANSFER = {"clean": "clean images", "own": "attack on the network", "kernel": "attack on the kernel alone"}


def fig2(table: pd.DataFrame, title: str) -> Figure:
    """Accuracy of networks of growing width over training, clean and under attacks, and cosine of input gradients.

    One panel per width; black lines are the kernel's predictor, clean and under the attack on itself. In the last panel
    the mean cosine of the input gradients of network and predictor, one curve per width.

    Args:
        table: columns width (0 for the predictor), seed, steps, panel (keys of TRANSFER, or cosine), value.
        title: of the whole figure.

    Source: our reconstruction of Tsilivis & Kempe 2022, section 3.
    """
    style.apply()
    widths = [width for width in table["width"].unique() if width]
    colours = dict(zip(TRANSFER, sns.color_palette("colorblind")[:3], strict=True))
    figure, axes = plt.subplots(1, len(widths) + 1, figsize=(2.6 * (len(widths) + 1), 3.1))
    look: dict[str, Any] = {
        "errorbar": style.SPREAD, "legend": False, "marker": "o", "markersize": 3.5, "markeredgewidth": 0,
    }  # fmt: skip
    predictor = table[table["width"] == 0]
    for ax, width in zip(axes, widths, strict=False):
        part = table[(table["width"] == width) & table["panel"].isin(list(TRANSFER))]
        for panel, dashes in (("clean", (None, None)), ("own", DASHES)):
            of_panel = predictor[predictor["panel"] == panel]
            ax.plot(of_panel["steps"], 100 * of_panel["value"], color="0.2", linewidth=1, dashes=dashes)
        sns.lineplot(
            part.assign(value=lambda t: 100 * t["value"]), x="steps", y="value", hue="panel",
            hue_order=list(TRANSFER), palette=colours, ax=ax, **look,
        )  # fmt: skip
        ax.set(xscale="log", ylim=(-2, 102), xlabel="Steps", title=f"width {width}")
        ax.set_ylabel("Test accuracy (%)" if width == widths[0] else "")
    shades = dict(zip(widths, sns.color_palette("viridis", len(widths)), strict=True))
    cosines = table[table["panel"] == "cosine"]
    sns.lineplot(cosines, x="steps", y="value", hue="width", palette=shades, ax=axes[-1], **look)
    axes[-1].set(xscale="log", ylim=(-0.02, 1.02), xlabel="Steps", ylabel="", title="Cosine of input gradients")
    lines = [Line2D([], [], color=shades[width], label=f"width {width}") for width in widths]
    axes[-1].legend(handles=lines, loc="best")
    handles = [Line2D([], [], color=colours[panel], marker="o", label=text) for panel, text in TRANSFER.items()]
    handles.append(Line2D([], [], color="0.2", linewidth=1, label="kernel's predictor"))
    handles.append(Line2D([], [], color="0.2", linewidth=1, dashes=DASHES, label="under the attack on itself"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.suptitle(title)
    return figure
