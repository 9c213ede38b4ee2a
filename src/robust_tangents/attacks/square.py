"""The Square attack: random search that needs no gradient, and so a witness against masked ones."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robust_tangents.attacks.apgd import Items
from robust_tangents.attacks.ball import Ball, Predictor
from robust_tangents.attacks.losses import correct, margins
from robust_tangents.execution import Execution

# Queries after which the share of changed pixels halves (Andriushchenko et al. 2020), and the share at first.
_HALVES = jnp.array([10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000])
_SHARE = 0.8


class Search(NamedTuple):
    """Where the search stands, by item: the point of the largest margin so far, that margin, and whether it fell."""

    x: jax.Array
    margin: jax.Array
    fallen: jax.Array


@partial(jax.tree_util.register_dataclass, data_fields=("ball",), meta_fields=())
@dataclass(frozen=True)
class Square:
    """Settings of the Square attack."""

    ball: Ball


def _side(query: int | jax.Array, height: int, width: int, least: int) -> jax.Array:
    """Side of the square that a query changes."""
    share = _SHARE / 2 ** jnp.sum(query > _HALVES)
    side = jnp.maximum(jnp.round(jnp.sqrt(share * height * width)), least)
    return jnp.minimum(side, min(height, width)).astype(jnp.int32)


def _window(key: jax.Array, side: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Rows and columns of a random square, counted from its corner; inside where both are from 0 to side − 1."""
    of_row, of_column = jax.random.split(key)
    top = jax.random.randint(of_row, (), 0, height - side + 1)
    left = jax.random.randint(of_column, (), 0, width - side + 1)
    return jnp.arange(height)[:, None] - top, jnp.arange(width)[None, :] - left


def _inside(rows: jax.Array, columns: jax.Array, side: jax.Array) -> jax.Array:
    return ((rows >= 0) & (rows < side) & (columns >= 0) & (columns < side))[..., None]


def _signs(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.rademacher(key, shape, jnp.float32)


def _sum_of_squares(count: jax.Array) -> jax.Array:
    """Σ 1 / m² for 1 ≤ m ≤ count, of counts up to 1024."""
    table = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, 1025) ** 2)])
    return jnp.asarray(table, jnp.float32)[jnp.clip(count, 0, 1024)]


