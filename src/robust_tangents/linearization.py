"""Networks replaced by their first-order expansion around a checkpoint: second-stage training on a frozen kernel."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from robust_tangents.execution import Execution
from robust_tangents.models import BatchStats, Network, Params


@dataclass(frozen=True)
class Linearized:
    """First-order model around θₜ, a function of the displacement δ = θ − θₜ.

    linearized: f(x) = f_θₜ(x) + J_θₜ(x) δ;  centered: f(x) = J_θₜ(x) δ.

    Batch norm is in evaluation mode, its statistics frozen. The expansion point is part of the model's (constant)
    statistics, so that one compiled program serves every checkpoint and both variants; one `jax.jvp` gives both terms.

    Source: Loo et al. 2022, section 4.
    """

    network: Network

    @property
    def execution(self) -> Execution:
        return self.network.execution

    def start(self, params: Params, batch_stats: BatchStats, *, centered: bool) -> tuple[Params, dict[str, Any]]:
        """Displacement zero, and the expansion point with the weight of the zeroth-order term (0 if centered)."""
        point = {"params": params, "batch_stats": batch_stats, "zeroth": jnp.float32(not centered)}
        return jax.tree.map(jnp.zeros_like, params), point

    def terms(self, displacement: Params, point: dict[str, Any], images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """f_θₜ(x) and J_θₜ(x) δ, each (B, classes)."""

        def logits(params: Params) -> jax.Array:
            return self.network.logits(params, point["batch_stats"], images)

        return jax.jvp(logits, (point["params"],), (displacement,))

    def logits(self, displacement: Params, point: dict[str, Any], images: jax.Array) -> jax.Array:
        """Logits (B, classes) of the first-order model."""
        zeroth, first = self.terms(displacement, point, images)
        return point["zeroth"] * zeroth + first

    def train(self, displacement: Params, point: dict[str, Any], images: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        """Logits, and the unchanged expansion point."""
        return self.logits(displacement, point, images), point

    def relative_magnitude(self, displacement: Params, point: dict[str, Any], images: jax.Array) -> jax.Array:
        """‖J δ‖² / ‖f_θₜ‖² for every image, (B,); infinite or undefined where f_θₜ(x) = 0, as before training.

        Source: Loo et al. 2022, Fig. 2, right column (mean over the test set).
        """
        zeroth, first = self.terms(displacement, point, images)
        return jnp.sum(first**2, axis=-1) / jnp.sum(zeroth**2, axis=-1)
