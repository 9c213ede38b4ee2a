"""VGG network with batch norm of Su et al. 2023."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from robust_tangents.execution import Convolution
from robust_tangents.models.layers import FAN_OUT_NORMAL, BatchNorm, Conv, pooling_windows

_fan_in_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class VGG(nn.Module):
    """Groups of 3×3 convolutions with bias, batch norm and ReLU; 2×2 maximum pools between groups; global mean; linear.

    ``widths`` lists the channels of the convolutions of each group. The default is the VGG11 of the paper: 9,231,114
    parameters for ten classes. An empty last group adds a pool at the end. The output of every convolution, pooled
    where a pool follows, is a stage: what the next convolution sees.

    With ``large_images`` it is the network for ImageNette, together with an empty last group: convolutions start at
    N(0, 2 / (9 C_out)).

    Source: Su et al. 2023, authors' code (vgg11_bn): convolutions N(0, 2 / (9 C_in)), linear layer N(0, 0.01²); for
        large images vgg11_bn_pool.
    """

    classes: int
    widths: Sequence[Sequence[int]] = ((64,), (128,), (256, 256), (512, 512), (512, 512))
    large_images: bool = False
    convolution: Convolution = "xla"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layer = 0
        for group, widths in enumerate(self.widths):
            for number, width in enumerate(widths, start=1):
                layer += 1
                conv = Conv(
                    width,
                    use_bias=True,
                    kernel_init=FAN_OUT_NORMAL if self.large_images else _fan_in_normal,
                    implementation=self.convolution,
                    name=f"conv{layer}",
                )
                x = nn.relu(BatchNorm(name=f"norm{layer}")(conv(x), train))
                if number == len(widths) and group + 1 < len(self.widths):
                    x = pooling_windows(x).max((2, 4))
                self.sow("features", f"layer{layer}", x)
        x = jnp.mean(x, axis=(1, 2))
        self.sow("features", "penultimate", x)
        return nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.01), name="logits")(x)
