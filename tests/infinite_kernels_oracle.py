"""Infinite-width kernels by neural-tangents alone; runs in its own environment (`snakemake neural_tangents`).

    .neural-tangents/bin/python tests/infinite_kernels_oracle.py IN.h5 OUT.h5

IN holds images x and points, and weights of functions; OUT gets for every architecture "family depth" the kernel
(A, B) and its gradients in the first image, (B, H, W, C), and the same by the project's own class, in float64.
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import h5py
import jax
import jax.numpy as jnp

jax.config.update("jax_enable_x64", True)

from robust_tangents import neural_tangents_kernels as ours  # noqa: E402

ARCHITECTURES = [("fully_connected", depth) for depth in range(1, 6)] + [
    ("convolutional", 2),
    ("myrtle", 7),
]


def main(source: str, target: str) -> None:
    with h5py.File(source) as file:
        x, points = file["x"][()], file["points"][()]
        weights = file["weights"][()]
    with h5py.File(target, "w") as file:
        for family, depth in ARCHITECTURES:
            of_network = ours.network(family, depth)[2]
            kernel = jax.jit(lambda x, points, k=of_network: k(x, points, "ntk"))
            name = f"{family} {depth}"
            file[f"{name}/kernel"] = kernel(x, points)
            # Forward mode, one pixel after the other, where the project goes backwards.
            file[f"{name}/gradients"] = jax.jacfwd(lambda image, k=kernel: k(image[None], points)[0])(x[0])
            # The project's own way through the same kernel, in blocks of few points.
            small = replace(ours.build(family, depth, x.shape[1:], 3), value_bytes=1, gradient_bytes=1)
            file[f"{name}/blocked"] = small(jnp.asarray(x), jnp.asarray(points))
            arguments = map(jnp.asarray, (x[0], points, weights))
            file[f"{name}/values"], file[f"{name}/contracted"] = small.at(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
