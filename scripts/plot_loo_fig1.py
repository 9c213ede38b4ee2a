"""Draw kernel velocity, distance to the final kernel, effective rank and specialization over training."""

import _job

from pathlib import Path

import numpy as np
import pandas as pd

from robust_tangents import storage
from robust_tangents.figures import loo, style


def values(path: str, row: str, run: str) -> list[pd.DataFrame]:
    """Values of one measures artefact as tables with one row per value."""
    tables = []
    with storage.read(path, "kernel measures") as measures:
        for seed in measures.names():
            measured = measures[seed]
            epochs = measured["epochs"]
            panels = {
                "velocity": ((epochs[1:] + epochs[:-1]) / 2, measured["velocity"]),
                "distance_to_final": (epochs, measured["distance_to_final"]),
                "effective_rank": (epochs, measured["effective_rank"]),
            }
            if "specialization" in measured:
                diagonal = np.diagonal(measured["specialization"], axis1=1, axis2=2)
                panels["specialization"] = (epochs, diagonal.mean(axis=1))
            for panel, (x, y) in panels.items():
                seed_number = int(seed.removeprefix("seed"))
                tables.append(
                    pd.DataFrame({"row": row, "panel": panel, "run": run, "seed": seed_number, "epoch": x, "value": y})
                )
    return tables


def main(options) -> None:
    spec = options.spec
    table = pd.concat(
        [
            part
            for row in spec["rows"]
            for curve in row["curves"]
            for path in curve["files"]
            for part in values(path, row["title"], curve["label"])
        ]
    )
    figure = loo.fig1(table, spec["style"]["colours"], spec["switches"])
    style.save(figure, table, options.out.with_suffix(""), spec["style"]["dpi"])


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="PDF to write; SVG, PNG and CSV go beside it")
    _job.run(main, parser)
