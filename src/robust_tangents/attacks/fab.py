"""Targeted FAB: the smallest change that reaches a class, found on the boundary (Croce & Hein 2020b)."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from robust_tangents.attacks.apgd import Items
from robust_tangents.attacks.ball import Ball, Predictor
from robust_tangents.attacks.losses import LOSSES, ascent, correct
from robust_tangents.execution import Execution

# Overshoot over the boundary, largest weight of the way from the original image, and step back towards it.
_OVERSHOOT, _LARGEST_BIAS, _BACK = 1.05, 0.1, 0.9


@partial(jax.tree_util.register_dataclass, data_fields=("ball", "steps", "random_start"), meta_fields=())
@dataclass(frozen=True)
class FAB:
    """Settings of targeted FAB.

    Attributes:
        steps: gradient steps.
        random_start: whether it begins at a random image of half the ball, and not at the image itself.
    """

    ball: Ball
    steps: int | jax.Array
    random_start: bool | jax.Array


class State(NamedTuple):
    """Where an attack stands, by item."""

    x: jax.Array
    fallen: jax.Array
    smallest: jax.Array


def to_hyperplane(ball: Ball, x: jax.Array, normal: jax.Array, offset: jax.Array) -> jax.Array:
    """Smallest step δ in the norm with ⟨w, δ⟩ = b and x + δ in the box; the nearest to that where none reaches it.

    Coordinates move in the direction of sign(b) w by min(t vᵢ, roomᵢ), with v = 1 in ℓ∞ and v = |w| in ℓ2; what they
    gain, Σ |wᵢ| min(t vᵢ, roomᵢ), is piecewise linear and rising in t, so that t follows from its sorted break points.

    Args:
        x: (B, H, W, C), in the box.
        normal: w, of the same shape.
        offset: b, (B,).
    """
    flat, w = x.reshape(len(x), -1), normal.reshape(len(x), -1)
    towards = jnp.sign(w) * jnp.sign(offset)[:, None]
    room = jnp.maximum(jnp.where(towards > 0, ball.high - flat, flat - ball.low), 0)
    weight = jnp.abs(w)
    speed = jnp.where(weight > 0, 1.0 if ball.norm == "linf" else weight, 0)
    stops = jnp.where(speed > 0, room / jnp.maximum(speed, 1e-30), 0)
    order = jnp.argsort(stops, axis=1)
    ordered = jnp.take_along_axis(stops, order, axis=1)
    gained = jnp.take_along_axis(weight * room, order, axis=1)
    rate = jnp.take_along_axis(weight * speed, order, axis=1)
    # At each break point: what stopped coordinates have gained, and the rate of those that still move.
    stopped = jnp.cumsum(gained, axis=1)
    moving = jnp.sum(rate, axis=1, keepdims=True) - jnp.cumsum(rate, axis=1)
    wanted = jnp.abs(offset)[:, None]
    reached = stopped + jnp.maximum(moving, 0) * ordered < wanted
    place = jnp.sum(reached, axis=1, keepdims=True)  # break points before the time looked for
    before = jnp.maximum(place - 1, 0)
    first = place == 0
    done = jnp.where(first, 0, jnp.take_along_axis(stopped, before, axis=1))
    going = jnp.where(first, jnp.sum(rate, axis=1, keepdims=True), jnp.take_along_axis(moving, before, axis=1))
    time = (wanted - done) / jnp.maximum(going, 1e-30)
    time = jnp.where(place == stops.shape[1], ordered[:, -1:], time)
    return (towards * jnp.minimum(time * speed, room)).reshape(x.shape)


@jax.jit
def _advance(predict: Predictor, state: State, items: Items, attack: FAB) -> State:
    ball, images = attack.ball, items.images
    wide = partial(jnp.expand_dims, axis=(1, 2, 3))
    # The hyperplane on which the linearised logits of target and label agree.
    gradient, gap, logits = ascent(predict, state.x, items.labels, items.targets, LOSSES.index("margin"), True)
    wrong = ~correct(logits, items.labels)
    distance = ball.distance(state.x, images)
    nearer = wrong & (distance < state.smallest)
    # An adversarial point: back towards the image, and the plane is taken there as it was here.
    x = jnp.where(wide(wrong), images + _BACK * (state.x - images), state.x)
    at_x = -gap - jnp.sum(gradient * (x - state.x), axis=(1, 2, 3))
    at_image = -gap - jnp.sum(gradient * (images - state.x), axis=(1, 2, 3))
    step, from_image = to_hyperplane(ball, x, gradient, at_x), to_hyperplane(ball, images, gradient, at_image)
    lengths = [ball.distance(images + move, images) for move in (step, from_image)]
    bias = wide(jnp.clip(lengths[0] / jnp.maximum(lengths[0] + lengths[1], 1e-12), 0, _LARGEST_BIAS))
    x = (1 - bias) * (x + _OVERSHOOT * step) + bias * (images + _OVERSHOOT * from_image)
    fallen = state.fallen | (wrong & (distance <= ball.epsilon * (1 + 1e-6)))
    return State(ball.clip(x), fallen, jnp.where(nearer, distance, state.smallest))


@jax.jit
def begin(items: Items, attack: FAB) -> State:
    """Before the first point."""
    images, ball = items.images, attack.ball
    away = ball.random(images, items.keys) - images
    x = jnp.where(attack.random_start, ball.clip(images + away / 2), images)
    return State(x, jnp.zeros(len(images), bool), jnp.full(len(images), jnp.inf))


def fab(predict: Predictor, items: Items, attack: FAB, execution: Execution) -> jax.Array:
    """Whether targeted FAB finds a misclassified point within the ball, (B,).

    Each step goes 1.05 times to the plane on which the linearised f_t − f_y vanishes, from the point and, with a weight
    of at most 0.1 that grows with the distance, from the image itself; from an adversarial point it first goes a tenth
    of the way back. Lengths are minimised, so that one run serves all radii; a point counts if it lies in the ball.

    Where the point is adversarial, the plane is the one found there, where the authors' code looks again after the way
    back: one gradient a step instead of two.

    Raises:
        InputError: images outside the attack's box.

    Source: Croce & Hein 2020b, algorithm 1, with the targets of AutoAttack.
    """
    attack.ball.check(items.images)
    return approach(predict, begin(items, attack), items, attack, (0, int(attack.steps) + 1), execution).fallen


def approach(
    predict: Predictor, state: State, items: Items, attack: FAB, points: tuple[int, int], execution: Execution
) -> State:
    """Go on with `fab` over some of its steps + 1 points, of which the first and the one behind the last are given."""
    run = _compiled if execution.compiled_loops else _run
    return run(predict, state, items, attack, points, execution)


def _run(predict, state, items, attack, points, execution) -> State:
    return execution.loop(*points, lambda _, state: _advance(predict, state, items, attack), state)


# A loop outside of a compiled program would be compiled again at every call.
_compiled = partial(jax.jit, static_argnames="execution")(_run)
