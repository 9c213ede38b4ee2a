"""Adversarial attacks on any predictor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from robust_tangents.execution import Execution

Predictor = Callable[[jax.Array], jax.Array]
"""Images (B, H, W, C) to logits (B, classes). A `jax.tree_util.Partial`, so that parameters are not compiled in."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("epsilon", "step_size", "steps", "random_start", "on_margin"),
    meta_fields=(),
)
@dataclass(frozen=True)
class Attack:
    """Projected gradient descent in the ℓ∞ ball of radius ``epsilon`` and the box [0, 1] (pixel units).

    A pytree of numbers, so that all attacks on a predictor share one compiled program.

    Attributes:
        on_margin: increase the margin max_{j≠y} f_j − f_y (Carlini & Wagner 2017), whose gradient does not depend on
            how confident the predictor is, instead of the cross-entropy.
    """

    epsilon: float | jax.Array
    step_size: float | jax.Array
    steps: int | jax.Array
    random_start: bool | jax.Array
    on_margin: bool | jax.Array = False

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> "Attack":
        """From resolved settings; ``step_size`` of null stands for 2 ε / steps."""
        steps = spec["steps"]
        step_size = 2 * spec["epsilon"] / steps if spec["step_size"] is None else spec["step_size"]
        return cls(spec["epsilon"], step_size, steps, spec["random_start"])


def _summed_loss(predict: Predictor, images: jax.Array, labels: jax.Array, on_margin: bool | jax.Array) -> jax.Array:
    """Sum over images of what an attack increases; the sum, so that images do not share their gradients' scale.

    For the cross-entropy this is m = log Σ_{j≠y} exp(f_j) − f_y, of which it is the monotone function log(1 + exp m).
    Its gradient is a positive multiple of ∇m, image by image, so both have the same sign; but in float32 it rounds to
    zero for confident predictors, which would pass for robustness. ∇m never does.
    """
    logits = predict(images)
    true = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    highest = jnp.max(logits, axis=-1, where=~true, initial=-jnp.inf)
    others = jnp.where(on_margin, highest, jax.nn.logsumexp(logits, axis=-1, where=~true))
    return jnp.sum(others - jnp.sum(logits, axis=-1, where=true))


@jax.jit
def _pgd_step(predict: Predictor, x: jax.Array, images: jax.Array, labels: jax.Array, attack: Attack) -> jax.Array:
    gradient = jax.grad(_summed_loss, argnums=1)(predict, x, labels, attack.on_margin)
    x = jnp.clip(x + attack.step_size * jnp.sign(gradient), 0, 1)
    return images + jnp.clip(x - images, -attack.epsilon, attack.epsilon)


def pgd(
    predict: Predictor, images: jax.Array, labels: jax.Array, key: jax.Array, attack: Attack, execution: Execution
) -> jax.Array:
    """Untargeted PGD with true labels; the last iterate.

    x ← clip(x + α sign ∇ₓ L(f(x), y), 0, 1), then x ← x₀ + clip(x − x₀, −ε, ε), from x₀ + U(−ε, ε) clipped to the
    box (or from x₀).

    Args:
        predict: logits of the attacked predictor, in the mode in which it is attacked.
        images: (B, H, W, C), in [0, 1].
        labels: (B,) integers.
        key: for the random start.

    Returns:
        Images of the same shape in the ball around ``images`` and in [0, 1].

    Source: Loo et al. 2022, section 2; authors' code (their start point, which adds the noise twice, is not kept).
    """
    noise = jax.random.uniform(key, images.shape, images.dtype, -1, 1) * attack.epsilon * attack.random_start
    x = jnp.clip(images + noise, 0, 1)
    return execution.loop(0, attack.steps, lambda _, x: _pgd_step(predict, x, images, labels, attack), x)
