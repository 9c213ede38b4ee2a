"""Make images whose tangent feature points along the eigenvectors of a class kernel, for several networks."""

import _job

from contextlib import ExitStack
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import _network
from robust_tangents import checkpoints, eigenvectors, storage
from robust_tangents.errors import InputError
from robust_tangents.training import as_float


def visualise(spec: dict, segment, kernels, seed: int, epoch: float, points: np.ndarray, labels: np.ndarray) -> dict:
    """Images of one network: those of every direction, the cosines reached, eigenvalues and smoothness."""
    c = spec["class"]
    class_kernels = kernels[f"seed{seed}/{epoch:g}/class"]
    if c >= len(class_kernels):
        raise InputError(f"configuration: class: {c} is beyond the last class, {len(class_kernels) - 1}")
    if not np.array_equal(labels, kernels[f"seed{seed}/labels"]):
        raise InputError(f"{kernels.path}: is not of the points of the subset")
    network = _network.build(spec["model"], len(class_kernels), points.shape[1:])
    state = checkpoints.load(segment, seed, epoch)
    _, rows, signs = eigenvectors.panels(spec["eigenvectors"])
    eigenvalues, weights = eigenvectors.point_weights(class_kernels[c], labels, c, spec["eigenvectors"])
    vectors = eigenvectors.directions(network, *state, jnp.asarray(points), c, weights)
    images, cosines, trajectory = eigenvectors.maximise_cosine(
        network,
        *state,
        c,
        jax.tree.map(lambda leaf: leaf[rows], vectors),
        signs,
        jnp.full(points.shape[1:], 0.5),
        spec["steps"],
        spec["step_size"],
    )
    return {
        "images": images,
        "cosines": cosines,
        "trajectory": trajectory,
        "eigenvalues": eigenvalues,
        "low_frequency_share": eigenvectors.low_frequency_share(np.asarray(images)),
    }


def main(options) -> None:
    spec, inputs = options.spec, {}
    result: dict[str, Any] = {}
    # The library works at this precision anyway; set here as well, it is recorded in the artefact.
    jax.config.update("jax_default_matmul_precision", "highest")
    with ExitStack() as files:
        subset = files.enter_context(storage.read(options.subset, "subset"))
        inputs["subset"] = subset.checksum
        for label, epoch, segment, kernels in _job.progress(_job.open_networks(options.network, files), "networks"):
            inputs |= {f"{label}/segment": segment.checksum, f"{label}/kernels": kernels.checksum}
            for seed in spec["seeds"]:
                points = as_float(subset[f"seed{seed}/images"])
                labels = subset[f"seed{seed}/labels"]
                # Of the class itself, to compare with.
                natural = points[labels == spec["class"]]
                made = visualise(spec, segment, kernels, seed, epoch, points, labels)
                made["natural_low_frequency_share"] = eigenvectors.low_frequency_share(natural).mean()
                result.setdefault(f"seed{seed}", {})[label] = made
    result["white_noise_share"] = eigenvectors.white_noise_share(*points.shape[1:3])
    result["directions"] = eigenvectors.panels(spec["eigenvectors"])[0]
    result["networks"] = [label for label, *_ in options.network]
    spec["networks"] = {label: {"epoch": float(epoch)} for label, epoch, *_ in options.network}
    storage.write(options.out, kind="eigenvector images", data=result, spec=spec, inputs=inputs)


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    _job.add_networks(parser)
    parser.add_argument("--out", required=True, help="eigenvector images artefact to write")
    _job.run(main, parser)
