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


@dataclass(frozen=True)
class Attack:
    """Projected gradient descent in the ℓ∞ ball of radius ``epsilon`` and the box [0, 1] (pixel units)."""

    epsilon: float
    step_size: float
    steps: int
    random_start: bool

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> "Attack":
        """From resolved settings; ``step_size`` of null stands for 2 ε / steps."""
        steps = spec["steps"]
        step_size = 2 * spec["epsilon"] / steps if spec["step_size"] is None else spec["step_size"]
        return cls(spec["epsilon"], step_size, steps, spec["random_start"])


def _margin(predict: Predictor, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Sum over images of m = log Σ_{j≠y} exp(f_j) − f_y, for which the cross-entropy is log(1 + exp m).

    The cross-entropy's gradient is a positive multiple of ∇m, image by image, so both have the same sign; but in
    float32 it rounds to zero for confident predictors, which would pass for robustness. ∇m never does.
    """
    logits = predict(images)
    true = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return jnp.sum(jax.nn.logsumexp(logits, axis=-1, where=~true) - jnp.sum(logits, axis=-1, where=true))


@partial(jax.jit, static_argnames="attack")
def _pgd_step(predict: Predictor, x: jax.Array, images: jax.Array, labels: jax.Array, attack: Attack) -> jax.Array:
    gradient = jax.grad(_margin, argnums=1)(predict, x, labels)
    x = jnp.clip(x + attack.step_size * jnp.sign(gradient), 0, 1)
    return images + jnp.clip(x - images, -attack.epsilon, attack.epsilon)


def pgd(
    predict: Predictor, images: jax.Array, labels: jax.Array, key: jax.Array, attack: Attack, execution: Execution
) -> jax.Array:
    """Untargeted PGD on the cross-entropy with true labels; the last iterate.

    x ← clip(x + α sign ∇ₓ CE(f(x), y), 0, 1), then x ← x₀ + clip(x − x₀, −ε, ε), from x₀ + U(−ε, ε) clipped to the
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
    x = images
    if attack.random_start:
        noise = jax.random.uniform(key, images.shape, images.dtype, -attack.epsilon, attack.epsilon)
        x = jnp.clip(images + noise, 0, 1)
    return execution.loop(0, attack.steps, lambda _, x: _pgd_step(predict, x, images, labels, attack), x)
