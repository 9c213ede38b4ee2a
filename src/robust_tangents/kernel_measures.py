"""Measures of kernels and of their evolution; plain NumPy in float64.

Source: Loo et al. 2022, section 3 (distance and velocity after Fort et al. 2020, effective rank after Roy and
Vetterli 2007, specialization after Shan and Bordelon); polar dynamics and top eigenspaces of full kernels from
Tsilivis & Kempe 2022, section 5.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Uncentred cosine Tr(K₁ᵀ K₂) / (‖K₁‖ ‖K₂‖) of two kernels (N, N), in Frobenius norm."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return float(np.vdot(first, second) / (np.linalg.norm(first) * np.linalg.norm(second)))


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Kernel distance S = 1 − cosine; 0 if and only if the kernels are proportional."""
    return 1.0 - similarity(first, second)


def velocity(kernels: Sequence[np.ndarray], epochs: Sequence[float]) -> np.ndarray:
    """S(K_t, K_{t+Δ}) / Δ between neighbouring checkpoints, (T − 1,), per epoch."""
    steps = np.diff(np.asarray(epochs, np.float64))
    return np.array([distance(a, b) for a, b in pairwise(kernels)]) / steps


def effective_rank(kernel: np.ndarray) -> float:
    """exp(−Σ pᵢ log pᵢ) with pᵢ = λᵢ / Σλ; between 1 and N. Negative rounding errors among the λ count as 0."""
    eigenvalues = np.clip(np.linalg.eigvalsh(np.asarray(kernel, np.float64)), 0, None)
    share = eigenvalues / eigenvalues.sum()
    share = share[share > 0]
    return float(np.exp(-np.sum(share * np.log(share))))


def specialization(class_kernels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Kernel specialization matrix, (C, C), each entry between 0 and C.

    KSM(c, c') = A(K[c,c], y_c' y_c'ᵀ) / mean_d A(K[d,d], y_c' y_c'ᵀ) with A the uncentred cosine and y_c' the 0/1
    indicator of class c'. The mean of the diagonal is the mean specialization; it is 1 for equal class kernels.

    Args:
        class_kernels: (C, N, N).
        labels: (N,) class of every point.
    """
    class_kernels = np.asarray(class_kernels, np.float64)
    classes = len(class_kernels)
    indicator = np.asarray(labels)[:, None] == np.arange(classes)
    y = indicator.astype(np.float64)
    alignment = np.einsum("cij,ik,jk->ck", class_kernels, y, y, optimize=True)
    alignment /= np.linalg.norm(class_kernels, axis=(1, 2))[:, None] * y.sum(axis=0)
    return alignment / alignment.mean(axis=0)


class SpectralParts(NamedTuple):
    """Frobenius inner products of T kernels, of their top eigenspaces and of the rest, and the mass of the former."""

    full: np.ndarray  # (T, T)
    top: np.ndarray  # (T, T)
    bottom: np.ndarray  # (T, T)
    mass: np.ndarray  # (T, k)


# Numbers of all kernels that are multiplied at once in float64.
_AT_ONCE = 1 << 25


def gram(kernels: Sequence[np.ndarray]) -> np.ndarray:
    """All inner products Tr(K_sᵀ K_t), (T, T), as one matrix product in float64."""
    flat = np.stack([np.ravel(kernel) for kernel in kernels])
    width = max(1, _AT_ONCE // len(flat))
    result = np.zeros((len(flat), len(flat)))
    for begin in range(0, flat.shape[1], width):
        part = flat[:, begin : begin + width].astype(np.float64)
        result += part @ part.T
    return result


def spectral_parts(kernels: Sequence[np.ndarray], k: int) -> SpectralParts:
    """Inner products of kernels, of their truncations to the own top k eigenvectors, and of what these leave.

    Truncations V Λ Vᵀ are never formed: ⟨K_s, T_t⟩ = Σᵢ λᵢ vᵢᵀ K_s vᵢ, and ⟨T_s, T_t⟩ from the k × k overlaps VₛᵀVₜ;
    the rest is K − T. The mass is Σ_{i≤j} λᵢ² / Σ λᵢ² for j = 1 … k.

    Args:
        kernels: T symmetric matrices (N, N), N > k.

    Source: Tsilivis & Kempe 2022, authors' code (k = 20 and 10).
    """
    size, count = len(kernels[0]), len(kernels)
    values, vectors = zip(
        *(eigh(np.asarray(kernel, np.float64), subset_by_index=[size - k, size - 1]) for kernel in kernels),
        strict=True,
    )
    eigenvalues, stacked = np.stack(values), np.concatenate(vectors, axis=1)  # (T, k), (N, T·k)
    whole = gram(kernels)
    mixed = np.empty((count, count))  # ⟨K_s, T_t⟩
    for s, kernel in enumerate(kernels):
        quadratic = np.einsum("ni,ni->i", stacked, np.asarray(kernel, np.float64) @ stacked)
        mixed[s] = (quadratic.reshape(count, k) * eigenvalues).sum(axis=1)
    overlaps = ((stacked.T @ stacked) ** 2).reshape(count, k, count, k)
    top = np.einsum("si,sitj,tj->st", eigenvalues, overlaps, eigenvalues, optimize=True)
    largest_first = eigenvalues[:, ::-1] ** 2
    mass = largest_first.cumsum(axis=1) / np.diagonal(whole)[:, None]
    return SpectralParts(whole, top, whole - mixed - mixed.T + top, mass)


def cosines(gram: np.ndarray) -> np.ndarray:
    """Uncentred cosines (T, T) from inner products; within [−1, 1] whatever the rounding, and exactly 1 with itself."""
    norms = np.sqrt(np.diagonal(gram))
    result = np.clip(gram / np.outer(norms, norms), -1, 1)
    np.fill_diagonal(result, 1)
    return result


def polar(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Path of a kernel as seen from the first one: radius and angle, (T,) each, from inner products.

    r_t = ‖K_t − K_0‖ / ‖K_T − K_0‖ and θ_t = arccos of the cosine of K_t and K_0, in radians.

    Source: Tsilivis & Kempe 2022, authors' code.
    """
    squared = np.diagonal(gram) - 2 * gram[0] + gram[0, 0]
    radius = np.sqrt(np.clip(squared, 0, None))
    return radius / radius[-1], np.arccos(cosines(gram)[0])
