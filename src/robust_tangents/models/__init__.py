"""Networks as pure functions of their parameters.

`build` turns a model's settings into a `Network`; the rest of the project knows networks only through it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from robust_tangents.execution import Execution
from robust_tangents.models.cnn import CNN, FullyConnected
from robust_tangents.models.layers import identity_statistics
from robust_tangents.models.resnet import PreActResNet, ResNet
from robust_tangents.models.vgg import VGG

Params = Any
BatchStats = Any


# Runs once per job: what the compiler would gain by optimising, it loses several times over in compiling.
@partial(jax.jit, static_argnames="module", compiler_options={"xla_backend_optimization_level": 0})
def _init(module: nn.Module, key: jax.Array, images: jax.Array) -> Any:
    return module.init(key, images, train=True)


@dataclass(frozen=True)
class Network:
    """A network without state: every method takes parameters and batch-norm statistics and returns new ones.

    Attributes:
        frozen_batch_norm: batch norm is in evaluation mode, at mean 0 and variance 1, also in training; only its
            scales and offsets are learned.
        mixed_precision: `train` and `logits` pass bfloat16 from layer to layer. Parameters, the statistics of batch
            norm and the last linear layer stay in float32.
    """

    module: nn.Module
    classes: int
    execution: Execution
    frozen_batch_norm: bool = False
    mixed_precision: bool = False

    def in_forward_mode(self) -> "Network":
        """The same network with forward-mode derivatives (`jax.jvp`), and reverse-mode derivatives of those.

        On a CPU, the network itself may have reverse mode alone, and this one no reverse mode alone.
        """
        if getattr(self.module, "convolution", None) != "columns":
            return self
        return replace(self, module=self.module.clone(convolution="columns in forward"))

    def init(self, key: jax.Array, images: jax.Array) -> tuple[Params, BatchStats]:
        """Parameters drawn from ``key``; unless frozen, batch-norm statistics of one training pass over ``images``."""
        variables = _init(self.module, key, images)
        batch_stats = variables.get("batch_stats", {})
        return variables["params"], identity_statistics(batch_stats) if self.frozen_batch_norm else batch_stats

    def train(self, params: Params, batch_stats: BatchStats, images: jax.Array) -> tuple[jax.Array, BatchStats]:
        """Logits (B, C) with batch statistics, and the updated running statistics."""
        if self.frozen_batch_norm:
            return self.logits(params, batch_stats, images), batch_stats
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updated = self.module.apply(variables, self._rounded(images), train=True, mutable=["batch_stats"])
        return logits, updated.get("batch_stats", batch_stats)

    def logits(self, params: Params, batch_stats: BatchStats, images: jax.Array) -> jax.Array:
        """Logits (B, C) in evaluation mode (running statistics)."""
        variables = {"params": params, "batch_stats": batch_stats}
        logits = self.module.apply(variables, self._rounded(images), train=False)
        assert isinstance(logits, jax.Array)
        return logits

    def _rounded(self, images: jax.Array) -> jax.Array:
        # Layers compute in the precision of what they read.
        return images.astype(jnp.bfloat16) if self.mixed_precision else images

    def network_logits(self, params: Params, batch_stats: BatchStats, images: jax.Array) -> jax.Array:
        """The same as `logits`; expansions of a network differ."""
        return self.logits(params, batch_stats, images)

    def features(self, params: Params, batch_stats: BatchStats, images: jax.Array) -> dict[str, jax.Array]:
        """The images ("input"), the output of every stage in evaluation mode, and the "logits", in this order."""
        variables = {"params": params, "batch_stats": batch_stats}
        logits, seen = self.module.apply(variables, images, train=False, mutable=["features"])
        stages = {name: value[0] for name, value in seen["features"].items()}
        return {"input": images, **stages, "logits": logits}

    def stages(self, params: Params, batch_stats: BatchStats, images: jax.Array) -> list[str]:
        """Names of `features` in the order of the network, which compiled functions do not keep. Computes nothing."""
        names: list[str] = []
        jax.eval_shape(lambda x: names.extend(self.features(params, batch_stats, x)), images)
        return names


def build(spec: Mapping[str, Any], classes: int, execution: Execution) -> Network:
    """Network of a model's settings: ``architecture`` (as in the schema), its sizes, and ``batch_norm`` if frozen.

    For reverse-mode derivatives; for others see `Network.in_forward_mode`.
    """
    convolution = execution.convolution
    module: nn.Module
    match spec["architecture"]:
        case "resnet":
            module = ResNet(classes, spec["width"], tuple(spec["blocks"]), convolution)
        case "preact_resnet":
            sizes = spec["width"], tuple(spec["blocks"]), spec.get("large_images", False)
            module = PreActResNet(classes, *sizes, convolution)
        case "vgg":
            module = VGG(classes, tuple(map(tuple, spec["widths"])), spec.get("large_images", False), convolution)
        case "cnn":
            module = CNN(classes, tuple(spec["widths"]), convolution)
        case "fully_connected":
            module = FullyConnected(classes, tuple(spec["widths"]))
        case other:
            raise ValueError(f"no architecture {other!r}")
    frozen = spec.get("batch_norm") == "frozen"
    return Network(module, classes, execution, frozen_batch_norm=frozen)


def parameter_count(network: Network, image_shape: Sequence[int]) -> int:
    """Number of trainable parameters for images of shape (H, W, C)."""
    init = partial(network.module.init, train=True)
    variables = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
