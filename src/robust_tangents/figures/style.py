"""How figures look and how they are saved."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robust_tangents.errors import InputError
from robust_tangents.storage import replacing

mpl.use("agg")

_SETTINGS = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "font.size": 9,
    "svg.hashsalt": "robust-tangents",  # equal numbers give equal files
}


SPREAD = ("pi", 100)
"""Bands: the range from lowest to highest seed, which unlike a standard deviation fits a logarithmic axis."""

LINES: dict[str, Any] = {
    "errorbar": SPREAD,
    "legend": False,
    "marker": "o",
    "markersize": 3.5,
    "markeredgewidth": 0,
}
"""Curves of means over seeds, a point where something was measured."""

DASHES = (3, 1.5)
"""The second kind of line, beside the solid one."""

CELL = 0.95
"""Width in inches of a small image among others."""


def apply() -> None:
    """Use this project's look for all figures drawn from here on."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind", rc=_SETTINGS)


def palette(labels: Sequence[str], colours: Mapping[str, str]) -> dict[str, Any]:
    """Colour of each label: the configured one, else the next of a colour-blind-safe cycle that no other label has.

    Raises:
        InputError: a configured colour is none that Matplotlib knows.
    """
    result = {}
    taken = {mpl.colors.to_hex(colours[label]) for label in labels if mpl.colors.is_color_like(colours.get(label))}
    cycle = sns.color_palette("colorblind", len(labels) + 10).as_hex()
    free = iter([colour for colour in cycle if colour not in taken])
    for label in labels:
        colour = colours[label] if label in colours else next(free)
        if not mpl.colors.is_color_like(colour):
            raise InputError(f"configuration: style.colours.{label}: {colour!r} is no colour; use a name or #rrggbb")
        result[label] = colour
    return result


def warn(figure: Figure, failed: Sequence[str]) -> None:
    """Head a figure with the attack checks that fail, one line each; nothing where all pass."""
    if failed:
        width = int(figure.get_figwidth() * 18)
        lines = [f"Robust accuracies to be read with care: {failed[0]}", *failed[1:]]
        text = "\n".join(textwrap.fill(line, width) for line in lines)
        figure.suptitle(text, color="firebrick", fontsize=7, x=0.01, horizontalalignment="left")


def show_image(ax: Axes, image: np.ndarray, *, signed: bool = False) -> None:
    """An image in [0, 1], without axes; or a signed one, grey where it is zero, scaled by its largest value."""
    if signed:
        image = 0.5 + image / (2 * max(float(np.abs(image).max()), 1e-30))
    ax.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        # A light border, so that bright corners do not run into the page.
        spine.set(visible=True, color="0.7", linewidth=0.6)


def save(figure: Figure, table: pd.DataFrame, stem: Path, dpi: int) -> None:
    """Write ``stem`` with .pdf, .svg, .png and the plotted numbers as .csv; equal figures give equal bytes."""
    writers: dict[str, Any] = {
        "pdf": lambda path: figure.savefig(path, format="pdf", metadata={"CreationDate": None}),
        "svg": lambda path: figure.savefig(path, format="svg", metadata={"Date": None}),
        "png": lambda path: figure.savefig(path, format="png", dpi=dpi, metadata={"Software": None}),
        "csv": lambda path: table.to_csv(path, index=False),
    }
    figure.draw_without_rendering()  # lays out once for all formats
    # With a layout engine in place, even one that does nothing, every format would be drawn twice.
    with mpl.rc_context({"figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)
    # The layout's last digits vary from run to run, and with them identifiers in the SVG.
    for part in figure.subfigs:
        part.bbox_relative.set_points(np.round(part.bbox_relative.get_points(), 6))
    for ax in figure.axes:
        ax.set_position(np.round(ax.get_position(original=True).bounds, 6).tolist())
    for suffix, write in writers.items():
        with replacing(stem.with_name(f"{stem.name}.{suffix}")) as temporary:
            write(temporary)
