"""What the scripts of figures share: their command line, and drawing and saving one figure."""

import _job

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from robust_tangents.figures import style

Spec = Mapping[str, Any]


def run(
    description: str | None,
    tables: Mapping[str, Callable[[Spec], pd.DataFrame]],
    drawings: Mapping[str, Callable[[pd.DataFrame, Spec], Figure]],
) -> None:
    """Read a figure's table, draw it, and save both; ``tables`` and ``drawings`` are by kind of figure."""

    def main(options) -> None:
        spec = options.spec
        table = tables[spec["figure"]](spec)
        figure = drawings[spec["figure"]](table, spec)
        style.save(figure, table, options.out.with_suffix(""), spec["style"]["dpi"])

    parser = _job.parser(description)
    parser.add_argument("--out", type=Path, required=True, help="PDF to write; SVG, PNG and CSV go beside it")
    _job.run(main, parser)
