"""Draw a figure of Loo et al. 2022."""

import _job

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from robust_tangents.figures import loo, loo_eigenvectors, style, tables

Drawn = tuple[Figure, pd.DataFrame]


def fig1(spec: dict) -> Drawn:
    table = tables.kernel_measures(spec["rows"])
    return loo.fig1(table, spec["style"]["colours"], spec["switches"]), table


def fig2(spec: dict) -> Drawn:
    table = tables.second_stages(spec["rows"])
    return loo.fig2(table, spec["rows"], spec["style"]["colours"]), table


def frozen_kernel(spec: dict) -> Drawn:
    table = tables.second_stages(spec["rows"])
    return loo.frozen_kernel(table, spec["rows"], spec["style"]["colours"]), table


def transfer(spec: dict) -> Drawn:
    table = tables.transfer(spec["files"])
    return loo.transfer(table), table


def eigenvectors(spec: dict) -> Drawn:
    table, images, natural, noise = tables.eigenvector_images(spec["files"])
    colours = spec["style"]["colours"]
    return loo_eigenvectors.eigenvector_images(images, table, colours, spec["title"], noise, natural), table


DRAW: dict[str, Callable[[dict], Drawn]] = {
    "loo_fig1": fig1,
    "loo_fig2": fig2,
    "loo_frozen_kernel": frozen_kernel,
    "loo_transfer": transfer,
    "loo_eigenvectors": eigenvectors,
}


def main(options) -> None:
    figure, table = DRAW[options.spec["figure"]](options.spec)
    style.save(figure, table, options.out.with_suffix(""), options.spec["style"]["dpi"])


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="PDF to write; SVG, PNG and CSV go beside it")
    _job.run(main, parser)
