"""Neural collapse: how features gather at the vertices of a simplex, and where attacked features go.

Notation: features h (N, d) of images of C classes; class means μ_c; global mean μ_G, weighted by class sizes; centred
means μ̇_c = μ_c − μ_G. Formulas are those of Su et al. 2023 (authors' code); where Papyan, Han and Donoho 2020 define a
measure differently, theirs stands beside it with the suffix ``_papyan``. All are 0 at collapse. NumPy in float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robust_tangents.evaluation import spread
from robust_tangents.training import as_float

Stages = Callable[[jax.Array], dict[str, jax.Array]]
"""Images to the outputs of some stages, "penultimate" and "logits" among them: a `Partial` of `Network.features`."""


@dataclass(frozen=True)
class Centres:
    """Class means of some features.

    Attributes:
        means: (C, d), float64.
        counts: (C,), images of each class.
    """

    means: np.ndarray
    counts: np.ndarray

    @cached_property
    def overall(self) -> np.ndarray:
        """μ_G (d,), weighted by class sizes."""
        return self.counts @ self.means / self.counts.sum()

    @cached_property
    def centred(self) -> np.ndarray:
        """μ̇ (C, d)."""
        return self.means - self.overall

    @cached_property
    def whitening(self) -> np.ndarray:
        """B (d, C) with B Bᵀ = Σ_B⁺, where Σ_B = Σ_c μ̇_c μ̇_cᵀ / C; columns beyond its rank are zero.

        From the thin singular value decomposition of μ̇, so that no d × d matrix is formed. Singular values below
        max(C, d) times the rounding error of the largest count as zero.
        """
        _, values, directions = np.linalg.svd(self.centred, full_matrices=False)
        kept = values > values.max(initial=0) * max(self.centred.shape) * np.finfo(np.float64).eps
        scale = np.divide(np.sqrt(len(self.means)), values, out=np.zeros_like(values), where=kept)
        return directions.T * scale


def _ratio(value: np.ndarray, norm: np.ndarray | np.floating) -> np.ndarray:
    """Undefined, without a warning, where the norm is zero (as that of an untrained classifier)."""
    return np.asarray(value) / np.where(norm > 0, norm, np.nan)


def equinorm(vectors: np.ndarray) -> float:
    """NC2, equal norms: standard deviation (with C − 1) over mean of the norms of (C, d) vectors."""
    norms = np.linalg.norm(vectors, axis=1)
    return float(_ratio(norms.std(ddof=1), norms.mean()))


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosines of all pairs of different vectors among (C, d), (C·(C − 1),); undefined where a vector is zero."""
    directions = _ratio(vectors, np.linalg.norm(vectors, axis=1, keepdims=True))
    return (directions @ directions.T)[~np.eye(len(vectors), dtype=bool)]


def equiangularity(vectors: np.ndarray) -> float:
    """NC2, equal and largest angles: mean over pairs of |cos + 1 / (C − 1)|; C vectors cannot all be further apart."""
    return float(np.abs(cosines(vectors) + 1 / (len(vectors) - 1)).mean())


def self_duality(weights: np.ndarray, centred: np.ndarray) -> float:
    """NC3: ‖W / ‖W‖ − μ̇ / ‖μ̇‖‖² in Frobenius norm, between 0 and 4, for classifier rows and centred means (C, d)."""
    difference = _ratio(weights, np.linalg.norm(weights)) - _ratio(centred, np.linalg.norm(centred))
    return float(np.sum(difference**2))


def angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Angles in radians between the rows of two (C, d) arrays, (C,); π/2 where a row is zero."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosine = np.divide(np.sum(first * second, axis=1), norms, out=np.zeros_like(norms), where=norms > 0)
    return np.arccos(np.clip(cosine, -1, 1))