def _hill(rows: jax.Array, columns: jax.Array, height: jax.Array, width: jax.Array) -> jax.Array:
    """A hill of unit norm on a rectangle, from its row and column numbers: Σ_{m ≥ k} 1 / (m + 1)² at distance k."""
    away = jnp.maximum(jnp.abs(rows - height // 2), jnp.abs(columns - width // 2))
    top = _sum_of_squares(jnp.maximum(height, width) // 2 + 1)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    hill = jnp.where(inside, jnp.maximum(top - _sum_of_squares(away), 0), 0)
    return hill / jnp.maximum(jnp.sqrt(jnp.sum(hill**2)), 1e-12)


def _hills(rows: jax.Array, columns: jax.Array, side: jax.Array, turned: jax.Array) -> jax.Array:
    """A hill on one half of a square and a valley on the other, of unit norm together, (H, W, 1)."""
    rows, columns = jnp.where(turned, columns, rows), jnp.where(turned, rows, columns)
    upper = side // 2
    both = _hill(rows, columns, upper, side) - _hill(rows - upper, columns, side - upper, side)
    return (both / jnp.maximum(jnp.sqrt(jnp.sum(both**2)), 1e-12))[..., None]


def _norm(values: jax.Array, axes: tuple[int, ...] | None = None) -> jax.Array:
    return jnp.sqrt(jnp.sum(values**2, axis=axes, keepdims=axes is not None))


def _stripes(ball: Ball, image: jax.Array, key: jax.Array) -> jax.Array:
    """ℓ∞: vertical stripes of ± ε, for each channel its own. ℓ2: a grid of 5 × 5 hills of random sign, of norm ε."""
    height, width, channels = image.shape
    if ball.norm == "linf":
        return ball.epsilon * jnp.broadcast_to(_signs(key, (1, width, channels)), image.shape)
    side = max(min(height, width) // 5, 1)
    rows, columns = (jnp.arange(size) - max((size - 5 * side) // 2, 0) for size in (height, width))
    tile = (rows[:, None] // side) * 5 + columns[None, :] // side
    hills = _hills(rows[:, None] % side, columns[None, :] % side, jnp.int32(side), jnp.bool_(False))
    inside = _inside(rows[:, None], columns[None, :], jnp.int32(5 * side))
    signs = _signs(key, (25, channels))[jnp.clip(tile, 0, 24)]
    offset = jnp.where(inside, hills * signs, 0)
    return ball.epsilon * offset / jnp.maximum(_norm(offset), 1e-12)


def _proposal(ball: Ball, offset: jax.Array, key: jax.Array, query: int | jax.Array) -> jax.Array:
    """Another offset that differs from the best one so far in a random square."""
    height, width, channels = offset.shape
    of_window, of_signs, of_other, of_turn = jax.random.split(key, 4)
    if ball.norm == "linf":
        side = _side(query, height, width, 1)
        inside = _inside(*_window(of_window, side, height, width), side)
        return jnp.where(inside, ball.epsilon * _signs(of_signs, (1, 1, channels)), offset)
    side = _side(query, height, width, 3)
    side = jnp.minimum(side + (side + 1) % 2, min(height, width))  # odd where there is room
    rows, columns = _window(of_window, side, height, width)
    inside = _inside(rows, columns, side)
    emptied = _inside(*_window(of_other, side, height, width), side)
    # The norm of both squares, and what is left of the ball, goes into the first.
    slack = jnp.maximum(ball.epsilon**2 - jnp.sum(offset**2), 0) / channels
    taken = _norm(jnp.where(inside | emptied, offset, 0), (0, 1))
    here = jnp.where(inside, offset, 0)
    turned = jax.random.bernoulli(of_turn)
    change = _hills(rows, columns, side, turned) * _signs(of_signs, (1, 1, channels))
    change += here / jnp.maximum(_norm(here, (0, 1)), 1e-12)
    change *= jnp.sqrt(slack + taken**2) / jnp.maximum(_norm(change, (0, 1)), 1e-12)
    result = jnp.where(inside, change, jnp.where(emptied, 0, offset))
    return ball.epsilon * result / jnp.maximum(_norm(result), 1e-12)


@jax.jit
def _query(
    predict: Predictor, search: Search, images: jax.Array, labels: jax.Array, keys: jax.Array, settings: Square, query
) -> Search:
    ball = settings.ball
    own = jax.vmap(jax.random.fold_in, (0, None))(keys, query)
    first = jax.vmap(partial(_stripes, ball))(images, own)
    later = jax.vmap(partial(_proposal, ball), (0, 0, None))(search.x - images, own, query)
    x = ball.clip(images + jnp.where(query == 0, first, later))
    logits = predict(x)
    margin = margins(logits, labels)
    better = (query == 0) | (margin > search.margin)
    return Search(
        x=jnp.where(better[:, None, None, None], x, search.x),
        margin=jnp.where(better, margin, search.margin),
        fallen=search.fallen | ~correct(logits, labels),
    )


def begin(images: jax.Array) -> Search:
    """Before the first query."""
    count = len(images)
    return Search(images, jnp.full(count, -jnp.inf), jnp.zeros(count, bool))


def square(predict: Predictor, items: Items, settings: Square, queries: int, execution: Execution) -> Search:
    """The Square attack on a batch.

    Query 0 draws stripes (ℓ2: hills); every later one changes a random square of the best image so far, whose area
    shrinks from 0.8 of the image, and keeps the change if the margin max_{j≠y} f_j − f_y rises. In ℓ∞ the square
    becomes + ε or − ε in each channel; in ℓ2 it takes over the norm of another square in the shape of two hills.

    Args:
        items: what is attacked; targets play no part.

    Raises:
        InputError: images outside the attack's box.

    Source: Andriushchenko et al. 2020, algorithms 1 to 3; schedule of AutoAttack (not rescaled to the queries).
    """
    settings.ball.check(items.images)
    return go_on(predict, begin(items.images), items, settings, (0, queries), execution)


def go_on(
    predict: Predictor,
    search: Search,
    items: Items,
    settings: Square,
    queries: tuple[int | jax.Array, int | jax.Array],
    execution: Execution,
) -> Search:
    """Go on with a search, from `begin` or from some point, from a query to the one behind the last (see `square`)."""
    run = _compiled if execution.compiled_loops else _run
    return run(predict, search, items, settings, queries, execution)


def _run(predict, search, items, settings, queries, execution) -> Search:
    def body(query: int | jax.Array, search: Search) -> Search:
        return _query(predict, search, items.images, items.labels, items.keys, settings, query)

    return execution.loop(*queries, body, search)


# A loop outside of a compiled program would be compiled again at every call.
_compiled = partial(jax.jit, static_argnames="execution")(_run)
