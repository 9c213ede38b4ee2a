"""Networks as pure functions of their parameters.

`build` turns a model's settings into a `Network`; the rest of the project knows networks only through it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from robust_tangents.execution import Execution
from robust_tangents.models.cnn import CNN, FullyConnected
from robust_tangents.models.resnet import ResNet

Params = Any
BatchStats = Any


# Runs once per job: what the compiler would gain by optimising, it loses several times over in compiling.
@partial(jax.jit, static_argnames="module", compiler_options={"xla_backend_optimization_level": 0})
def _init(module: nn.Module, key: jax.Array, images: jax.Array) -> Any:
    return module.init(key, images, train=True)


@dataclass(frozen=True)
class Network:
    """A network without state: every method takes parameters and batch-norm statistics and returns new ones."""

    module: nn.Module
    classes: int
    execution: Execution

    def init(self, key: jax.Array, images: jax.Array) -> tuple[Params, BatchStats]:
        """Parameters drawn from ``key``; batch-norm statistics of one training-mode pass over ``images``."""

        variables = _init(self.module, key, images)
        return variables["params"], variables.get("batch_stats", {})

    def train(self, params: Params, batch_stats: BatchStats, images: jax.Array) -> tuple[jax.Array, BatchStats]:
        """Logits (B, C) with batch statistics, and the updated running statistics."""
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updated = self.module.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits, updated.get("batch_stats", batch_stats)

    def logits(self, params: Params, batch_stats: BatchStats, images: jax.Array) -> jax.Array:
        """Logits (B, C) in evaluation mode (running statistics)."""
        logits = self.module.apply({"params": params, "batch_stats": batch_stats}, images, train=False)
        assert isinstance(logits, jax.Array)
        return logits

    def features(self, params: Params, batch_stats: BatchStats, images: jax.Array) -> dict[str, jax.Array]:
        """Output of every stage in evaluation mode, by name, in the order of the network."""
        variables = {"params": params, "batch_stats": batch_stats}
        _, seen = self.module.apply(variables, images, train=False, mutable=["features"])
        return {name: value[0] for name, value in seen["features"].items()}


def build(spec: Mapping[str, Any], classes: int, execution: Execution) -> Network:
    """Network of a model's settings: ``architecture`` (resnet, cnn, fully_connected) and that architecture's sizes."""
    module: nn.Module
    match spec["architecture"]:
        case "resnet":
            module = ResNet(classes, spec["width"], tuple(spec["blocks"]), execution.convolution)
        case "cnn":
            module = CNN(classes, tuple(spec["widths"]), execution.convolution)
        case "fully_connected":
            module = FullyConnected(classes, tuple(spec["widths"]))
        case other:
            raise ValueError(f"no architecture {other!r}")
    return Network(module, classes, execution)


def parameter_count(network: Network, image_shape: Sequence[int]) -> int:
    """Number of trainable parameters for images of shape (H, W, C)."""
    init = partial(network.module.init, train=True)
    variables = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
