"""Features of empirical kernels are first-order models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_tangents import models
from robust_tangents.eigenattacks import directions, feature_weights
from robust_tangents.execution import Execution
from robust_tangents.kernels import empirical_kernels
from robust_tangents.linearization import Expansion

COUNT, CLASSES = 5, 3


def test_weights_by_hand():
    # One output: Θ = [[2, 1], [1, 2]], λ = 3 and 1, v = (1, ±1)/√2, Y = (1, 0).
    eigenvalues, weights = feature_weights(np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[1.0], [0.0]]), [0, 1])
    np.testing.assert_allclose(eigenvalues, [3, 1])
    np.testing.assert_allclose(weights[..., 0], np.array([[1 / 6, 1 / 6], [1 / 2, -1 / 2]]), atol=1e-15)


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).uniform(size=(COUNT + 3, 4, 4, 1)), jnp.float32)


def test_a_displaced_expansion_is_the_feature_and_all_of_them_fit_the_targets(images):
    network = models.build({"architecture": "cnn", "widths": [6, 8]}, CLASSES, Execution("xla", compiled_loops=True))
    params, batch_stats = network.init(jax.random.key(0), images)
    points = images[:COUNT]
    whole = empirical_kernels(network, params, batch_stats, images, ["full"])["full"].astype(np.float64)
    kernel = whole[: COUNT * CLASSES, : COUNT * CLASSES]
    targets = np.eye(CLASSES)[[0, 1, 2, 1, 0]]
    chosen = list(range(COUNT * CLASSES))
    _, weights = feature_weights(kernel, targets, chosen)
    found = directions(network, params, batch_stats, points, weights)
    model = Expansion(network)
    _, point = model.start(params, batch_stats, centered=True)
    outputs = np.stack([model.logits(jax.tree.map(lambda leaf, i=i: leaf[i], found), point, images) for i in chosen])
    expected = whole[:, : COUNT * CLASSES] @ weights.reshape(len(chosen), -1).T
    np.testing.assert_allclose(outputs.reshape(len(chosen), -1), expected.T, rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(outputs.sum(axis=0)[:COUNT], targets, atol=2e-3)
    # Chosen ones are those of all.
    np.testing.assert_allclose(feature_weights(kernel, targets, [0, 4])[1], weights[[0, 4]], rtol=1e-6, atol=1e-9)
