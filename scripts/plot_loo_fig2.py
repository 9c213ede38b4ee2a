"""Draw second-stage accuracies against spawn epoch, and the relative size of the first-order part."""

import _job

from pathlib import Path

import pandas as pd

from robust_tangents import storage
from robust_tangents.figures import loo, style


def values(path: str, row: str, parent: str) -> list[pd.DataFrame]:
    """Values of one stage-2 artefact as tables with one row per value."""
    tables = []
    with storage.read(path, "stage 2") as stage2:
        for seed in stage2.names():
            result = stage2[seed]
            for network in loo.SECOND_STAGE:
                for panel in ("accuracy", "robust_accuracy", "relative_magnitude"):
                    if panel in result.get(network, {}):
                        tables.append(
                            pd.DataFrame(
                                {
                                    "row": row,
                                    "panel": panel,
                                    "parent": parent,
                                    "network": network,
                                    "seed": int(seed.removeprefix("seed")),
                                    "epoch": result["spawn_epochs"],
                                    "value": result[network][panel],
                                }
                            )
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
    style.save(loo.fig2(table, spec["style"]["colours"]), table, options.out.with_suffix(""), spec["style"]["dpi"])


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="PDF to write; SVG, PNG and CSV go beside it")
    _job.run(main, parser)
