"""Wide networks have the kernel of infinite width, and are trained as its predictor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from robust_tangents import kernel_features, lazy_networks
from robust_tangents.infinite_kernels import fully_connected

SHAPE, COUNT, WIDTH = (3, 3, 1), 8, 4096


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).uniform(size=(COUNT + 4, *SHAPE)), jnp.float32)


def network(depth: int, seed: int = 0, width: int = WIDTH) -> lazy_networks.Params:
    return lazy_networks.init(jax.random.key(seed), 9, width, depth, 1)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_kernel_of_a_wide_network_is_that_of_infinite_width(images, depth):
    start = network(depth, width=1024)
    flat, unravel = ravel_pytree(start)
    jacobian = jax.jacrev(lambda flat: lazy_networks.outputs(unravel(flat), images)[:, 0])(flat)
    expected = fully_connected(images, images, depth)
    np.testing.assert_allclose(jacobian @ jacobian.T, expected, rtol=0.15)


def test_training_is_matched_in_time_with_the_predictor(images):
    points, targets = images[:COUNT], np.where(np.arange(COUNT)[:, None] % 2, 1.0, -1.0)
    spectrum = kernel_features.spectrum(np.asarray(fully_connected(points, points, 1)))
    rate = 0.1 / spectrum.eigenvalues[0]
    steps = [20, 200, 2000]
    start = network(1)
    rows = fully_connected(images, points, 1)
    for wanted, (done, params) in zip(
        steps, lazy_networks.train(start, points, jnp.asarray(targets), rate, steps), strict=True
    ):
        assert done == wanted
        expected = kernel_features.predictor(spectrum, targets, rate * done).outputs_everywhere(rows)[:, 0]
        found = lazy_networks.centered(params, start, images)
        assert np.abs(found - expected).max() < 0.06 * max(1.0, float(np.abs(expected).max()))
    assert np.abs(expected).max() > 0.5


def test_the_centered_network_starts_at_zero(images):
    start = network(2, width=16)
    np.testing.assert_array_equal(lazy_networks.centered(start, start, images), 0)


def test_training_in_pieces_is_training_at_once(images):
    start, targets = network(1, width=32), jnp.ones((COUNT, 1))
    [*_, (_, pieces)] = lazy_networks.train(start, images[:COUNT], targets, 0.01, [3, 7, 20])
    [(_, once)] = lazy_networks.train(start, images[:COUNT], targets, 0.01, [20])
    for a, b in zip(jax.tree.leaves(pieces), jax.tree.leaves(once), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
