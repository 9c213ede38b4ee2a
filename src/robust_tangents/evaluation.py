"""Accuracy on clean and attacked images."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from robust_tangents.attacks import Attack, Predictor, pgd
from robust_tangents.execution import Execution
from robust_tangents.training import as_float


@jax.jit
def _correct(predict: Predictor, images: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.argmax(predict(images), axis=-1) == labels


def _attacked(predict, images, labels, key, attack, execution):
    attacked = pgd(predict, images, labels, key, attack, execution)
    return _correct(predict, attacked, labels)


_compiled = partial(jax.jit, static_argnames=("attack", "execution"))(_attacked)


def accuracies(
    predict: Predictor,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    attack: Attack,
    execution: Execution,
    batch_size: int,
) -> tuple[float, float]:
    """Clean and robust accuracy, each the fraction of all images that is classified correctly.

    Robust: after `attacks.pgd` with true labels on every image, last iterate, one restart. The result does not depend
    on ``batch_size`` but for the noise of the random start.
    """
    clean, robust = [], []
    for begin in range(0, len(labels), batch_size):
        # The last batch is filled up with repeated images, so that one compiled program serves all.
        rows = np.arange(begin, begin + batch_size) % len(labels)
        kept = min(batch_size, len(labels) - begin)
        x, y = as_float(images[rows]), labels[rows]
        run = _compiled if execution.compiled_loops else _attacked
        clean.append(_correct(predict, x, y)[:kept])
        robust.append(run(predict, x, y, jax.random.fold_in(key, begin), attack=attack, execution=execution)[:kept])
    return float(jnp.concatenate(clean).mean()), float(jnp.concatenate(robust).mean())
