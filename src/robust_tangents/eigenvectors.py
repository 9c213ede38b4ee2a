"""Images whose tangent feature points along an eigenvector of a class kernel, and how smooth these images are.

Source: Loo et al. 2022, visualisation of kernel eigenvectors: the objective and its constants, not the authors' code,
whose cosine is not a number.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robust_tangents.errors import InputError
from robust_tangents.models import BatchStats, Network, Params

LOW_FREQUENCY = 0.25
"""Cycles per pixel up to which a spatial frequency is low: half of the highest that a row of pixels can hold."""

# Points whose activations are held at once for the backward pass.
_BLOCK = 50
# Keeps a feature of length zero from turning the cosine into no number.
_TINY = 1e-30


def point_weights(kernel: np.ndarray, labels: np.ndarray, c: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights u of the points in the directions v = Σᵢ u[i] ∇_θ f_c(xᵢ) of a class kernel.

    First the unit eigenvectors of the ``count`` largest eigenvalues, largest first, then the regression weights
    K⁻¹ y_c with y_c the 0/1 indicator of class c. All in float64. The sign of an eigenvector is arbitrary; here it is
    the one with y_c · u ≥ 0, so that + is the side of class c. Eigenvectors of a repeated eigenvalue stay arbitrary
    beyond that.

    Kernels are computed in float32, so that eigenvalues up to N·2⁻²³ times the largest may be rounding errors. If
    there are any, the kernel is singular to working precision and K⁻¹ is the pseudo-inverse without them; otherwise
    it is the inverse. At epoch 0 of a network whose last layer starts at zero, the rank is at most one more than the
    number of its inputs, and the pseudo-inverse is the rule.

    Args:
        kernel: (N, N), the kernel K[c,c] of class c.
        labels: (N,) class of every point.
        c: the class.
        count: number of eigenvectors.

    Returns:
        Eigenvalues (count,), and weights (count + 1, N).

    Raises:
        InputError: there are fewer points than eigenvectors, or none of class c.

    Source: Loo et al. 2022, visualisation of kernel eigenvectors.
    """
    if count > len(kernel):
        raise InputError(f"eigenvectors: {count} are asked for, but the kernel has only {len(kernel)} points")
    indicator = (np.asarray(labels) == c).astype(np.float64)
    if not indicator.any():
        raise InputError(f"class: none of the kernel's points is of class {c}")
    eigenvalues, vectors = np.linalg.eigh(np.asarray(kernel, np.float64))
    eigenvalues, vectors = eigenvalues[::-1], vectors[:, ::-1]
    vectors = vectors * np.where(indicator @ vectors < 0, -1, 1)
    kept = eigenvalues > len(kernel) * np.finfo(np.float32).eps * eigenvalues[0]
    regression = vectors[:, kept] @ (indicator @ vectors[:, kept] / eigenvalues[kept])
    return eigenvalues[:count], np.concatenate([vectors[:, :count].T, regression[None]])


@partial(jax.jit, static_argnames="network")
def _combine(
    network: Network, params: Params, batch_stats: BatchStats, images: jax.Array, c: jax.Array, weights: jax.Array
) -> Params:
    return jax.grad(lambda params: weights @ network.logits(params, batch_stats, images)[:, c])(params)


