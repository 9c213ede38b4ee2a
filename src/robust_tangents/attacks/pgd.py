"""Projected gradient descent, the attack of training and of the papers' measurements."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from robust_tangents.attacks.ball import Ball, Norm, Predictor, length, unit
from robust_tangents.execution import Execution


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("epsilon", "step_size", "steps", "random_start", "on_margin", "targeted", "low", "high"),
    meta_fields=("norm",),
)
@dataclass(frozen=True)
class Attack:
    """Projected gradient descent in the ball of radius ``epsilon`` and the box [low, high], [0, 1] unless said.

    A pytree of numbers, so that all attacks on a predictor in one norm share one compiled program.

    Attributes:
        on_margin: increase the margin max_{j≠y} f_j − f_y (Carlini & Wagner 2017), whose gradient does not depend on
            how confident the predictor is, instead of the cross-entropy.
        targeted: decrease the loss with respect to the labels given, which are targets, instead of increasing it.
        norm: of the ball: ℓ∞ ("linf") or ℓ2 over all pixels and channels of an image ("l2").
    """

    epsilon: float | jax.Array
    step_size: float | jax.Array
    steps: int | jax.Array
    random_start: bool | jax.Array
    on_margin: bool | jax.Array = False
    targeted: bool | jax.Array = False
    norm: Norm = "linf"
    low: float | jax.Array = 0.0
    high: float | jax.Array = 1.0

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> "Attack":
        """From resolved settings; ``step_size`` of null stands for 2 ε / steps."""
        steps = spec["steps"]
        step_size = 2 * spec["epsilon"] / steps if spec["step_size"] is None else spec["step_size"]
        return cls(spec["epsilon"], step_size, steps, spec["random_start"], norm=spec["norm"])

    @property
    def ball(self) -> Ball:
        """Where its images may be."""
        return Ball(self.epsilon, self.norm, self.low, self.high)

    def start(self, images: jax.Array, key: jax.Array) -> jax.Array:
        """Images displaced at random inside the ball and clipped to the box; as they are without a random start.

        ℓ∞: uniform in the ball. ℓ2: in a uniformly random direction by a uniform share of the radius. From one key for
        the batch, or from one for each image, which makes an image's start independent of the batch.
        """
        if key.ndim:
            return jnp.where(self.random_start, self.ball.random(images, key), images)
        if self.norm == "linf":
            noise = jax.random.uniform(key, images.shape, images.dtype, -1, 1)
        else:
            of_direction, of_length = jax.random.split(key)
            share = jax.random.uniform(of_length, (len(images), 1, 1, 1), images.dtype)
            noise = share * unit(jax.random.normal(of_direction, images.shape, images.dtype))
        return self.ball.clip(images + noise * self.epsilon * self.random_start)

    def step(self, x: jax.Array, gradient: jax.Array, images: jax.Array) -> jax.Array:
        """One step of length ``step_size`` uphill, back into the box, back into the ball around ``images``."""
        if self.norm == "linf":
            x = self.ball.clip(x + self.step_size * jnp.sign(gradient))
            return images + jnp.clip(x - images, -self.epsilon, self.epsilon)
        offset = self.ball.clip(x + self.step_size * unit(gradient)) - images
        return images + offset * jnp.minimum(1, self.epsilon / jnp.maximum(length(offset), 1e-12))


def _summed_loss(predict: Predictor, images: jax.Array, labels: jax.Array, attack: Attack) -> jax.Array:
    """Sum over images of what an attack increases; the sum, so that images do not share their gradients' scale.

    For the cross-entropy this is m = log Σ_{j≠y} exp(f_j) − f_y, of which it is the monotone function log(1 + exp m).
    Its gradient is a positive multiple of ∇m, image by image, so both have the same direction; but in float32 it
    rounds to zero for confident predictors, which would pass for robust. ∇m never does.
    """
    logits = predict(images)
    true = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    highest = jnp.max(logits, axis=-1, where=~true, initial=-jnp.inf)
    others = jnp.where(attack.on_margin, highest, jax.nn.logsumexp(logits, axis=-1, where=~true))
    loss = jnp.sum(others - jnp.sum(logits, axis=-1, where=true))
    return jnp.where(attack.targeted, -loss, loss)


@jax.jit
def _pgd_step(predict: Predictor, x: jax.Array, images: jax.Array, labels: jax.Array, attack: Attack) -> jax.Array:
    return attack.step(x, jax.grad(_summed_loss, argnums=1)(predict, x, labels, attack), images)


def pgd(
    predict: Predictor,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    attack: Attack,
    execution: Execution,
    *,
    coupled: bool = False,
) -> jax.Array:
    """PGD with true labels, or towards targets; the last iterate.

    x ← start, then ``steps`` times x ← P(x + α d), where d is the direction of ∇ₓ L(f(x), y) (of −∇ₓ L(f(x), t) where
    targeted): its sign in ℓ∞, its unit vector in ℓ2. P clips to the box [0, 1] and projects on the ball around x₀.

    Args:
        predict: logits of the attacked predictor, in the mode in which it is attacked.
        images: (B, H, W, C), in the attack's box.
        labels: (B,) integers.
        key: for the random start: one, or one for each image.
        coupled: whether the logits of an image depend on the others, as with batch norm in training mode.

    Returns:
        Images of the same shape in the ball around ``images`` and in the box.

    Raises:
        InputError: images outside the box.

    Source: Loo et al. 2022, section 2; authors' code (their start point, which adds the noise twice, is not kept).
        ℓ2 and targets: Su et al. 2023, authors' code.
    """
    attack.ball.check(images)
    run = _compiled_pgd if execution.compiled_loops else _pgd
    return run(predict, images, labels, key, attack, execution, coupled)


def _pgd(predict, images, labels, key, attack, execution, coupled) -> jax.Array:
    def ascend(x: jax.Array, images: jax.Array, labels: jax.Array) -> jax.Array:
        return execution.loop(0, attack.steps, lambda _, x: _pgd_step(predict, x, images, labels, attack), x)

    x = attack.start(images, key)
    return ascend(x, images, labels) if coupled else execution.by_parts(ascend, x, images, labels)


# A loop outside of a compiled program would be compiled again at every call.
_compiled_pgd = partial(jax.jit, static_argnames=("execution", "coupled"))(_pgd)


@jax.jit
def _divergence_step(predict: Predictor, x: jax.Array, images: jax.Array, clean: jax.Array, attack: Attack):
    def divergence(x: jax.Array) -> jax.Array:
        return jnp.sum(kl_divergence(clean, predict(x)))

    return attack.step(x, jax.grad(divergence)(x), images)


def kl_divergence(first: jax.Array, second: jax.Array) -> jax.Array:
    """KL(p ‖ q) = Σ_c p_c (log p_c − log q_c) of the probabilities behind two sets of logits (B, C), (B,)."""
    p, q = jax.nn.log_softmax(first), jax.nn.log_softmax(second)
    return jnp.sum(jnp.exp(p) * (p - q), axis=-1)


def divergence_attack(
    predict: Predictor, images: jax.Array, key: jax.Array, attack: Attack, execution: Execution
) -> jax.Array:
    """The attack inside TRADES: PGD on KL(p(x₀) ‖ p(x)), without labels, from x₀ + 0.001 N(0, I).

    The random start of ``attack`` plays no part: at x₀ itself the gradient is zero, so the noise is always there.

    Raises:
        InputError: images outside the attack's box.

    Source: Zhang et al. 2019; Su et al. 2023, authors' code. In ℓ2 the start is left as it is there, too.
    """

    def ascend(x: jax.Array, images: jax.Array) -> jax.Array:
        clean = predict(images)
        return execution.loop(0, attack.steps, lambda _, x: _divergence_step(predict, x, images, clean, attack), x)

    attack.ball.check(images)
    x = images + 0.001 * jax.random.normal(key, images.shape, images.dtype)
    return execution.by_parts(ascend, x, images)