def displacement(reference: Centres, other: Centres) -> dict[str, np.ndarray]:
    """How class means move from one condition (clean) to another: distances and angles class by class.

    Returns:
        ``distance``, ``angle``: of the means themselves, (C,); ``centred_distance``, ``centred_angle``: after taking
        away, on each side, the unweighted mean over classes, (C,); ``overall_distance``, ``overall_angle``: of these
        means over classes, scalars. Angles in radians: 0 is the same direction.

    Source: Su et al. 2023, authors' code; centred angles are their "simplex similarity", the others their
    "non-centered angular distance".
    """
    first, second = reference.means, other.means
    middle = first.mean(axis=0, keepdims=True), second.mean(axis=0, keepdims=True)
    centred = first - middle[0], second - middle[1]
    return {
        "distance": np.linalg.norm(first - second, axis=1),
        "angle": angles(first, second),
        "centred_distance": np.linalg.norm(centred[0] - centred[1], axis=1),
        "centred_angle": angles(*centred),
        "overall_distance": np.linalg.norm(middle[0] - middle[1], axis=1)[0],
        "overall_angle": angles(*middle)[0],
    }


def of_classifier(centres: Centres, weights: np.ndarray) -> dict[str, np.float64]:
    """NC2 of classifier rows (C, d), which are not centred, and NC3, for the features that the classifier sees."""
    duality = self_duality(weights, centres.centred)
    return {
        "classifier_equinorm": np.float64(equinorm(weights)),
        "classifier_equiangularity": np.float64(equiangularity(weights)),
        "nc3": np.float64(duality),
        "nc3_papyan": np.sqrt(duality),
    }


def of_means(centres: Centres) -> dict[str, float]:
    """NC2 of class means; Papyan's equiangularity is the standard deviation of their cosines."""
    return {
        "equinorm": equinorm(centres.centred),
        "equiangularity": equiangularity(centres.centred),
        "equiangularity_papyan": float(cosines(centres.centred).std()),
    }


# Passes over images. Each batch is summed in float32 on the device, batches are summed in float64.


def _flat(stages: Stages, images: jax.Array) -> dict[str, jax.Array]:
    return {name: value.reshape(len(images), -1) for name, value in stages(images).items()}


@jax.jit
def _sums(stages: Stages, images: jax.Array, members: jax.Array) -> dict[str, jax.Array]:
    """Sum over the images of each class, (C, d), by stage; ``members`` (C, B) says which image counts for which."""
    values = _flat(stages, images)
    del values["logits"]
    return {name: jnp.matmul(members, value, precision="highest") for name, value in values.items()}


@jax.jit
def _compare(
    stages: Stages, images: jax.Array, labels: jax.Array, centres: dict[str, dict[str, jax.Array]]
) -> tuple[dict[str, dict[str, jax.Array]], jax.Array]:
    """Per stage, per image: squared whitened distance to its own centre, and the nearest of each kind of centre."""
    values = _flat(stages, images)
    logits = values.pop("logits")

    def nearest(centred: jax.Array, means: jax.Array) -> jax.Array:
        inner = jnp.matmul(centred, means.T, precision="highest")
        return jnp.argmin(jnp.sum(means**2, axis=1) - 2 * inner, axis=1)

    found = {}
    for name, value in values.items():
        at = centres[name]
        value = value - at["origin"]  # near the centres, where differences keep their digits
        offset = jnp.matmul(value - at["own"][labels], at["whitening"], precision="highest")
        found[name] = {
            "squared": jnp.sum(offset**2, axis=1),
            "own": nearest(value, at["own"]),
            "clean": nearest(value, at["clean"]),
        }
    return found, logits


def class_centres(
    stages: Stages, images: np.ndarray, labels: np.ndarray, classes: int, batch_size: int
) -> dict[str, Centres]:
    """Class means of every stage but the logits.

    Args:
        images: (N, H, W, channels), 8-bit or in [0, 1].
        labels: (N,); every class must occur.
    """
    totals: dict[str, np.ndarray] = {}
    for rows, kept in spread(len(labels), batch_size):
        members = np.zeros((classes, len(rows)), np.float32)
        members[labels[rows[:kept]], np.arange(kept)] = 1
        for name, value in _sums(stages, as_float(images[rows]), members).items():
            totals[name] = totals.get(name, 0) + np.asarray(value, np.float64)
    counts = np.bincount(labels, minlength=classes)
    return {name: Centres(total / counts[:, None], counts) for name, total in totals.items()}


