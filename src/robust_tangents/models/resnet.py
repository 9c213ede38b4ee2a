"""Residual networks of Loo et al. 2022 and of Su et al. 2023."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from robust_tangents.execution import Convolution
from robust_tangents.models.layers import FAN_OUT_NORMAL, BatchNorm, Conv


def _fan_in_truncated(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
    """Normal of deviation 1/√fan_in, cut at two deviations and not rescaled (realised deviation 0.88/√fan_in)."""
    fan_in = shape[0] * shape[1] * shape[2]
    return jax.random.truncated_normal(key, -2, 2, tuple(shape), dtype) * fan_in**-0.5


class Block(nn.Module):
    """Two 3×3 convolutions, each with batch norm, and a shortcut that is projected where the shape changes."""

    features: int
    stride: int
    project: bool
    convolution: Convolution

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(Conv, self.features, kernel_init=_fan_in_truncated, implementation=self.convolution)

        y = conv(3, self.stride, name="conv1")(x)
        y = nn.relu(BatchNorm(name="norm1")(y, train))
        y = conv(3, 1, name="conv2")(y)
        y = BatchNorm(name="norm2")(y, train)
        if self.project:
            x = BatchNorm(name="shortcut_norm")(conv(1, self.stride, name="shortcut")(x), train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Post-activation ResNet: 3×3 stem without max-pooling, groups of basic blocks, global mean, zero logits.

    ``width`` channels in the stem and first group, doubled by each later group, whose first block halves the image.
    ``blocks=(2, 2, 2, 2)`` with ``width=64`` is the ResNet-18 of the paper: 11,173,962 parameters for ten classes.
    The first block of every group but the first has a projected shortcut (the first group keeps its shape).

    Source: Loo et al. 2022, section 2 and authors' code.
    """

    classes: int
    width: int = 64
    blocks: Sequence[int] = (2, 2, 2, 2)
    convolution: Convolution = "xla"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = Conv(self.width, kernel_init=_fan_in_truncated, implementation=self.convolution, name="stem_conv")(x)
        x = nn.relu(BatchNorm(name="stem_norm")(x, train))
        self.sow("features", "stem", x)
        for group, blocks in enumerate(self.blocks):
            for block in range(blocks):
                first = group > 0 and block == 0
                x = Block(
                    self.width * 2**group,
                    stride=2 if first else 1,
                    project=first,
                    convolution=self.convolution,
                    name=f"group{group + 1}_block{block + 1}",
                )(x, train)
            self.sow("features", f"group{group + 1}", x)
        x = jnp.mean(x, axis=(1, 2))
        self.sow("features", "penultimate", x)
        return nn.Dense(self.classes, kernel_init=nn.initializers.zeros, name="logits")(x)


# Uniform between ±1/√fan_in, for every weight and for the last bias: PyTorch's default.
_fan_in_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class PreActBlock(nn.Module):
    """Twice batch norm, ReLU and a 3×3 convolution; the shortcut is projected where the shape changes."""

    features: int
    stride: int
    kernel_init: Callable
    convolution: Convolution

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(Conv, self.features, kernel_init=self.kernel_init, implementation=self.convolution)

        y = nn.relu(BatchNorm(name="norm1")(x, train))
        if self.stride > 1 or x.shape[-1] != self.features:
            x = conv(1, self.stride, name="shortcut")(y)
        y = conv(3, self.stride, name="conv1")(y)
        y = nn.relu(BatchNorm(name="norm2")(y, train))
        return x + conv(3, 1, name="conv2")(y)


class PreActResNet(nn.Module):
    """Pre-activation ResNet: 3×3 stem, groups of blocks, batch norm, ReLU, global mean, linear layer.

    Sizes as in `ResNet`; ``blocks=(2, 2, 2, 2)`` with ``width=64`` is the PreActResNet18 of the paper: 11,172,170
    parameters for ten classes.

    With ``large_images`` it is the network for ImageNette: the stem is a 7×7 convolution of stride 2 and a 3×3 maximum
    pool of stride 2, and convolutions start at N(0, 2 / (size² C_out)).

    Source: Su et al. 2023, authors' code (PreActResNet18); PyTorch's default initialisation, but for large images.
        The window of the pool is that of the usual ResNets; the paper's is not known to us.
    """

    classes: int
    width: int = 64
    blocks: Sequence[int] = (2, 2, 2, 2)
    large_images: bool = False
    convolution: Convolution = "xla"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        kernel_init = FAN_OUT_NORMAL if self.large_images else _fan_in_uniform
        stem = partial(Conv, self.width, kernel_init=kernel_init, implementation=self.convolution, name="stem_conv")
        x = nn.max_pool(stem(7, 2)(x), (3, 3), (2, 2), "SAME") if self.large_images else stem()(x)
        self.sow("features", "stem", x)
        for group, blocks in enumerate(self.blocks):
            for block in range(blocks):
                x = PreActBlock(
                    self.width * 2**group,
                    stride=2 if group > 0 and block == 0 else 1,
                    kernel_init=kernel_init,
                    convolution=self.convolution,
                    name=f"group{group + 1}_block{block + 1}",
                )(x, train)
            self.sow("features", f"group{group + 1}", x)
        x = BatchNorm(name="last_norm")(x, train)
        self.sow("features", "norm", x)
        x = jnp.mean(nn.relu(x), axis=(1, 2))
        self.sow("features", "penultimate", x)

        def bias(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
            return jax.random.uniform(key, shape, dtype, -1, 1) * x.shape[-1] ** -0.5

        return nn.Dense(self.classes, kernel_init=_fan_in_uniform, bias_init=bias, name="logits")(x)
