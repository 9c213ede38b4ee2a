"""Convolution and batch normalisation as the networks here need them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from robust_tangents.execution import Convolution


def _patches(x: jax.Array, size: int, stride: int) -> jax.Array:
    """Patches of an NHWC batch under SAME padding: (B, H', W', size*size*C), ordered as the kernel's leading axes."""
    _, height, width, _ = x.shape
    pads = lax.padtype_to_pads((height, width), (size, size), (stride, stride), "SAME")
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows, columns = -(-height // stride), -(-width // stride)
    windows = [
        x[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride, :]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(windows, axis=-1)


class Conv(nn.Module):
    """Two-dimensional convolution, NHWC, SAME padding, square kernel of shape (size, size, C_in, C_out).

    ``implementation`` chooses XLA's convolution or patches and one matrix product: same parameters, same result to
    rounding. At small images on a CPU the second is faster and, unlike the first, keeps its speed inside compiled
    loops.
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
        if self.implementation == "patches":
            y = _patches(x, self.size, self.stride) @ kernel.reshape(-1, self.features)
        else:
            y = lax.conv_general_dilated(
                x, kernel, (self.stride, self.stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,))
        return y


class BatchNorm(nn.Module):
    """Batch normalisation with zero-debiased running statistics.

    Training mode normalises by mean and (biased) variance of the batch and updates, for s in {mean, variance},
    h ← d·h + (1 − d)·s and n ← n + 1; evaluation mode normalises by h / (1 − dⁿ). After the first training-mode pass
    the running statistics are those of that batch. Scale and offset are parameters.

    Source: constants and debiasing of the networks in Loo et al. 2022 (decay 0.9, epsilon 1e-5; authors' code).
    """

    decay: float = 0.9
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
            mean = jnp.mean(x, axes)
            variance = jnp.maximum(jnp.mean(x * x, axes) - mean * mean, 0)
            hidden_mean.value = self.decay * hidden_mean.value + (1 - self.decay) * mean
            hidden_variance.value = self.decay * hidden_variance.value + (1 - self.decay) * variance
            count.value = count.value + 1
        else:
            correction = 1 - self.decay ** count.value.astype(jnp.float32)
            mean, variance = hidden_mean.value / correction, hidden_variance.value / correction
        factor = scale * lax.rsqrt(variance + self.epsilon)
        return x * factor + (offset - mean * factor)
