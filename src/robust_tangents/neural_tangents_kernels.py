"""Infinite-width kernels by neural-tangents; runs in its environment only (`snakemake neural_tangents`)."""

import sys
import types
from collections.abc import Sequence

# The package's experimental part needs TensorFlow; nothing here needs that part.
sys.modules.setdefault("neural_tangents.experimental", types.ModuleType("neural_tangents.experimental"))

import numpy as np  # noqa: E402
from neural_tangents import stax  # noqa: E402

from robust_tangents.infinite_kernels import BIAS_VARIANCE, WEIGHT_VARIANCE, Kernel  # noqa: E402

_PRIOR = {"W_std": WEIGHT_VARIANCE**0.5, "b_std": BIAS_VARIANCE**0.5, "parameterization": "ntk"}
# 3×3 convolutions before each pooling, after a first one.
_MYRTLE = {5: (1, 1, 1), 7: (1, 2, 2), 10: (2, 3, 3)}
# Covariances of a pair of images that are held at once: for its value, and for its gradient of every layer.
_HELD = 6


def _hidden(layer) -> tuple:
    return layer, stax.Relu()


def _convolution():
    return _hidden(stax.Conv(1, (3, 3), padding="SAME", **_PRIOR))


def network(family: str, depth: int):
    """Layers of a network, ReLU throughout: (init, apply, kernel) functions of neural-tangents.

    fully_connected: ``depth`` hidden layers. convolutional: ``depth`` 3×3 convolutions, then flattened. myrtle: 3×3
    convolutions with two 2×2 mean pools, then a global mean. All with a linear output.

    Source: Tsilivis & Kempe 2022, authors' notebook; Myrtle networks after Shankar et al. 2020.
    """
    layers: list = []
    match family:
        case "fully_connected":
            layers = [stax.Flatten()]
            for _ in range(depth):
                layers += _hidden(stax.Dense(1, **_PRIOR))
        case "convolutional":
            for _ in range(depth):
                layers += _convolution()
            layers.append(stax.Flatten())
        case "myrtle":
            layers += _convolution()
            for block, convolutions in enumerate(_MYRTLE[depth]):
                for _ in range(convolutions):
                    layers += _convolution()
                layers.append(stax.AvgPool((2, 2), strides=(2, 2)) if block < 2 else stax.GlobalAvgPool())
        case other:
            raise ValueError(f"no family {other!r}")
    return stax.serial(*layers, stax.Dense(1, **_PRIOR))


def build(family: str, depth: int, image_shape: Sequence[int], budget: int) -> Kernel:
    """Kernel of an architecture for images of a shape."""
    _, _, kernel = network(family, depth)
    positions = int(np.prod(image_shape[:2]))
    # Pooling needs the covariance of every position with every other one, flattening only that of equal ones.
    covariances = positions**2 if family == "myrtle" else positions
    value_bytes = 8 * _HELD * covariances
    return Kernel(lambda x, points: kernel(x, points, "ntk"), value_bytes, value_bytes * (depth + 1), budget)
