"""Measures of kernels and of their evolution; plain NumPy in float64.

Source: Loo et al. 2022, section 3 (distance and velocity after Fort et al. 2020, effective rank after Roy and
Vetterli 2007, specialization after Shan and Bordelon).
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np


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
