"""Plain convolutional and fully connected networks of Tsilivis and Kempe 2022."""

from collections.abc import Sequence

import jax
from flax import linen as nn

from robust_tangents.execution import Convolution
from robust_tangents.models.layers import Conv, pooling_windows


class CNN(nn.Module):
    """Stages of two 3×3 convolutions with bias and ReLU, then a linear layer on the flattened features.

    A maximum pool follows the first stage and a mean pool the last, both 2×2. ``widths=(32, 64, 128)`` is the
    CNN_mega of the paper: 368,938 parameters at 32×32×3 and 349,162 at 28×28×1, ten classes. No batch norm.

    Source: Tsilivis & Kempe 2022, authors' code (robust_train_CNN.py); standard parametrisation, LeCun normal.
    """

    classes: int
    widths: Sequence[int] = (32, 64, 128)
    convolution: Convolution = "xla"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train  # the same in both modes
        for stage, width in enumerate(self.widths, start=1):
            for layer in (1, 2):
                conv = Conv(width, use_bias=True, implementation=self.convolution, name=f"stage{stage}_conv{layer}")
                x = nn.relu(conv(x))
            self.sow("features", f"stage{stage}", x)
            if stage == 1:
                x = pooling_windows(x).max((2, 4))
        x = pooling_windows(x).mean((2, 4)).reshape(len(x), -1)
        self.sow("features", "penultimate", x)
        return nn.Dense(self.classes, name="logits")(x)


class FullyConnected(nn.Module):
    """ReLU layers of the given widths on the flattened image, then a linear layer; LeCun normal, zero bias."""

    classes: int
    widths: Sequence[int] = (10_000, 10_000)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        x = x.reshape(len(x), -1)
        for layer, width in enumerate(self.widths, start=1):
            x = nn.relu(nn.Dense(width, dtype=x.dtype, name=f"dense{layer}")(x))
            self.sow("features", "penultimate" if layer == len(self.widths) else f"hidden{layer}", x)
        return nn.Dense(self.classes, name="logits")(x)
