"""Networks in the neighbourhood of a checkpoint: second-stage training, on a frozen kernel or, as controls, on none."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from robust_tangents.execution import Execution
from robust_tangents.models import BatchStats, Network, Params

# Shares h of the displacement over which attacks smooth an expansion; wider and narrower ones were weaker on digits.
_HALF_WIDTHS = (0.1, 0.3)

Variant = Literal["linearized", "centered", "nonlinear", "nonlinear_centered"]


def is_centered(variant: Variant) -> bool:
    """Whether a variant leaves out the checkpoint's output (see `Expansion.start`)."""
    return variant.endswith("centered")


@dataclass(frozen=True)
class Expansion:
    """A model around the checkpoint θₜ, a function of the displacement δ = θ − θₜ.

    linearized: f(x) = f_θₜ(x) + J_θₜ(x) δ;  centered: f(x) = J_θₜ(x) δ. Where ``linear`` is false, the exact difference
    f_θₜ₊δ(x) − f_θₜ(x) takes the place of J_θₜ(x) δ, so that "nonlinear" is the network trained on.

    The checkpoint is part of the model's statistics, so that one compiled program serves every checkpoint, with and
    without its output; one `jax.jvp` gives both linear terms.

    Attributes:
        linear: whether the network is replaced by its first-order expansion.
        free_batch_norm: whether training normalises by each batch and updates the running statistics, of f_θₜ as well;
            frozen (evaluation mode throughout) otherwise. Without a frozen batch norm the kernel changes.

    Source: Loo et al. 2022, section 4; "nonlinear" and free batch norm are switches of the authors' code.
    """

    network: Network
    linear: bool = True
    free_batch_norm: bool = False

    @classmethod
    def of(cls, network: Network, variant: Variant, batch_norm: Literal["frozen", "free"]) -> "Expansion":
        """The model of a variant; variants that differ only in `is_centered` share it, and its compiled programs."""
        return cls(network, not variant.startswith("nonlinear"), batch_norm == "free")

    @property
    def execution(self) -> Execution:
        return self.network.execution

    def start(self, params: Params, batch_stats: BatchStats, *, centered: bool) -> tuple[Params, dict[str, Any]]:
        """Displacement zero, and the checkpoint with the weight of its output (0 if centered)."""
        point = {"params": params, "batch_stats": batch_stats, "zeroth": jnp.float32(not centered)}
        return jax.tree.map(jnp.zeros_like, params), point

    def _expand(
        self, evaluate: Callable[[Network, Params], tuple[jax.Array, Any]], params: Params, displacement: Params
    ) -> tuple[jax.Array, jax.Array, Any]:
        """Both terms, and what ``evaluate``, which returns logits and something else, gives beside the logits."""
        if self.linear:
            evaluate = partial(evaluate, self.network.in_forward_mode())
            return jax.jvp(evaluate, (params,), (displacement,), has_aux=True)
        zeroth, _ = evaluate(self.network, params)
        displaced, beside = evaluate(self.network, jax.tree.map(jnp.add, params, displacement))
        return zeroth, displaced - zeroth, beside

    def terms(self, displacement: Params, point: dict[str, Any], images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """f_θₜ(x) and J_θₜ(x) δ (or the exact difference), each (B, classes), in evaluation mode."""

        def evaluate(network: Network, params: Params) -> tuple[jax.Array, None]:
            return network.logits(params, point["batch_stats"], images), None

        zeroth, first, _ = self._expand(evaluate, point["params"], displacement)
        return zeroth, first

    def logits(self, displacement: Params, point: dict[str, Any], images: jax.Array) -> jax.Array:
        """Logits (B, classes) in evaluation mode."""
        zeroth, first = self.terms(displacement, point, images)
        return point["zeroth"] * zeroth + first

    def smoothed_logits(
        self, displacement: Params, point: dict[str, Any], half_width: jax.Array, images: jax.Array
    ) -> jax.Array:
        """The same logits (B, classes), whose derivatives in the images are those of a central difference.

        J_θₜ(x) δ jumps where x crosses the boundary of a ReLU of the checkpoint, and its gradient is blind to that.
        [f_θₜ₊ₕδ(x) − f_θₜ₋ₕδ(x)] / 2h has no jumps: ReLUs of both networks switch in a band around the boundary, whose
        slope stands for the jump. The mean of both stands for f_θₜ(x), where it counts.
        """

        def at(share: jax.Array | float) -> jax.Array:
            params = jax.tree.map(lambda p, d: p + share * d, point["params"], displacement)
            return self.network.logits(params, point["batch_stats"], images)

        ahead, behind = at(half_width), at(-half_width)
        smooth = (ahead - behind) / (2 * half_width) + point["zeroth"] * (ahead + behind) / 2
        exact = jax.lax.stop_gradient(self.logits(displacement, point, images))
        return exact + (smooth - jax.lax.stop_gradient(smooth))

    def surrogates(self, displacement: Params, point: dict[str, Any]) -> tuple[Partial, ...]:
        """Predictors that attacks of a linear expansion follow beside itself (see `smoothed_logits`)."""
        if not self.linear:
            return ()
        return tuple(Partial(self.smoothed_logits, displacement, point, jnp.float32(h)) for h in _HALF_WIDTHS)

    def network_logits(self, displacement: Params, point: dict[str, Any], images: jax.Array) -> jax.Array:
        """Logits (B, classes) of the network itself at the displaced weights, in evaluation mode."""
        params = jax.tree.map(jnp.add, point["params"], displacement)
        return self.network.logits(params, point["batch_stats"], images)

    def train(self, displacement: Params, point: dict[str, Any], images: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        """Logits, and the checkpoint with its statistics updated where batch norm is free."""
        if not self.free_batch_norm:
            return self.logits(displacement, point, images), point

        def evaluate(network: Network, params: Params) -> tuple[jax.Array, BatchStats]:
            return network.train(params, point["batch_stats"], images)

        zeroth, first, batch_stats = self._expand(evaluate, point["params"], displacement)
        return point["zeroth"] * zeroth + first, {**point, "batch_stats": batch_stats}

    @partial(jax.jit, static_argnames="self")
    def relative_magnitude(self, displacement: Params, point: dict[str, Any], images: jax.Array) -> jax.Array:
        """‖J δ‖² / ‖f_θₜ‖² for every image, (B,); infinite or undefined where f_θₜ(x) = 0, as before training.

        Source: Loo et al. 2022, Fig. 2, right column (mean over the test set).
        """
        zeroth, first = self.terms(displacement, point, images)
        return jnp.sum(first**2, axis=-1) / jnp.sum(zeroth**2, axis=-1)
