"""What attacks increase, as functions of logits that do not depend on how confident a predictor is."""

from typing import Literal

import jax
import jax.numpy as jnp

from robust_tangents.attacks.ball import Predictor

Loss = Literal["cross_entropy", "margin", "dlr"]

LOSSES: tuple[Loss, ...] = ("cross_entropy", "margin", "dlr")
"""A loss is passed to compiled programs as its place in this list, so that all losses share them."""


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the largest logit is that of the label, (B,); false where logits are not finite."""
    return (jnp.argmax(logits, axis=-1) == labels) & jnp.all(jnp.isfinite(logits), axis=-1)


def margins(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """max_{j≠y} f_j − f_y, (B,): positive where an image is misclassified."""
    true = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return jnp.max(logits, axis=-1, where=~true, initial=-jnp.inf) - jnp.sum(logits, axis=-1, where=true)


def losses(
    logits: jax.Array, labels: jax.Array, targets: jax.Array, kind: int | jax.Array, targeted: bool | jax.Array
) -> jax.Array:
    """A loss of `LOSSES` for each image, (B,), of which larger is better for the attack.

    cross_entropy: log Σ_{j≠y} exp f_j − f_y, of which the cross-entropy is the monotone function log(1 + exp ·): the
        same direction of steepest ascent and the same order of points, but no underflow where predictors are confident.
    margin: max_{j≠y} f_j − f_y (Carlini & Wagner 2017); targeted: f_t − f_y.
    dlr: the margin over f_π1 − f_π3, where π sorts the logits from the largest; targeted: (f_t − f_y) over
        f_π1 − (f_π3 + f_π4) / 2 (Croce & Hein 2020). Needs the classes of `attacks.CLASSES_OF_DLR`.

    Args:
        targets: (B,) classes to move to, where ``targeted``.
        kind: place in `LOSSES`.
    """
    classes = logits.shape[-1]
    true, aim = (jax.nn.one_hot(these, classes, dtype=bool) for these in (labels, targets))
    of_label = jnp.sum(logits, axis=-1, where=true)
    highest = jnp.max(logits, axis=-1, where=~true, initial=-jnp.inf)
    soft = jax.nn.logsumexp(logits, axis=-1, where=~true)
    rival = jnp.where(kind == LOSSES.index("cross_entropy"), soft, highest)
    rival = jnp.where(targeted, jnp.sum(logits, axis=-1, where=aim), rival)
    ordered, _ = jax.lax.top_k(logits, min(classes, 4))
    first, third, fourth = (ordered[:, min(place, classes - 1)] for place in (0, 2, 3))
    scale = jnp.where(targeted, first - (third + fourth) / 2, first - third)
    scale = jnp.where(kind == LOSSES.index("dlr"), jnp.maximum(scale, 1e-12), 1)
    return (rival - of_label) / scale


def ascent(
    predict: Predictor,
    x: jax.Array,
    labels: jax.Array,
    targets: jax.Array,
    kind: int | jax.Array,
    targeted: bool | jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradient of `losses` at every image, (B, H, W, C), the losses (B,), and the logits (B, classes).

    Where a derivative is not finite the gradient is 0, or the next point would be none.
    """

    def total(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        logits = predict(x)
        values = losses(logits, labels, targets, kind, targeted)
        return jnp.sum(values), (values, logits)  # the sum, so that images do not share their gradients' scale

    gradient, (values, logits) = jax.grad(total, has_aux=True)(x)
    return jnp.where(jnp.isfinite(gradient), gradient, 0), values, logits
