"""Measure the kernels along a run: velocity, distance to the last one, effective rank, specialization, spectra."""

import _job

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robust_tangents import kernel_measures, storage


def full_measures(kernels: Sequence[np.ndarray], top: int) -> dict[str, Any]:
    """Distances between full kernels, their path in polar coordinates and in the top eigenspaces."""
    parts = kernel_measures.spectral_parts(kernels, top)
    paths = {}
    for space, gram in (("full", parts.full), ("top", parts.top), ("bottom", parts.bottom)):
        radius, angle = kernel_measures.polar(gram)
        paths[space] = {"radius": radius, "angle": angle}
    return {"distances": 1 - kernel_measures.cosines(parts.full), "polar": paths, "mass": parts.mass}


def main(options) -> None:
    spec = options.spec
    result: dict[str, dict] = {}
    checksums = {}
    for seed in spec["seeds"]:
        trace, ranks, specializations, full = {}, {}, {}, {}
        for path in _job.progress(options.kernels, f"seed {seed}"):
            with storage.read(path, "kernels") as kernels:
                checksums["/".join(Path(path).parts[-3:-1])] = kernels.checksum
                labels = kernels[f"seed{seed}/labels"]
                for epoch in kernels.spec["epochs"]:
                    if spec["until"] is not None and epoch > spec["until"]:
                        continue
                    trace[epoch] = kernels[f"seed{seed}/{epoch:g}/trace"]
                    ranks[epoch] = kernel_measures.effective_rank(trace[epoch])
                    if f"seed{seed}/{epoch:g}/class" in kernels:
                        by_class = kernels[f"seed{seed}/{epoch:g}/class"]
                        specializations[epoch] = kernel_measures.specialization(by_class, labels)
                    if f"seed{seed}/{epoch:g}/full" in kernels:
                        full[epoch] = kernels[f"seed{seed}/{epoch:g}/full"]
        epochs = sorted(trace)
        ordered = [trace[epoch] for epoch in epochs]
        result[f"seed{seed}"] = {
            "epochs": np.array(epochs, np.float64),
            "velocity": kernel_measures.velocity(ordered, epochs),
            "distance_to_final": np.array([kernel_measures.distance(kernel, ordered[-1]) for kernel in ordered]),
            "effective_rank": np.array([ranks[epoch] for epoch in epochs]),
        }
        if specializations:
            result[f"seed{seed}"]["specialization"] = np.array([specializations[epoch] for epoch in epochs])
        if full:
            result[f"seed{seed}"] |= full_measures([full[epoch] for epoch in epochs], spec["top"])
    storage.write(options.out, kind="kernel measures", data=result, spec=spec, inputs=checksums)


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--kernels", nargs="+", required=True, help="kernel artefacts along the run, in order")
    parser.add_argument("--out", required=True, help="measures artefact to write")
    _job.run(main, parser)
