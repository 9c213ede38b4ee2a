"""Accuracy on clean and attacked images, and whether the attack can be believed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robust_tangents.attack_checks import failed_checks
from robust_tangents.attacks import Attack, Predictor, pgd
from robust_tangents.execution import Execution
from robust_tangents.training import as_float


@dataclass(frozen=True)
class Robustness:
    """How robust accuracy is measured: PGD on the cross-entropy and, with restarts, on the margin."""

    attack: Attack
    margin_restarts: int

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> "Robustness":
        """From the resolved settings of an attack."""
        return cls(Attack.of(spec), spec["margin_restarts"])


@jax.jit
def _clean(predict: Predictor, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether each image is classified correctly, and whether its cross-entropy has a gradient of exactly zero."""

    def loss(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = predict(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum(), logits

    gradient, logits = jax.grad(loss, has_aux=True)(images)
    return jnp.argmax(logits, axis=-1) == labels, jnp.all(gradient == 0, axis=(1, 2, 3))


@jax.jit
def _correct(predict: Predictor, images: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.argmax(predict(images), axis=-1) == labels


def spread(count: int, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Rows of each batch, spread evenly over 0 … count − 1, and how many of them count.

    A smaller batch is filled up with repeated rows, so that one compiled program serves all.
    """
    batches = -(-count // batch_size)
    for batch in range(batches):
        rows = np.arange(batch, count, batches)
        yield np.resize(rows, min(batch_size, count)), len(rows)


def at_once(count: int, batch_size: int) -> int:
    """Images to evaluate at once: a training batch, but at least 100 of them, since small batches waste time."""
    return min(count, max(batch_size, 100))


def _survives(
    predict: Predictor, images: jax.Array, labels: jax.Array, key: jax.Array, attack: Attack, execution: Execution
) -> jax.Array:
    return _correct(predict, pgd(predict, images, labels, key, attack, execution), labels)


def robustness(
    predict: Predictor,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    settings: Robustness,
    execution: Execution,
    batch_size: int,
) -> dict[str, float]:
    """Clean and robust accuracy with the figures that tell whether to believe the latter.

    An image counts as robust if it is classified correctly after every attack: PGD on the cross-entropy, and PGD of
    the same strength on the margin with ``margin_restarts`` random starts.

    Args:
        images: (N, H, W, channels), 8-bit or in [0, 1]; evaluated in batches that are spread over the whole set.
        key: for random starts.

    Returns:
        Fractions of images: ``accuracy``; ``robust_accuracy``, the worst of the attacks image by image;
        ``pgd_accuracy`` and ``margin_accuracy`` for each kind of attack alone; ``zero_gradient``, those whose
        cross-entropy has an input gradient of exactly zero in float32. On the first batch only, ``checked_accuracy``,
        ``half_steps_accuracy`` and ``half_epsilon_accuracy`` under PGD on the cross-entropy as set, with half the
        steps, and in half the ball. And 0 or 1 for each of `attack_checks.CHECKS`.
    """
    attack, count = settings.attack, len(labels)
    margin = replace(attack, on_margin=True, random_start=attack.random_start or settings.margin_restarts > 1)
    totals = dict.fromkeys(("accuracy", "robust_accuracy", "pgd_accuracy", "margin_accuracy", "zero_gradient"), 0.0)
    checked: dict[str, float] = {}
    for batch, (rows, kept) in enumerate(spread(count, batch_size)):
        x, y, key_of_batch = as_float(images[rows]), labels[rows], jax.random.fold_in(key, batch)
        keys = [jax.random.fold_in(key_of_batch, start) for start in range(settings.margin_restarts + 1)]
        pgd_survived = _survives(predict, x, y, keys[0], attack, execution)[:kept]
        margin_survived = jnp.ones(kept, bool)
        for restart in keys[1:]:
            margin_survived &= _survives(predict, x, y, restart, margin, execution)[:kept]
        correct, without_gradient = _clean(predict, x, y)
        found = {
            "accuracy": correct[:kept],
            "robust_accuracy": pgd_survived & margin_survived,
            "pgd_accuracy": pgd_survived,
            "margin_accuracy": margin_survived,
            "zero_gradient": without_gradient[:kept],
        }
        for name, values in found.items():
            totals[name] += float(values.sum()) / count
        if batch == 0:
            weaker = {
                "half_steps": replace(attack, steps=(attack.steps + 1) // 2),
                "half_epsilon": replace(attack, epsilon=attack.epsilon / 2, step_size=attack.step_size / 2),
            }
            checked["checked_accuracy"] = float(pgd_survived.mean())
            for name, weak in weaker.items():
                survived = _survives(predict, x, y, keys[0], weak, execution)[:kept]
                checked[f"{name}_accuracy"] = float(survived.mean())
            checked["checked_images"] = kept
    return {**totals, **checked, **failed_checks({**totals, **checked})}


def accuracy(predict: Predictor, images: np.ndarray, labels: np.ndarray, batch_size: int) -> float:
    """Fraction of images (N, H, W, channels), 8-bit or in [0, 1], that are classified correctly."""
    batches = spread(len(labels), batch_size)
    found = [_correct(predict, as_float(images[rows]), labels[rows])[:kept].sum() for rows, kept in batches]
    return float(sum(found)) / len(labels)


def transfer_matrix(
    predictors: Sequence[Predictor],
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    attack: Attack,
    execution: Execution,
    batch_size: int,
) -> np.ndarray:
    """Accuracy of every predictor on attacks made on every predictor, (sources, targets), as fractions of images.

    Attacked images stay floating-point numbers. The diagonal is the white-box ``pgd_accuracy`` of `robustness` with
    the same key and batches.
    """
    correct = np.zeros((len(predictors), len(predictors)))
    for batch, (rows, kept) in enumerate(spread(len(labels), batch_size)):
        x, y = as_float(images[rows]), labels[rows]
        start = jax.random.fold_in(jax.random.fold_in(key, batch), 0)
        for source, predict in enumerate(predictors):
            attacked = pgd(predict, x, y, start, attack, execution)
            for target, other in enumerate(predictors):
                correct[source, target] += float(_correct(other, attacked, y)[:kept].sum())
    return correct / len(labels)


def attacked(
    predict: Predictor,
    images: np.ndarray,
    labels: np.ndarray,
    key: jax.Array,
    attack: Attack,
    execution: Execution,
    batch_size: int,
) -> np.ndarray:
    """All images (N, H, W, channels) under `attacks.pgd`, as float32 in [0, 1], kept outside the device."""
    result = np.zeros(images.shape, np.float32)
    for batch, (rows, kept) in enumerate(spread(len(labels), batch_size)):
        x, y = as_float(images[rows]), labels[rows]
        made = pgd(predict, x, y, jax.random.fold_in(key, batch), attack, execution)
        result[rows[:kept]] = made[:kept]
    return result
