"""Operations of networks, counted layer by layer from a model's settings; JAX is not imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Spec = Mapping[str, Any]


@dataclass(frozen=True)
class Layer:
    """A layer of weights at one image: ``written`` values at each of ``positions``, from ``read`` values each.

    A convolution reads its whole window; a dense layer has one position. ``weights``: of all parameters, bias included.
    """

    positions: int
    read: int
    written: int
    weights: int

    @property
    def multiply_adds(self) -> int:
        return self.positions * self.read * self.written


@dataclass(frozen=True)
class Network:
    """Layers with weights, and batch norms as (positions, channels)."""

    layers: tuple[Layer, ...]
    norms: tuple[tuple[int, int], ...]

    @property
    def multiply_adds(self) -> int:
        """Of a forward pass of one image."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def values(self) -> int:
        """Written by layers and batch norms in a forward pass of one image."""
        return sum(layer.positions * layer.written for layer in self.layers) + sum(p * c for p, c in self.norms)

    @property
    def parameters(self) -> int:
        return sum(layer.weights for layer in self.layers) + 2 * sum(channels for _, channels in self.norms)

    @property
    def depth(self) -> int:
        return len(self.layers)


class _Walk:
    """Follows an image through a network and notes the layers."""

    def __init__(self, shape: Sequence[int]):
        self.height, self.width, self.channels = shape
        self.layers: list[Layer] = []
        self.norms: list[tuple[int, int]] = []

    def conv(self, features: int, size: int = 3, stride: int = 1, *, bias: bool = False, norm: bool = True) -> None:
        self.height, self.width = -(-self.height // stride), -(-self.width // stride)
        read = size * size * self.channels
        self.layers.append(Layer(self.height * self.width, read, features, features * (read + bias)))
        self.channels = features
        if norm:
            self.norm()

    def norm(self) -> None:
        self.norms.append((self.height * self.width, self.channels))

    def pool(self, *, rounded_up: bool = False) -> None:
        self.height, self.width = ((length + rounded_up) // 2 for length in (self.height, self.width))

    def dense(self, features: int, *, flatten: bool = True) -> None:
        read = self.channels * (self.height * self.width if flatten else 1)
        self.layers.append(Layer(1, read, features, features * (read + 1)))
        self.height, self.width, self.channels = 1, 1, features

    def done(self) -> Network:
        return Network(tuple(self.layers), tuple(self.norms))


def network(model: Spec, classes: int, shape: Sequence[int]) -> Network:
    """Layers of a model (as in the schema) for images (H, W, C).

    Raises:
        ValueError: the architecture is unknown here.
    """
    walk = _Walk(shape)
    match model["architecture"]:
        case "resnet" | "preact_resnet" as kind:
            after = kind == "resnet"  # batch norm behind convolutions, or in front of them
            if kind == "preact_resnet" and model.get("large_images"):
                walk.conv(model["width"], 7, 2, norm=False)
                walk.pool(rounded_up=True)
            else:
                walk.conv(model["width"], norm=after)
            for group, blocks in enumerate(model["blocks"]):
                for block in range(blocks):
                    _block(walk, model["width"] * 2**group, 2 if group > 0 and block == 0 else 1, after)
            if not after:
                walk.norm()
            walk.dense(classes, flatten=False)
        case "vgg":
            for group, widths in enumerate(model["widths"]):
                for number, width in enumerate(widths, start=1):
                    walk.conv(width, bias=True)
                    if number == len(widths) and group + 1 < len(model["widths"]):
                        walk.pool()
            walk.dense(classes, flatten=False)
        case "cnn":
            for stage, width in enumerate(model["widths"], start=1):
                walk.conv(width, bias=True, norm=False)
                walk.conv(width, bias=True, norm=False)
                if stage == 1:
                    walk.pool()
            walk.pool()
            walk.dense(classes)
        case "fully_connected":
            for width in model["widths"]:
                walk.dense(width)
            walk.dense(classes)
        case other:
            raise ValueError(f"no costs of architecture {other!r}")
    return walk.done()


def very_small(network: Network, shape: Sequence[int]) -> bool:
    """Whether a step from Python, half a millisecond, is a good part of an attack step of a batch on a CPU.

    Loops are compiled there, which needs products of rows; those are slow on images larger than 16×16.
    """
    return network.multiply_adds <= 5e5 and max(shape[:2]) <= 16


def _block(walk: _Walk, features: int, stride: int, after: bool) -> None:
    """A residual block; where its shape changes, the shortcut is a convolution, too."""
    if not after:
        walk.norm()
    if stride > 1 or walk.channels != features:
        height, width, channels = walk.height, walk.width, walk.channels
        walk.conv(features, 1, stride, norm=after)
        walk.height, walk.width, walk.channels = height, width, channels
    walk.conv(features, 3, stride)
    walk.conv(features, 3, 1, norm=after)


def kernel_work(network: Network, classes: int, points: int, full: bool) -> float:
    """Multiply-adds of empirical kernels (see `robust_tangents.kernels`): passes, gradients, inner products.

    C·N (2 M + Σ T p f) + C N² / 2 · Σ min(p f, T² (p / C + f)), where M is a forward pass and gradients of weights are
    made only where products of their factors are not cheaper; full kernels take C² N² / 2 products, of which C² share
    those of what is read.
    """

    def factored(layer: Layer) -> bool:
        return layer.positions**2 * (layer.read / classes + layer.written) < layer.read * layer.written

    products = classes**2 if full else classes
    explicit = [layer for layer in network.layers if not factored(layer)]
    rows = classes * points * (network.multiply_adds + sum(layer.multiply_adds for layer in explicit))
    pair = sum(
        layer.positions**2 * (layer.read / products + layer.written) if factored(layer) else layer.read * layer.written
        for layer in network.layers
    )
    return points * network.multiply_adds + rows + products * points**2 / 2 * pair
