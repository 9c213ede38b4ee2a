"""Kernels of a small CNN by neural-tangents; runs in its own environment (`snakemake neural_tangents`).

    .neural-tangents/bin/python tests/neural_tangents_oracle.py IN.h5 OUT.h5

IN holds images and, under params/<layer>/, kernel and bias of each layer of a two-stage CNN; OUT gets logits, trace
and full.
"""

import sys
import types

import h5py

# The package's experimental part needs TensorFlow; nothing here needs that part.
sys.modules["neural_tangents.experimental"] = types.ModuleType("neural_tangents.experimental")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import neural_tangents as nt  # noqa: E402


def conv(layer, x):
    y = jax.lax.conv_general_dilated(
        x, layer["kernel"], (1, 1), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.maximum(y + layer["bias"], 0)


def windows(x):
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def cnn(params, x):
    x = conv(params["stage1_conv2"], conv(params["stage1_conv1"], x))
    x = jnp.max(windows(x), axis=(2, 4))
    x = conv(params["stage2_conv2"], conv(params["stage2_conv1"], x))
    x = jnp.mean(windows(x), axis=(2, 4)).reshape(x.shape[0], -1)
    return x @ params["logits"]["kernel"] + params["logits"]["bias"]


def main(source: str, target: str) -> None:
    jax.config.update("jax_default_matmul_precision", "highest")
    with h5py.File(source) as file:
        images = jnp.asarray(file["images"][()])
        params = {
            layer: {name: jnp.asarray(value[()]) for name, value in arrays.items()}
            for layer, arrays in file["params"].items()
        }
    with h5py.File(target, "w") as file:
        file["logits"] = cnn(params, images)
        for name, trace_axes in {"trace": (-1,), "full": ()}.items():
            kernel = nt.empirical_ntk_fn(cnn, trace_axes=trace_axes, vmap_axes=0)
            file[name] = jax.jit(kernel)(images, None, params)


if __name__ == "__main__":
    main(*sys.argv[1:])
