"""Read a data set from its source, draw the wanted part of it, and write it as an artefact of kind "data".

--spec: {"name": ..., "seed": study seed, "dataset": one entry of "data" in the configuration}
"""

import _job

from pathlib import Path

from robust_tangents import datasets, storage


def main(options) -> None:
    spec = options.spec
    data = datasets.load(spec["dataset"], spec["seed"], key=f"data.{spec['name']}")
    _job.log.info("%d training and %d test images", len(data.train_labels), len(data.test_labels))
    parts = {
        "train": {"images": data.train_images, "labels": data.train_labels, "indices": data.train_indices},
        "test": {"images": data.test_images, "labels": data.test_labels, "indices": data.test_indices},
        "class_names": data.class_names,
    }
    storage.write(options.out, kind="data", data=parts, spec=spec)


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the artefact to write")
    _job.run(main, parser)
