"""Convolution and batch normalisation as the networks here need them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from robust_tangents.execution import Convolution

DECAY = 0.9
_PATCHES = 1 << 20  # bytes of the patches that `_weight_gradient` makes at a time
# Weight gradients for no more positions than these are left to XLA: little slower, and compiled faster.
_XLA_POSITIONS = 8 * 8


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


def _by_xla(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """SAME convolution, NHWC by (size, size, C_in, C_out)."""
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def patches(x: jax.Array, size: int, stride: int) -> jax.Array:
    """What a SAME convolution reads at each of its T positions, (n, T, size·size·C)."""
    count, height, width, channels = x.shape
    pads = lax.padtype_to_pads((height, width), (size, size), (stride, stride), "SAME")
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows, columns = ((length - 1) // stride * stride + 1 for length in (height, width))
    windows = [x[:, i : i + rows : stride, j : j + columns : stride] for i in range(size) for j in range(size)]
    return jnp.concatenate(windows, axis=-1).reshape(count, -1, size * size * channels)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _by_xla_in_reverse(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The same, with weight gradients by `_weight_gradient`. Has no forward-mode derivative."""
    return _by_xla(x, kernel, stride)


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _by_xla(x, kernel, stride), (x, kernel)


def _backward(stride: int, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    _, pull_back = jax.vjp(partial(_by_xla, stride=stride), x, kernel)
    of_images, of_weights = pull_back(gradient)
    if gradient.shape[1] * gradient.shape[2] > _XLA_POSITIONS:
        of_weights = _weight_gradient(x, gradient, kernel.shape[0], stride)
    return of_images, of_weights


_by_xla_in_reverse.defvjp(_forward, _backward)


def _weight_gradient(x: jax.Array, gradient: jax.Array, size: int, stride: int) -> jax.Array:
    """∂/∂kernel (size, size, C_in, C_out) from ∂/∂y: patchesᵀ · ∂/∂y, a few images at a time.

    As many as keep their patches in the processor's cache. At 32×32 XLA's own takes 6 to 10 times as long
    (`benchmarks/rates.py convolutions`).
    """
    channels, features = x.shape[-1], gradient.shape[-1]
    one = size * size * channels * gradient.shape[1] * gradient.shape[2] * x.dtype.itemsize
    count = max(2, _PATCHES // one)
    exact = jnp.promote_types(x.dtype, jnp.float32)

    def part(x: jax.Array, gradient: jax.Array) -> jax.Array:
        read = patches(x, size, stride).reshape(-1, size * size * channels)
        return jnp.matmul(read.T, gradient.reshape(-1, features), preferred_element_type=exact)

    whole = len(x) // count * count
    parts = (values[:whole].reshape(-1, count, *values.shape[1:]) for values in (x, gradient))
    nothing = jnp.zeros((size * size * channels, features), exact)
    total, _ = lax.scan(lambda total, values: (total + part(*values), None), nothing, tuple(parts))
    if whole < len(x):
        total = total + part(x[whole:], gradient[whole:])
    return total.reshape(size, size, channels, features).astype(x.dtype)


class Conv(nn.Module):
    """Two-dimensional convolution, NHWC, SAME padding, square kernel of shape (size, size, C_in, C_out).

    Computed in the precision of the input, whatever that of the parameters.

    ``implementation`` chooses XLA's convolution or a product of image rows and a banded matrix: same parameters, same
    result to rounding. At small images on a CPU the second is faster and, unlike the first, keeps its speed inside
    compiled loops. The third, "xla reverse", is XLA's with faster weight gradients on a CPU, and without forward-mode
    derivatives.
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
        y = _CONVOLUTIONS[self.implementation](x, kernel, self.stride)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
        return y


_CONVOLUTIONS: dict[Convolution, Callable[[jax.Array, jax.Array, int], jax.Array]] = {
    "xla": _by_xla,
    "rows": _by_rows,
    "xla reverse": _by_xla_in_reverse,
}

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
