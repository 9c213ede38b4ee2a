"""Auto-PGD: ascent with momentum whose step size halves where progress stops (Croce & Hein 2020)."""

from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robust_tangents.attacks.ball import Ball, Predictor
from robust_tangents.attacks.losses import ascent, correct, margins
from robust_tangents.execution import Execution

# Croce & Hein 2020, section 3: weight of the new step against momentum, share of steps that must rise, first
# checkpoint, by how much periods between checkpoints shrink, and the shortest, as shares of all steps.
_MOMENTUM, _RISING = 0.75, 0.75
_FIRST, _SHRINKS, _SHORTEST = 0.22, 0.03, 0.06
# Share of the steps, at the end, over which progress is noted (see `Found.risen`).
_LAST = 0.25


class Items(NamedTuple):
    """What is attacked, a row for each attempt at an image.

    Attributes:
        images: (B, H, W, C), in the ball's box.
        labels: (B,) true classes.
        targets: (B,) classes to move to, where the attack is targeted.
        keys: (B,) random keys, which belong to image and attempt, so that no result depends on the batch.
    """

    images: jax.Array
    labels: jax.Array
    targets: jax.Array
    keys: jax.Array


class Found(NamedTuple):
    """What an attack leaves, by item.

    Attributes:
        fallen: (B,) whether some point on the way was misclassified.
        x: (B, H, W, C) the point of the largest loss.
        margin: (B,) largest margin max_{j≠y} f_j − f_y on the way; where positive, the item has fallen.
        risen: (B,) by how much that margin rose in the last quarter of the steps.
        at_x: (B,) margin at the point of the largest loss.
    """

    fallen: jax.Array
    x: jax.Array
    margin: jax.Array
    risen: jax.Array
    at_x: jax.Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("ball", "kind", "targeted", "steps", "random_start"),
    meta_fields=(),
)
@dataclass(frozen=True)
class APGD:
    """Settings of Auto-PGD; a pytree, so that all losses and numbers of steps share one program for each norm.

    Attributes:
        kind: place of its loss in `losses.LOSSES`.
        steps: gradient steps.
        random_start: whether it begins at a random image of the ball, and not at the image itself.
    """

    ball: Ball
    kind: int | jax.Array
    targeted: bool | jax.Array
    steps: int | jax.Array
    random_start: bool | jax.Array


class State(NamedTuple):
    """Where an attack stands, by item."""

    x: jax.Array
    before: jax.Array
    step_size: jax.Array
    loss: jax.Array
    best: jax.Array
    best_gradient: jax.Array
    best_loss: jax.Array
    best_margin: jax.Array
    checked_loss: jax.Array
    rises: jax.Array
    halved: jax.Array
    fallen: jax.Array
    margin: jax.Array
    early_margin: jax.Array


@cache
def periods(steps: int) -> np.ndarray:
    """Steps since the last checkpoint where a step is a checkpoint of the schedule, else 0; (steps + 1,)."""
    result = np.zeros(steps + 1, np.int32)
    length, shortest, shrinks = (max(int(share * steps), 1) for share in (_FIRST, _SHORTEST, _SHRINKS))
    at = length
    while at <= steps:
        result[at] = length
        length = max(length - shrinks, shortest)
        at += length
    return result


def _wide(values: jax.Array) -> jax.Array:
    return values[:, None, None, None]


@jax.jit
def begin(items: Items, attack: APGD) -> State:
    """Before the first point."""
    images = items.images
    count = len(images)
    x = jnp.where(attack.random_start, attack.ball.random(images, items.keys), images)
    low = jnp.full(count, -jnp.inf)
    return State(
        x=x, before=x, step_size=jnp.full(count, 2 * jnp.float32(attack.ball.epsilon)), loss=low, best=x,
        best_gradient=jnp.zeros_like(x), best_loss=low, best_margin=low, checked_loss=low,
        rises=jnp.zeros(count, jnp.int32), halved=jnp.ones(count, bool), fallen=jnp.zeros(count, bool),
        margin=low, early_margin=low,
    )  # fmt: skip


