"""Features of a network's empirical kernel as first-order models, which can be attacked as networks are.

Source: Tsilivis & Kempe 2022, section 2.2 (features) with the kernels of their section 5; the combination is our
reconstruction.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import eigh

from robust_tangents.models import BatchStats, Network, Params


def feature_weights(kernel: np.ndarray, targets: np.ndarray, chosen: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Weights W = λᵢ⁻¹ vᵢ vᵢᵀ Y of points and outputs in features of a full kernel, in float64.

    Args:
        kernel: (N·C, N·C), row i·C + c for point i and output c.
        targets: (N, C).
        chosen: ranks i, 0 for the largest eigenvalue.

    Returns:
        Eigenvalues (F,), and weights (F, N, C).
    """
    size, last = len(kernel), int(max(chosen))
    values, vectors = eigh(np.asarray(kernel, np.float64), subset_by_index=[size - 1 - last, size - 1])
    values, vectors = values[::-1][list(chosen)], vectors[:, ::-1][:, list(chosen)]
    weights = vectors * (vectors.T @ np.ravel(targets) / values)
    return values, weights.T.reshape(-1, *targets.shape)


@partial(jax.jit, static_argnames="network")
def directions(
    network: Network, params: Params, batch_stats: BatchStats, points: jax.Array, weights: np.ndarray
) -> Any:
    """Parameter directions p = Σ_j Σ_c W[j, c] ∇_θ f_c(x_j) of weights (F, N, C), with a leading axis F.

    The first-order model J_θ(x) p, a centered `Expansion` displaced by p, is the feature Θ(x, X) W.

    Args:
        points: the N points of the kernel, (N, H, W, channels) in [0, 1].
    """
    with jax.default_matmul_precision("highest"):
        _, pull_back = jax.vjp(lambda params: network.logits(params, batch_stats, points), params)
        return jax.vmap(lambda of_feature: pull_back(of_feature)[0])(jnp.asarray(weights, jnp.float32))
