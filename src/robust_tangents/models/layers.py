"""Convolution and batch normalisation as the networks here need them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from robust_tangents.execution import Convolution

DECAY = 0.9


def _by_rows(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """SAME convolution, NHWC by (size, size, C_in, C_out), as one product of whole image rows and a banded matrix.

    The matrix takes the ``size`` rows of the image below the kernel, (size·W·C_in), to one row of the result,
    (W'·C_out). Part of it is zero, but it is wide enough for a fast product, and rows are copied whole.
    """
    size, _, channels, features = kernel.shape
    batch, height, width, _ = x.shape
    (above, below), (left, _) = lax.padtype_to_pads((height, width), (size, size), (stride, stride), "SAME")
    rows, columns = -(-height // stride), -(-width // stride)
    # Rows of the kernel that only ever meet the padding are left out, as all but the middle one on 1×1 images.
    used = range(max(0, above - (rows - 1) * stride), min(size, above + height))
    column, result = np.ogrid[:width, :columns]
    band = np.stack([column == result * stride + tap - left for tap in range(size)])  # (size, W, W')
    matrix = jnp.einsum("ijcf,jwv->iwcvf", kernel[used.start : used.stop], band.astype(kernel.dtype))
    x = jnp.pad(x.reshape(batch, height, width * channels), ((0, 0), (above, below), (0, 0)))
    windows = [x[:, i : i + (rows - 1) * stride + 1 : stride] for i in used]
    y = jnp.concatenate(windows, axis=-1) @ matrix.reshape(-1, columns * features)
    return y.reshape(batch, rows, columns, features)


class Conv(nn.Module):
    """Two-dimensional convolution, NHWC, SAME padding, square kernel of shape (size, size, C_in, C_out).

    Computed in the precision of the input, whatever that of the parameters.

    ``implementation`` chooses XLA's convolution or a product of image rows and a banded matrix: same parameters, same
    result to rounding. At small images on a CPU the second is faster and, unlike the first, keeps its speed inside
    compiled loops.
    """

    features: int
    size: int = 3
    stride: int = 1
    use_bias: bool = False
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    implementation: Convolution = "xla"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, x.shape[-1], self.features))
        kernel = kernel.astype(x.dtype)
        if self.implementation == "rows":
            y = _by_rows(x, kernel, self.stride)
        else:
            y = lax.conv_general_dilated(
                x, kernel, (self.stride, self.stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
        return y


# Normal of deviation √(2 / (size² C_out)), in the networks for ImageNette of Su et al. 2023 (authors' code).
FAN_OUT_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def pooling_windows(x: jax.Array) -> jax.Array:
    """2×2 windows of an NHWC batch, (B, H/2, 2, W/2, 2, C); an odd last row or column is left out.

    Reductions of this view replace ``nn.max_pool``, whose derivatives compile and run slowly on a CPU.
    """
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


class BatchNorm(nn.Module):
    """Batch normalisation with zero-debiased running statistics.

    Training mode normalises by mean and (biased) variance of the batch and updates, for s in {mean, variance},
    h ← d·h + (1 − d)·s and n ← n + 1; evaluation mode normalises by h / (1 − dⁿ). After the first training-mode pass
    the running statistics are those of that batch. Scale and offset are parameters.

    Source: constants and debiasing of the networks in Loo et al. 2022 (decay 0.9, epsilon 1e-5; authors' code).
    """

    decay: float = DECAY
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        offset = self.param("offset", nn.initializers.zeros, shape)
        hidden_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        hidden_variance = self.variable("batch_stats", "variance", jnp.zeros, shape)
        count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)
        if train:
            axes = tuple(range(x.ndim - 1))
            exact = x.astype(hidden_mean.value.dtype)  # x may be rounded more coarsely
            mean = jnp.mean(exact, axes)
            variance = jnp.maximum(jnp.mean(exact * exact, axes) - mean * mean, 0)
            hidden_mean.value = self.decay * hidden_mean.value + (1 - self.decay) * mean
            hidden_variance.value = self.decay * hidden_variance.value + (1 - self.decay) * variance
            count.value = count.value + 1
        else:
            correction = 1 - self.decay ** count.value.astype(jnp.float32)
            mean, variance = hidden_mean.value / correction, hidden_variance.value / correction
        factor = scale * lax.rsqrt(variance + self.epsilon)
        return x * factor.astype(x.dtype) + (offset - mean * factor).astype(x.dtype)


def identity_statistics(batch_stats: Any) -> Any:
    """Statistics with which every `BatchNorm` of a network normalises by mean 0 and variance 1 in evaluation mode."""

    def identity(path: tuple[jax.tree_util.DictKey, ...], value: jax.Array) -> jax.Array:
        filling = {"mean": 0, "variance": 1 - DECAY, "count": 1}[path[-1].key]
        return jnp.full_like(value, filling)

    return jax.tree_util.tree_map_with_path(identity, batch_stats)