@jax.jit
def _advance(
    predict: Predictor, state: State, items: Items, attack: APGD, step: int | jax.Array, period: int | jax.Array
) -> State:
    """Look at the point, note what it brings, halve step sizes where the schedule says so, and move on."""
    ball, images = attack.ball, items.images
    gradient, loss, logits = ascent(predict, state.x, items.labels, items.targets, attack.kind, attack.targeted)
    margin = margins(logits, items.labels)
    better = loss > state.best_loss
    best = jnp.where(_wide(better), state.x, state.best)
    best_gradient = jnp.where(_wide(better), gradient, state.best_gradient)
    best_loss = jnp.where(better, loss, state.best_loss)
    rises = state.rises + ((loss > state.loss) & (step > 0))
    largest = jnp.maximum(state.margin, margin)
    early = step <= jnp.ceil((1 - _LAST) * attack.steps)

    # At a checkpoint: too few steps rose, or neither the best point nor the step size changed since the last one.
    at_checkpoint = period > 0
    stuck = (rises <= _RISING * period) | (~state.halved & (best_loss <= state.checked_loss))
    stuck &= at_checkpoint
    step_size = jnp.where(stuck, state.step_size / 2, state.step_size)
    x = jnp.where(_wide(stuck), best, state.x)
    gradient = jnp.where(_wide(stuck), best_gradient, gradient)

    ahead = ball.project(x + _wide(step_size) * ball.direction(gradient, x), images)
    weight = jnp.where(step > 0, _MOMENTUM, 1.0)
    moved = ball.project(x + weight * (ahead - x) + (1 - weight) * (x - state.before), images)
    return State(
        x=moved,
        before=x,
        step_size=step_size,
        loss=loss,
        best=best,
        best_gradient=best_gradient,
        best_loss=best_loss,
        best_margin=jnp.where(better, margin, state.best_margin),
        checked_loss=jnp.where(at_checkpoint, best_loss, state.checked_loss),
        rises=jnp.where(at_checkpoint, 0, rises),
        halved=jnp.where(at_checkpoint, stuck, state.halved),
        fallen=state.fallen | ~correct(logits, items.labels),
        margin=largest,
        early_margin=jnp.where(early, largest, state.early_margin),
    )


def apgd(predict: Predictor, items: Items, attack: APGD, execution: Execution) -> Found:
    """Auto-PGD on a batch.

    x ← image or random start, η ← 2 ε; then ``steps`` times z ← P(x + η d), x ← P(x + ¾ (z − x) + ¼ (x − x₋₁)), with d
    the direction of steepest ascent of the loss in the norm. At checkpoints after 22 % of the steps, then at periods
    that shrink by 3 % to 6 %, an image goes back to its best point with η ← η / 2 if the loss rose in no more than ¾ of
    the steps since the last checkpoint, or if its best point is still the one of then though η was not halved there.

    Args:
        predict: logits of the attacked predictor, image by image.
        items: what is attacked.
        attack: settings.

    Raises:
        InputError: images outside the attack's box.

    Source: Croce & Hein 2020, algorithm 1; random starts are uniform in the ball, where theirs lie on its surface.
    """
    attack.ball.check(items.images)
    points = (0, int(attack.steps) + 1)
    return found(ascend(predict, begin(items, attack), items, attack, points, execution))


def ascend(
    predict: Predictor, state: State, items: Items, attack: APGD, points: tuple[int, int], execution: Execution
) -> State:
    """Go on with `apgd` over some of its steps + 1 points, of which the first and the one behind the last are given."""
    schedule = periods(int(attack.steps))[slice(*points)]
    if not execution.compiled_loops:
        for point, period in enumerate(schedule, points[0]):
            state = _advance(predict, state, items, attack, point, period)
        return state
    # Padded to a multiple, so that similar numbers of steps share a program.
    padded = np.resize(schedule, -(-len(schedule) // 128) * 128)
    return _compiled(predict, state, items, attack, jnp.asarray(padded), points)


@jax.jit
def _compiled(predict, state, items, attack, schedule, points) -> State:
    def body(point: jax.Array, state: State) -> State:
        return _advance(predict, state, items, attack, point, schedule[point - points[0]])

    return jax.lax.fori_loop(points[0], points[1], body, state)


def found(state: State) -> Found:
    """What is found once all points have been looked at."""
    return Found(
        fallen=state.fallen,
        x=state.best,
        margin=state.margin,
        risen=state.margin - state.early_margin,
        at_x=state.best_margin,
    )