@dataclass(frozen=True)
class Spread:
    """How the features of some images lie around class centres, and what the network says of the images.

    Attributes:
        nc1: by stage, tr(Σ_W Σ_B⁺) with Σ_W = Σᵢ (hᵢ − μ_{yᵢ})(hᵢ − μ_{yᵢ})ᵀ / N around the images' own centres.
        nearest_own, nearest_clean: by stage, (N,) class of the nearest of the images' own centres, and of the clean
            centres.
        predictions: (N,) classes that the network predicts.
        loss: mean cross-entropy.
    """

    nc1: dict[str, float]
    nearest_own: dict[str, np.ndarray]
    nearest_clean: dict[str, np.ndarray]
    predictions: np.ndarray
    loss: float


def around_centres(
    stages: Stages,
    images: np.ndarray,
    labels: np.ndarray,
    own: dict[str, Centres],
    clean: dict[str, Centres],
    batch_size: int,
) -> Spread:
    """Second pass: spread around the centres of `class_centres`.

    Args:
        own: centres of these images (or of others, for the mixed measures of Su et al. 2023).
        clean: centres that define the nearest-centre classifier.
    """
    at = {
        name: {
            "origin": centres.overall,
            "own": centres.centred,
            "clean": clean[name].means - centres.overall,
            "whitening": centres.whitening,
        }
        for name, centres in own.items()
    }
    device = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), at)
    squared = dict.fromkeys(own, 0.0)
    nearest = {kind: {name: np.zeros(len(labels), int) for name in own} for kind in ("own", "clean")}
    logits = np.zeros((len(labels), len(next(iter(own.values())).means)))
    for rows, kept in spread(len(labels), batch_size):
        batch = as_float(images[rows])
        found, of_batch = jax.device_get(_compare(stages, batch, labels[rows], device))
        logits[rows[:kept]] = of_batch[:kept]
        for name, values in found.items():
            squared[name] += float(values["squared"][:kept].sum(dtype=np.float64))
            for kind in nearest:
                nearest[kind][name][rows[:kept]] = values[kind][:kept]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return Spread(
        {name: total / len(labels) for name, total in squared.items()},
        nearest["own"],
        nearest["clean"],
        logits.argmax(axis=1),
        float(loss),
    )


def measures(
    stages: Stages,
    names: Sequence[str],
    weights: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    clean: dict[str, Centres] | None,
    batch_size: int,
) -> tuple[dict[str, np.ndarray], dict[str, Centres]]:
    """Everything about one network on the images of one condition, in two forward passes.

    Args:
        stages: the network.
        names: the stages wanted, in order.
        weights: (C, d) rows of the last linear layer.
        images: (N, H, W, channels), 8-bit or in [0, 1].
        labels: (N,); for targeted attacks the targets.
        clean: centres of the clean training images; None where these images are the clean training images.

    Returns:
        First, by name: ``nc1``, ``nc1_papyan`` (without the factor C), `of_means`, ``nc4`` (the share of images whose
        nearest own centre is not that of the class the network predicts) and ``nearest_centre_accuracy`` (the share
        whose nearest clean centre is that of their label), each (stages,), undefined for a stage that ``stages`` does
        not give; `of_classifier` for the penultimate stage; ``accuracy`` and ``loss`` of the network; and
        ``nearest_clean`` (C, C), the share of images of each label near each clean centre of the penultimate stage.
        Second, the images' own centres.

    Source: Su et al. 2023, authors' code, but for the nearest-centre accuracies (abstract), and the layers.
    """
    classes = len(weights)
    own = class_centres(stages, images, labels, classes, batch_size)
    clean = own if clean is None else clean
    found = around_centres(stages, images, labels, own, clean, batch_size)
    by_stage = {
        name: {
            "nc1": found.nc1[name],
            "nc1_papyan": found.nc1[name] / classes,
            **of_means(centres),
            "nc4": (found.nearest_own[name] != found.predictions).mean(),
            "nearest_centre_accuracy": (found.nearest_clean[name] == labels).mean(),
        }
        for name, centres in own.items()
    }
    near = np.zeros((classes, classes))
    np.add.at(near, (labels, found.nearest_clean["penultimate"]), 1)
    return {
        **{
            measure: np.array([by_stage[name][measure] if name in by_stage else np.nan for name in names])
            for measure in by_stage["penultimate"]
        },
        **of_classifier(own["penultimate"], weights),
        "accuracy": np.float64((found.predictions == labels).mean()),
        "loss": np.float64(found.loss),
        "nearest_clean": near / near.sum(axis=1, keepdims=True),
    }, own
