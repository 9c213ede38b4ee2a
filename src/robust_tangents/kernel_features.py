"""Predictors of infinite-width training, the features of a kernel that they are sums of, and attacks on both.

All of these are functions f(x) = Σ_j Θ(x, x_j) W[j] of the kernel between an image and the training images, so many of
them are attacked together: the gradients of all in an image are one product with the gradients of the kernel.

Two classes are told apart by the sign of one output (targets −1 and 1), more by the largest of as many outputs
(one-hot targets).

Source: Tsilivis & Kempe 2022, sections 2 to 4 and appendix A; formulas of the authors' notebook.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robust_tangents.attacks.pgd import Attack
from robust_tangents.errors import InputError
from robust_tangents.infinite_kernels import Kernel


def targets(labels: np.ndarray, classes: int) -> np.ndarray:
    """Regression targets of class numbers: ∓1, (n, 1), for two classes, one-hot, (n, C), for more."""
    if classes == 2:
        return np.where(labels[:, None] == 1, 1.0, -1.0)
    return (labels[:, None] == np.arange(classes)).astype(np.float64)


def logits(outputs: jax.Array) -> jax.Array:
    """Outputs (..., 1) of two classes as the pair −f, f; (..., C) of more classes as they are."""
    return jnp.concatenate([-outputs, outputs], axis=-1) if outputs.shape[-1] == 1 else outputs


def correct(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the largest logit, or the sign, is that of the label; ``labels`` broadcast against (...)."""
    return jnp.argmax(logits(outputs), axis=-1) == labels


class Spectrum(NamedTuple):
    """Eigenvalues (n,), largest first, and the eigenvectors in the columns of (n, n)."""

    eigenvalues: np.ndarray
    vectors: np.ndarray


def spectrum(kernel: np.ndarray, ridge: float = 0.0) -> Spectrum:
    """Eigenvalues of Θ + ridge and eigenvectors, in float64; of each vector the sign with the larger positive part.

    Raises:
        InputError: the matrix is singular to working precision, λ_n ≤ n · 2⁻⁵² · λ_1.
    """
    eigenvalues, vectors = np.linalg.eigh(np.asarray(kernel, np.float64))
    eigenvalues, vectors = eigenvalues[::-1] + ridge, vectors[:, ::-1]
    if eigenvalues[-1] <= len(kernel) * np.finfo(np.float64).eps * eigenvalues[0]:
        raise InputError(
            f"the kernel of {len(kernel)} training images is singular to working precision (eigenvalues from "
            f"{eigenvalues[-1]:.2g} to {eigenvalues[0]:.2g}); set a ridge, use fewer images, or look for equal ones"
        )
    return Spectrum(eigenvalues, vectors * np.where(vectors.sum(axis=0) < 0, -1.0, 1.0))


def training(eigenvalues: np.ndarray, time: float | None) -> np.ndarray:
    """How far each eigendirection is learned at time t, 1 − exp(−λ t); 1 at infinity (None)."""
    return np.ones_like(eigenvalues) if time is None else -np.expm1(-eigenvalues * time)


class Predictors(NamedTuple):
    """F functions Σ_q loadings[f, q] Σ_j Θ(x, x_j) weights[j, f, q] with C outputs.

    A feature has one part (Q = 1) that moves all outputs along one direction; a sum of features has one part for every
    output.
    """

    weights: jax.Array  # (n, F, Q)
    loadings: jax.Array  # (F, Q, C)

    def outputs(self, rows: jax.Array) -> jax.Array:
        """Outputs (F, C) from kernel rows Θ(x_f, x_j), (F, n), each function at an image of its own."""
        return jnp.einsum("fn,nfq,fqc->fc", rows, self.weights, self.loadings, optimize="optimal")

    def outputs_everywhere(self, rows: jax.Array) -> jax.Array:
        """Outputs (m, F, C) from kernel rows (m, n), all functions at all images."""
        return jnp.einsum("mn,nfq,fqc->mfc", rows, self.weights, self.loadings, optimize="optimal")


def features(
    spectrum: Spectrum, targets: np.ndarray, chosen: Sequence[int] | np.ndarray | slice = slice(None)
) -> Predictors:
    """Features f⁽ⁱ⁾(x) = λᵢ⁻¹ Θ(x, X) vᵢ vᵢᵀ Y; index 0 is that of the largest eigenvalue. All of them sum to f_∞."""
    vectors = spectrum.vectors[:, chosen]
    weights = vectors / spectrum.eigenvalues[chosen]
    return Predictors(jnp.asarray(weights[:, :, None]), jnp.asarray((vectors.T @ targets)[:, None]))


def sums(spectrum: Spectrum, targets: np.ndarray, members: np.ndarray, time: float | None = None) -> Predictors:
    """Predictors Σ_{i∈S} (1 − e^(−λᵢ t)) f⁽ⁱ⁾ of several sets of features.

    With all features this is the network of infinite width trained by gradient flow on ½‖f(X) − Y‖² from f₀ = 0 for a
    time t: f_t(x) = Θ(x, X) Θ⁻¹ (I − e^(−Θt)) Y.

    Args:
        members: (F, n) true for the features of each set.
        time: t; None for infinity.
    """
    learned = training(spectrum.eigenvalues, time) / spectrum.eigenvalues
    projected = spectrum.vectors.T @ targets
    weights = np.einsum("jn,fn,nq->jfq", spectrum.vectors, members * learned, projected, optimize=True)
    count = targets.shape[1]
    return Predictors(jnp.asarray(weights), jnp.broadcast_to(jnp.eye(count), (len(members), count, count)))


