"""Convolution and batch normalisation as the networks here need them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.custom_derivatives import SymbolicZero

from robust_tangents.execution import Convolution

DECAY = 0.9
_CACHED = 3 << 20  # bytes that `_weight_gradient` makes at a time


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


def _in_reverse(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The same by columns, or by rows where the result is smaller than the kernel. Has no forward-mode derivative."""
    # XLA swaps an image and a kernel that is larger, here or in a derivative, and is up to fifty times slower then.
    smallest = -(-min(x.shape[1:3]) // stride)
    return (_by_rows if smallest < kernel.shape[0] else _differentiated_by_columns)(x, kernel, stride)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _differentiated_by_columns(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return _by_columns(x, kernel, stride)


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _by_columns(x, kernel, stride), (x, kernel)


def _backward(stride: int, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    size = kernel.shape[0]
    if stride == 1 and size % 2:  # padded alike on both sides, so that the transpose is a SAME convolution, too
        of_images = _by_columns(gradient, kernel[::-1, ::-1].swapaxes(2, 3), 1)
    else:
        [of_images] = jax.vjp(partial(_by_xla, kernel=kernel, stride=stride), x)[1](gradient)
    return of_images, _weight_gradient(x, gradient, size, stride)


_differentiated_by_columns.defvjp(_forward, _backward)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _in_forward(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The same in forward mode, and in reverse mode after it, as expansions of networks need it."""
    return _in_reverse(x, kernel, stride)


@partial(_in_forward.defjvp, symbolic_zeros=True)
def _tangents(stride: int, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    x, kernel = primals
    y = _in_reverse(x, kernel, stride)
    to_x, to_kernel = (not isinstance(tangent, SymbolicZero) for tangent in tangents)
    tangent = jnp.zeros_like(y)
    if to_x:
        tangent = tangent + _in_reverse(tangents[0], kernel, stride)
    if to_kernel:
        tangent = tangent + _in_reverse(x, tangents[1], stride)
    return y, tangent


def _by_columns(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The same, with neighbouring columns of the result as if they were features of one.

    Some weights are zero then, but XLA leaves convolutions of up to 16 channels to slower code than what it has for
    more: with the zeros it still takes half to a quarter of the time.
    """
    size, _, channels, features = kernel.shape
    count, height, width, _ = x.shape
    rows, sides = lax.padtype_to_pads((height, width), (size, size), (stride, stride), "SAME")
    height, width = -(-height // stride), -(-width // stride)
    columns = 1
    if channels <= 16:
        most = 64 if channels <= 4 else 32  # features from which it is fastest
        while width % (2 * columns) == 0 and 2 * columns * features <= most:
            columns *= 2
    last = (columns - 1) * stride
    shifted = [jnp.pad(kernel, ((0, 0), (i, last - i), (0, 0), (0, 0))) for i in range(0, last + 1, stride)]
    wide = jnp.stack(shifted, axis=3).reshape(size, size + last, channels, columns * features)
    strides = stride, stride * columns
    y = lax.conv_general_dilated(x, wide, strides, (rows, sides), dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y.reshape(count, height, width, features)


def _weight_gradient(x: jax.Array, gradient: jax.Array, size: int, stride: int) -> jax.Array:
    """∂/∂kernel (size, size, C_in, C_out) from ∂/∂y, a few images at a time.

    Σ x[r + i, c + j] ∂/∂y[r, c] for all i and j is one product of x, shifted by j columns, and ∂/∂y, shifted by i rows:
    of fewer and wider values than patches of x have. XLA's own takes 0.9 to 1.7 times as long on a CPU with AVX-512
    (`benchmarks/rates.py convolutions`).
    """
    count, height, width, channels = x.shape
    features = gradient.shape[-1]
    (above, _), sides = lax.padtype_to_pads((height, width), (size, size), (stride, stride), "SAME")
    length = (gradient.shape[1] - 1) * stride + 1
    exact = jnp.promote_types(x.dtype, jnp.float32)

    def part(x: jax.Array, gradient: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, 0), sides, (0, 0)))
        last = (gradient.shape[2] - 1) * stride + 1
        read = jnp.concatenate([x[:, :, j : j + last : stride] for j in range(size)], axis=-1)
        rows = (size - 1 - above, height - length + above, stride - 1)
        gradient = lax.pad(gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), rows, (0, 0, 0), (0, 0, 0)))
        moved = jnp.concatenate([gradient[:, i : i + height] for i in reversed(range(size))], axis=-1)
        read, moved = read.reshape(-1, size * channels), moved.reshape(-1, size * features)
        return jnp.matmul(read.T, moved, preferred_element_type=exact)

    one = size * height * gradient.shape[2] * (channels + features) * x.dtype.itemsize
    some = max(1, _CACHED // one)
    whole = count // some * some
    # Otherwise what made x and ∂/∂y would be computed twice, the second time in the shape of the parts.
    parts = lax.optimization_barrier((x, gradient))
    parts = (values[:whole].reshape(-1, some, *values.shape[1:]) for values in parts)
    nothing = jnp.zeros((size * channels, size * features), exact)
    total, _ = lax.scan(lambda total, values: (total + part(*values), None), nothing, tuple(parts))
    if whole < count:
        total = total + part(x[whole:], gradient[whole:])
    total = total.reshape(size, channels, size, features).transpose(2, 0, 1, 3)
    return total.astype(x.dtype)


class Conv(nn.Module):
    """Two-dimensional convolution, NHWC, SAME padding, square kernel of shape (size, size, C_in, C_out).

    Computed in the precision of the input, whatever that of the parameters.

    ``implementation`` chooses one of four, of the same parameters and results, to rounding: "xla", XLA's convolution;
    "rows", a product of image rows and a banded matrix, which on a CPU is fast for small images and, unlike the others,
    keeps its speed inside compiled loops; "columns", which is the fastest on a CPU, in reverse mode alone; "columns in
    forward", the same in forward mode, and in reverse mode after it.
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
    "columns": _in_reverse,
    "columns in forward": _in_forward,
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
