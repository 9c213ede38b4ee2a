"""Draw the class-balanced training points at which kernels are evaluated, one set per run seed.

--spec: {"study_seed": ..., "seeds": run seeds, "points": number of points}
The artefact of kind "subset" holds seed<k>/indices (positions in the train part), seed<k>/images, seed<k>/labels.
"""

import _job

from pathlib import Path

from robust_tangents import storage, subsets


def main(options) -> None:
    spec = options.spec
    with storage.read(options.data, "data") as artefact:
        train, checksum = artefact["train"], artefact.checksum
    groups = {}
    for seed in spec["seeds"]:
        chosen = subsets.kernel_points(train["labels"], spec["points"], spec["study_seed"], seed)
        groups[f"seed{seed}"] = {
            "indices": chosen,
            "images": train["images"][chosen],
            "labels": train["labels"][chosen],
        }
    storage.write(options.out, kind="subset", data=groups, spec=spec, inputs={"data": checksum})


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the data artefact to draw from")
    parser.add_argument("--out", type=Path, required=True, help="the artefact to write")
    _job.run(main, parser)
