"""Compute the empirical kernels of all checkpoints of a segment on a subset of the training images."""

import _job

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

import _network
from robust_tangents import checkpoints, randomness, storage
from robust_tangents.attacks.pgd import Attack, pgd
from robust_tangents.kernels import empirical_kernels
from robust_tangents.training import as_float


def main(options) -> None:
    spec = options.spec
    result: dict[str, dict] = {}
    # The library computes kernels at this precision anyway; set here as well, it is recorded in the artefact.
    jax.config.update("jax_default_matmul_precision", "highest")
    with storage.read(options.segment, "segment") as segment, storage.read(options.subset, "subset") as subset:
        jobs = [(seed, epoch) for seed in spec["seeds"] for epoch in spec["epochs"]]
        for seed, epoch in _job.progress(jobs, "kernels"):
            points = subset[f"seed{seed}/first" if spec["attack"] and epoch == 0 else f"seed{seed}"]
            images, labels = points["images"], points["labels"]
            network = _network.build(spec["model"], int(labels.max()) + 1, images.shape[1:])
            images = as_float(jnp.asarray(images))
            state = checkpoints.load(segment, seed, epoch)
            if spec["attack"] and epoch > 0:
                predict, key = Partial(network.logits, *state), randomness.key(spec["study_seed"], seed, "evaluation")
                images = pgd(predict, images, jnp.asarray(labels), key, Attack.of(spec["attack"]), network.execution)
            kernels = empirical_kernels(network, *state, images, spec["kinds"], spec["budget_mb"] * 10**6)
            result.setdefault(f"seed{seed}", {"labels": labels})[f"{epoch:g}"] = kernels
        inputs = {"segment": segment.checksum, "subset": subset.checksum}
    storage.write(options.out, kind="kernels", data=result, spec=spec, inputs=inputs)


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--segment", required=True, help="segment artefact with the checkpoints")
    parser.add_argument("--subset", required=True, help="subset artefact with the points")
    parser.add_argument("--out", required=True, help="kernels artefact to write")
    _job.run(main, parser)