def directions(
    network: Network, params: Params, batch_stats: BatchStats, images: jax.Array, c: int, weights: np.ndarray
) -> Params:
    """Directions v_k = Σᵢ u_k[i] ∇_θ f_c(xᵢ) in parameter space, batch norm in evaluation mode.

    One backward pass of Σᵢ u_k[i] f_c(xᵢ) for each; gradients of single points are never held. For unit eigenvectors
    u_k of K[c,c] the v_k are orthogonal and ‖v_k‖² = λ_k; for u = K[c,c]⁻¹ y_c, v · ∇_θ f_c(xᵢ) = y_c[i].

    Args:
        images: (N, H, W, channels) in [0, 1], the points of the kernel.
        c: the class.
        weights: (V, N), rows u_k.

    Returns:
        Parameters with a leading axis V.

    Source: Loo et al. 2022, visualisation of kernel eigenvectors.
    """
    vectors = []
    with jax.default_matmul_precision("highest"):
        for row in jnp.asarray(weights, jnp.float32):
            v = jax.tree.map(jnp.zeros_like, params)
            for begin in range(0, len(images), _BLOCK):
                block = slice(begin, begin + _BLOCK)
                v = jax.tree.map(jnp.add, v, _combine(network, params, batch_stats, images[block], c, row[block]))
            vectors.append(v)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *vectors)


def _dot(left: Params, right: Params) -> jax.Array:
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, left, right)), jnp.zeros(()))


def _unit(tree: Params) -> Params:
    length = jnp.maximum(jnp.sqrt(_dot(tree, tree)), _TINY)
    return jax.tree.map(lambda leaf: leaf / length, tree)


def _cosine_and_ascent(
    network: Network, params: Params, batch_stats: BatchStats, c: int | jax.Array, x: jax.Array, v: Params
) -> tuple[jax.Array, jax.Array]:
    """cos(x) for a unit vector v, and a positive multiple of its gradient.

    With g = ∇_θ f_c(x) and ĝ = g / ‖g‖, ∇ₓ cos = ∇ₓ ⟨g, t⟩ / ‖g‖ for the constant t = v − cos(x) ĝ, and ⟨g, t⟩ is
    the derivative of f_c(x) along t: one gradient of a `jax.jvp`, instead of a gradient of a gradient.
    """

    def logit(network: Network, params: Params, x: jax.Array) -> jax.Array:
        return network.logits(params, batch_stats, x[None])[0, c]

    feature = _unit(jax.grad(partial(logit, network))(params, x))
    cosine = _dot(feature, v)
    rest = jax.tree.map(lambda a, b: a - cosine * b, v, feature)

    def along_rest(x: jax.Array) -> jax.Array:
        return jax.jvp(lambda params: logit(network.in_forward_mode(), params, x), (params,), (rest,))[1]

    return cosine, jax.grad(along_rest)(x)


@partial(jax.jit, static_argnames="network")
def _step(network: Network, params, batch_stats, c, vectors, signs, step_size, i, carry):
    x, best, highest, trajectory = carry
    at = partial(_cosine_and_ascent, network, params, batch_stats, c)
    cosine, ascent = jax.vmap(at)(x, vectors)
    better = signs * cosine > highest
    best = jnp.where(better[:, None, None, None], x, best)
    highest = jnp.where(better, signs * cosine, highest)
    x = jnp.clip(x + step_size * signs[:, None, None, None] * jnp.sign(ascent), 0, 1)
    return x, best, highest, trajectory.at[:, i].set(cosine)


def _climb(network: Network, steps: int, params, batch_stats, c, vectors, signs, start, step_size):
    vectors = jax.vmap(_unit)(vectors)
    x = jnp.broadcast_to(start, (len(signs), *start.shape))
    carry = (x, x, jnp.full(len(signs), -jnp.inf), jnp.zeros((len(signs), steps + 1)))
    # One round more than steps: it looks at the last image, and its own move is left out.
    step = partial(_step, network, params, batch_stats, c, vectors, signs, step_size)
    _, best, highest, trajectory = network.execution.loop(0, steps + 1, step, carry)
    return best, signs * highest, trajectory


_compiled = partial(jax.jit, static_argnames=("network", "steps"))(_climb)