def joined(*families: Predictors) -> Predictors:
    """Several families as one, so that they share the gradients of the kernel; missing parts are zero."""
    most = max(family.weights.shape[2] for family in families)

    def padded(array: jax.Array, axis: int) -> jax.Array:
        missing = [(0, most - size if i == axis else 0) for i, size in enumerate(array.shape)]
        return jnp.pad(array, missing)

    weights = jnp.concatenate([padded(family.weights, 2) for family in families], axis=1)
    return Predictors(weights, jnp.concatenate([padded(family.loadings, 1) for family in families]))


def predictor(spectrum: Spectrum, targets: np.ndarray, time: float | None = None) -> Predictors:
    """The one predictor of all features, f_t or f_∞ (see `sums`)."""
    return sums(spectrum, targets, np.ones((1, len(spectrum.eigenvalues)), bool), time)


@jax.jit
def _ascent(parts: jax.Array, loadings: jax.Array, label: jax.Array) -> jax.Array:
    """Derivatives (F, Q) in its parts of what an attack increases: log Σ_{j≠y} exp f_j − f_y of each function.

    That has the direction of the cross-entropy's gradient (see `robust_tangents.attacks`); for two classes it is −y f.
    """

    def loss(parts: jax.Array) -> jax.Array:
        shown = logits(jnp.einsum("fq,fqc->fc", parts, loadings))
        true = jnp.arange(shown.shape[-1]) == label
        others = jax.nn.logsumexp(jnp.where(true, -jnp.inf, shown), axis=-1)
        return jnp.sum(others - jnp.sum(jnp.where(true, shown, 0), axis=-1))

    return jax.grad(loss)(parts)


@jax.jit
def _step(x: jax.Array, image: jax.Array, gradient: jax.Array, attack: Attack) -> jax.Array:
    return attack.step(x, gradient, image[None])


@jax.jit
def _combined(values: jax.Array, gradients: jax.Array, loadings: jax.Array, label: jax.Array) -> jax.Array:
    return jnp.einsum("fq,fq...->f...", _ascent(values, loadings, label), gradients)


def attacked(
    kernel: Kernel,
    points: jax.Array,
    predictors: Predictors,
    image: jax.Array,
    label: int | jax.Array,
    attack: Attack,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The image under an attack on each of the predictors, with the true label, as `robust_tangents.attacks.pgd`.

    The first step, from a start that all share, needs the kernel's gradients at one image only. With one step of size ε
    this is δ = −ε y sign ∇f, for two classes the optimum where f is linear.

    Args:
        points: training images (n, H, W, C).
        image: (H, W, C) in [0, 1].
        key: for the random start.

    Returns:
        Attacked images (F, H, W, C), and the gradients of all parts at the start, (F, Q, H, W, C).

    Source: Tsilivis & Kempe 2022, section 3 and authors' notebook.
    """
    label = jnp.asarray(label)
    start = attack.start(image[None], key)[0]
    values, gradients = kernel.at(start, points, predictors.weights.reshape(len(points), -1))
    shape = predictors.loadings.shape[:2]
    values, gradients = values.reshape(shape), gradients.reshape(*shape, *image.shape)
    x = _step(start[None], image, _combined(values, gradients, predictors.loadings, label), attack)
    for _ in range(int(attack.steps) - 1):
        values = jnp.einsum("fn,nfq->fq", jnp.asarray(kernel(x, points)), predictors.weights)
        weights = jnp.einsum("fq,nfq->nf", _ascent(values, predictors.loadings, label), predictors.weights)
        x = _step(x, image, kernel.gradient(x, points, weights), attack)
    return x, gradients


def withstands(kernel: Kernel, points: jax.Array, predictors: Predictors, moved: jax.Array, label: int) -> jax.Array:
    """Whether each predictor is right about the image attacked for it, (F,); the mean over images is the robustness γ.

    An upper bound of the definition's infimum over the ball, as with every attack.

    Args:
        moved: (F, H, W, C), from `attacked`.

    Source: Tsilivis & Kempe 2022, equation 4 (accuracy-based).
    """
    return correct(predictors.outputs(jnp.asarray(kernel(moved, points))), jnp.asarray(label))


def spread(count: int, first: int, number: int | None) -> np.ndarray:
    """The ``first`` of ``count`` features and ``number`` evenly spread over the logarithm of rank; None for all."""
    if number is None:
        return np.arange(count)
    spaced = np.round(np.geomspace(1, count, number)).astype(int) - 1
    return np.unique(np.concatenate([np.arange(min(first, count)), spaced]))


def split_by_robustness(
    usefulness: np.ndarray, robustness: np.ndarray, majority: float, thresholds: Sequence[float]
) -> dict[str, np.ndarray]:
    """Sets of features, each (T, n): useful ones that are at least, or less, γ-robust, and all.

    Useful is a feature that beats guessing the commonest class.

    Args:
        usefulness, robustness: ρ and γ of every feature, (n,).
        majority: share of the commonest class.
        thresholds: values of γ.

    Source: Tsilivis & Kempe 2022, section 2.2; the thresholds are ours.
    """
    useful, robust = usefulness > majority, robustness >= np.asarray(thresholds)[:, None]
    return {"robust": useful & robust, "non-robust": useful & ~robust, "all": np.ones_like(robust)}
