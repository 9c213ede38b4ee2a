"""Measure the kernels along a run: velocity, distance to the last one, effective rank, specialization."""

import _job

from pathlib import Path

import numpy as np

from robust_tangents import kernel_measures, storage


def main(options) -> None:
    spec = options.spec
    result: dict[str, dict] = {}
    checksums = {}
    for seed in spec["seeds"]:
        trace, ranks, specializations = {}, {}, {}
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
    storage.write(options.out, kind="kernel measures", data=result, spec=spec, inputs=checksums)


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--kernels", nargs="+", required=True, help="kernel artefacts along the run, in order")
    parser.add_argument("--out", required=True, help="measures artefact to write")
    _job.run(main, parser)
