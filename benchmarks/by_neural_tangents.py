"""The peer in kernels: neural-tangents 0.6.5, in its own environment."""

import sys
import types
from functools import partial
from pathlib import Path

# The package's experimental part needs TensorFlow; nothing here needs that part.
sys.modules["neural_tangents.experimental"] = types.ModuleType("neural_tangents.experimental")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import neural_tangents as nt  # noqa: E402
import numpy as np  # noqa: E402
from side import BLOCKS, GROUPS, converse, problem  # noqa: E402


def norm(params, stats, x):
    correction = 1 - 0.9 ** stats["count"].astype(jnp.float32)
    scale = params["scale"] / jnp.sqrt(stats["variance"] / correction + 1e-5)
    return x * scale + (params["offset"] - stats["mean"] / correction * scale)


def conv(params, x, stride=1):
    return jax.lax.conv_general_dilated(
        x, params["kernel"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def resnet(params, stats, x):
    x = jax.nn.relu(norm(params["stem_norm"], stats["stem_norm"], conv(params["stem_conv"], x)))
    for group in range(GROUPS):
        for block in range(BLOCKS[group]):
            name = f"group{group + 1}_block{block + 1}"
            p, s, stride = params[name], stats[name], 2 if group and not block else 1
            y = jax.nn.relu(norm(p["norm1"], s["norm1"], conv(p["conv1"], x, stride)))
            y = norm(p["norm2"], s["norm2"], conv(p["conv2"], y))
            if "shortcut" in p:
                x = norm(p["shortcut_norm"], s["shortcut_norm"], conv(p["shortcut"], x, stride))
            x = jax.nn.relu(x + y)
    return jnp.mean(x, axis=(1, 2)) @ params["logits"]["kernel"] + params["logits"]["bias"]


def cnn(params, x):
    for stage in (1, 2, 3):
        for layer in (1, 2):
            weights = params[f"stage{stage}_conv{layer}"]
            x = jax.nn.relu(conv(weights, x) + weights["bias"])
        if stage != 2:
            count, height, width, channels = x.shape
            windows = x.reshape(count, height // 2, 2, width // 2, 2, channels)
            x = windows.max((2, 4)) if stage == 1 else windows.mean((2, 4))
    return x.reshape(len(x), -1) @ params["logits"]["kernel"] + params["logits"]["bias"]


def blocks(given, network, trace_axes, size, implementation, count, timed):
    """The first ``timed`` blocks of the upper triangle; run.py scales the time to all of them."""
    kernel = nt.empirical_ntk_fn(network, trace_axes=trace_axes, vmap_axes=0, implementation=implementation)
    compiled = jax.jit(kernel)
    params, images = jax.tree.map(jnp.asarray, (given["params"], given["images"][:count]))
    pairs = [(i, j) for i in range(0, count, size) for j in range(i, count, size)][:timed]

    def run():
        parts = [np.asarray(compiled(images[i : i + size], images[j : j + size], params)) for i, j in pairs]
        if parts[0].ndim == 2:
            return parts[0]
        rows, columns, classes, _ = parts[0].shape  # of a full kernel; ours has a row for each image and class
        return parts[0].transpose(0, 2, 1, 3).reshape(rows * classes, columns * classes)

    return run


if __name__ == "__main__":
    jax.config.update("jax_default_matmul_precision", "highest")
    everything = problem(Path(sys.argv[1]))
    given, other = everything["32x32"], everything["CNN_mega"]
    ways = nt.NtkImplementation
    trace = partial(blocks, given, lambda params, x: resnet(params, given["batch_stats"], x), (-1,))
    full = partial(blocks, other, cnn, ())
    tasks = {"ntvp 4": partial(trace, 4, ways.NTK_VECTOR_PRODUCTS, 200, 40)}
    for size, timed in {4: 40, 10: 8, 20: 4, 40: 2}.items():
        tasks[f"contraction {size}"] = partial(trace, size, ways.JACOBIAN_CONTRACTION, 200, timed)
    # Structured derivatives fail on the JAX that is needed here, and vector products take 24 GB for blocks of 50.
    tasks["full ntvp 4"] = partial(full, 4, ways.NTK_VECTOR_PRODUCTS, 100, 8)
    for size, timed in {10: 4, 20: 2, 50: 1}.items():
        tasks[f"full contraction {size}"] = partial(full, size, ways.JACOBIAN_CONTRACTION, 100, timed)
    converse(tasks)
