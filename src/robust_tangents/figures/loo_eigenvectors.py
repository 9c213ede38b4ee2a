"""Figure of images that point along kernel eigenvectors, after Loo et al. 2022."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robust_tangents.figures import style


def _heading(direction: str) -> str:
    if direction == "w":
        return "Regression\nweights"
    number, sign = direction[:-1], direction[-1]
    return f"Eigenvector {number}\n{'−' if sign == '-' else '+'}"


def _smoothness(ax: Axes, table: pd.DataFrame, colours: Mapping[str, str], white_noise: float, natural: float) -> None:
    """Share of every image as a point, and mean and range over seeds of a network's mean over directions."""
    networks = list(table["network"].unique())
    chosen = style.palette(networks, colours)
    for i, network in enumerate(networks):
        part = table[table["network"] == network]
        means = part.groupby("seed")["low_frequency_share"].mean()
        names = list(part["direction"].unique())
        place = dict(zip(names, np.linspace(0.1, 0.4, len(names)), strict=True))
        ax.plot(
            part["low_frequency_share"], i + part["direction"].map(place), "o",
            color=chosen[network], alpha=0.45, markersize=3, markeredgewidth=0,
        )  # fmt: skip
        ax.errorbar(
            means.mean(), i - 0.12, xerr=[[means.mean() - means.min()], [means.max() - means.mean()]],
            fmt="D", color=chosen[network], markersize=6, linewidth=2, capsize=3,
        )  # fmt: skip
        ax.annotate(
            f"{means.mean():.2f}",
            (means.mean(), i - 0.12),
            (0, 7),
            textcoords="offset points",
            ha="center",
            va="bottom",
            bbox={"color": "white", "pad": 0.5},
        )
    ax.axvline(white_noise, color="0.4", linestyle=":", linewidth=1, zorder=0)
    ax.axvline(natural, color="0.4", linestyle="--", linewidth=1, zorder=0)
    ax.set(xlim=(-0.02, 1.02), ylim=(len(networks) - 0.5, -0.5), xlabel="Low-frequency share")
    ax.set_yticks(range(len(networks)), networks)
    ax.set_title("Smoothness of all images")
    ax.grid(False, axis="y")


_LEGEND: dict[str, dict[str, Any]] = {
    "one image": {"marker": "o", "alpha": 0.45, "markersize": 3, "markeredgewidth": 0, "linestyle": ""},
    "mean of a network, range over seeds": {"marker": "D", "markersize": 5, "linewidth": 2},
    "white noise": {"linestyle": ":", "linewidth": 1},
    "training images of the class": {"linestyle": "--", "linewidth": 1},
}


def eigenvector_images(
    images: Mapping[str, Mapping[str, np.ndarray]],
    table: pd.DataFrame,
    colours: Mapping[str, str],
    title: str,
    white_noise: float,
    natural: float,
) -> Figure:
    """Images along kernel eigenvectors: one row per network, one column per direction, all on the scale [0, 1].

    Under each image the cosine reached and the low-frequency share. On the right the share of the images of all
    seeds, with mean and range over seeds of each network's mean over its directions.

    Args:
        images: by network and direction ("1+", "1-", …, "w"), each (H, W, channels) in [0, 1]; those of the first
            seed in ``table``.
        table: columns seed, network, direction, cosine, low_frequency_share.
        colours: configured colours of networks.
        title: of the whole figure.
        white_noise: expected share of white noise, a reference.
        natural: mean share of training images of the class, a reference.

    Source: Loo et al. 2022, visualisation of kernel eigenvectors; the smoothness is added.
    """
    style.apply()
    networks, directions = list(images), list(next(iter(images.values())))
    shown = table[table["seed"] == table["seed"].iloc[0]].set_index(["network", "direction"])
    rows, columns = len(networks), len(directions)
    figure = plt.figure(figsize=(style.CELL * columns + 3.6, (style.CELL + 0.36) * rows + 0.5))
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[style.CELL * columns + 0.3, 3.3])[0]
    axes = left.subplots(rows, columns, squeeze=False)
    for i, network in enumerate(networks):
        for ax, direction in zip(axes[i], directions, strict=True):
            style.show_image(ax, np.asarray(images[network][direction]))
            value = shown.loc[(network, direction)]
            caption = f"cos {value['cosine']:.2f}\nlow {value['low_frequency_share']:.2f}"
            ax.set_xlabel(caption.replace("-", "−"), fontsize=7.5)
            if i == 0:
                ax.set_title(_heading(direction), fontsize=8)
        axes[i, 0].set_ylabel(network, weight="bold")
    _smoothness(right.subplots(), table, colours, white_noise, natural)
    handles = [Line2D([], [], color="0.4", label=label, **look) for label, look in _LEGEND.items()]
    right.legend(handles=handles, loc="outside lower center", ncols=1)
    figure.suptitle(title)
    return figure