def maximise_cosine(
    network: Network,
    params: Params,
    batch_stats: BatchStats,
    c: int,
    vectors: Params,
    signs: Sequence[int] | np.ndarray,
    start: jax.Array,
    steps: int,
    step_size: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Images whose tangent feature ∇_θ f_c(x) points along given directions, or against them.

    cos(x) = ⟨∇_θ f_c(x), v⟩ / (‖∇_θ f_c(x)‖ ‖v‖) over all parameters, batch norm in evaluation mode. From a common
    start, x ← clip(x + α s sign(∇ₓ cos), 0, 1) with s = 1 to maximise and −1 to minimise; all images in one batch.
    Sign steps of fixed length end in oscillation, so that the image kept is the best one seen, the start included:
    that of the highest s cos. For s = −1 this is not always that of the highest |cos|: where cos(x) stays positive,
    it is the least aligned.

    Args:
        c: the class.
        vectors: parameters with a leading axis D, of any length, the v of every image. Where v or the tangent feature
            is zero, the cosine counts as 0.
        signs: (D,), s of every image.
        start: (H, W, channels) in [0, 1]; 0.5 in the source.
        steps: number of steps; 600 in the source.
        step_size: α; 0.001 in the source, so that every pixel can just reach 0 and 1.

    Returns:
        Images (D, H, W, channels); their cosines (D,); and the cosines at the start and after every step
        (D, steps + 1), which are not monotonic.

    Source: Loo et al. 2022, visualisation of kernel eigenvectors.
    """
    climb: Any = _compiled if network.execution.compiled_loops else _climb
    with jax.default_matmul_precision("highest"):
        return climb(network, steps, params, batch_stats, c, vectors, jnp.asarray(signs, jnp.float32), start, step_size)


def panels(count: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The images drawn of ``count`` eigenvectors and the regression weights: 1+, 1−, 2+, … and w, which is only +.

    Returns:
        Names (D,), rows of `point_weights` (D,) and signs (D,); D = 2 count + 1.
    """
    names = [f"{k + 1}{sign}" for k in range(count) for sign in "+-"]
    rows = np.append(np.repeat(np.arange(count), 2), count)
    return [*names, "w"], rows, np.append(np.tile([1, -1], count), 1)


def low_frequency_share(images: np.ndarray, cut: float = LOW_FREQUENCY) -> np.ndarray:
    """Share of an image's spectral energy at low spatial frequencies, a measure of smoothness between 0 and 1.

    Σ_{0<|f|≤cut} P(f) / Σ_{f≠0} P(f), with P the power of the two-dimensional discrete Fourier transform summed over
    channels and |f| the Euclidean length of the frequency in cycles per pixel. Rotations by 90° and transposition do
    not change it. White noise has in the mean the share of the frequencies that are low, `white_noise_share`. An
    image of constant channels has no energy; it counts as smooth, 1.

    At the default cut, half the Nyquist frequency, 12 of the 63 frequencies of an 8×8 image are low, and periods of at
    least four pixels: enough frequencies to tell smooth images from noise, few enough that noise does not pass.

    Args:
        images: (..., H, W, channels).
        cut: highest low frequency.

    Returns:
        (...), float64.
    """
    images = np.asarray(images, np.float64)
    power = (np.abs(np.fft.fft2(images, axes=(-3, -2))) ** 2).sum(axis=-1)
    power[..., 0, 0] = 0
    constant = np.ptp(images, axis=(-3, -2)).max(axis=-1) == 0
    low = power[..., _low(images.shape[-3], images.shape[-2], cut)].sum(axis=-1)
    total = power.sum(axis=(-2, -1))
    return np.where(constant, 1.0, low / np.where(constant, 1.0, total))


def white_noise_share(height: int, width: int, cut: float = LOW_FREQUENCY) -> float:
    """Expected `low_frequency_share` of white noise: the share of low frequencies among all but the constant."""
    return float((_low(height, width, cut).sum() - 1) / (height * width - 1))


def _low(height: int, width: int, cut: float) -> np.ndarray:
    """Which frequencies of the discrete Fourier transform are low, the constant included, (H, W)."""
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) <= cut + 1e-9
