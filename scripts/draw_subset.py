"""Draw the class-balanced training points at which kernels are evaluated, one set per run seed.

--spec: {"study_seed": ..., "seeds": run seeds, "points": number of points, "first": whether the kernel at
epoch 0 has other points}
The artefact of kind "subset" holds seed<k>/indices (positions in the train part), seed<k>/images, seed<k>/labels, and
the same of other points in seed<k>/first/.
"""

import _job

from pathlib import Path
from typing import Any

import numpy as np

from robust_tangents import storage, subsets


def of(train: dict[str, np.ndarray], chosen: np.ndarray) -> dict[str, Any]:
    return {"indices": chosen, "images": train["images"][chosen], "labels": train["labels"][chosen]}


def main(options) -> None:
    spec = options.spec
    with storage.read(options.data, "data") as artefact:
        train, checksum = artefact["train"], artefact.checksum
    groups = {}
    for seed in spec["seeds"]:
        batches = 2 if spec["first"] else 1
        drawn = subsets.kernel_points(train["labels"], batches * spec["points"], spec["study_seed"], seed)
        # By class, so that of twice the points every other part of a class is the draw of the points alone.
        chosen, *first = np.moveaxis(drawn.reshape(len(np.unique(train["labels"])), batches, -1), 1, 0)
        groups[f"seed{seed}"] = of(train, chosen.ravel())
        if first:
            groups[f"seed{seed}"]["first"] = of(train, first[0].ravel())
    storage.write(options.out, kind="subset", data=groups, spec=spec, inputs={"data": checksum})


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the data artefact to draw from")
    parser.add_argument("--out", type=Path, required=True, help="the artefact to write")
    _job.run(main, parser)
