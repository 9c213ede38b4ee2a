"""Directions are the explicit combinations of gradients, images climb the explicit cosine, smoothness is as defined."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from robust_tangents import eigenvectors, models
from robust_tangents.errors import InputError
from robust_tangents.execution import Execution
from robust_tangents.figures import loo_eigenvectors
from robust_tangents.kernels import empirical_kernels
from robust_tangents.models.layers import BatchNorm

EXECUTION = Execution("rows", compiled_loops=True)
STEPPED = Execution("rows", compiled_loops=False)
CLASSES, C = 3, 1
GREY = jnp.full((3, 2, 1), 0.5)
LABELS = np.array([0, 1, 2, 1, 0, 2, 1])
SIGNS = eigenvectors.panels(3)[2]


class Smooth(nn.Module):
    """A network with batch norm whose cosine has second derivatives everywhere."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dense(5, name="hidden")(x.reshape(len(x), -1))
        return nn.Dense(CLASSES, name="logits")(jnp.tanh(BatchNorm(name="norm")(x, train)))


class Linear(nn.Module):
    """f_c(x) = w_c · x, whose gradient with respect to w_c is the image."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.Dense(CLASSES, use_bias=False, name="logits")(x.reshape(len(x), -1))


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).uniform(size=(7, 3, 2, 1)), jnp.float32)


@pytest.fixture(scope="module")
def network() -> models.Network:
    return models.Network(Smooth(), CLASSES, EXECUTION)


@pytest.fixture(scope="module")
def state(network, images):
    return network.init(jax.random.key(1), images)


@pytest.fixture(scope="module")
def feature(network, state):
    """Function from an image to the flat gradient of logit C, in evaluation mode."""
    flat, unravel = ravel_pytree(state[0])
    return lambda x: jax.grad(lambda flat: network.logits(unravel(flat), state[1], x[None])[0, C])(flat)


@pytest.fixture(scope="module")
def kernel(network, state, images) -> np.ndarray:
    return empirical_kernels(network, state[0], state[1], images, ["class"])["class"][C]


@pytest.fixture(scope="module")
def weights(kernel) -> np.ndarray:
    return eigenvectors.point_weights(kernel, LABELS, C, 3)[1]


@pytest.fixture(scope="module")
def vectors(network, state, images, weights):
    return eigenvectors.directions(network, state[0], state[1], images, C, weights)


def climb(network, state, vectors, signs, steps: int, step_size: float, start: jax.Array = GREY):
    """Images, cosines and trajectory."""
    params, batch_stats = state
    return eigenvectors.maximise_cosine(
        network, params, batch_stats, C, vectors, signs, start, steps=steps, step_size=step_size
    )


@pytest.fixture(scope="module")
def chosen(vectors):
    """The direction of every panel."""
    return jax.tree.map(lambda leaf: leaf[eigenvectors.panels(3)[1]], vectors)


@pytest.fixture(scope="module")
def climbed(network, state, chosen):
    return climb(network, state, chosen, SIGNS, 200, 0.003)


def flat_rows(tree) -> np.ndarray:
    """Parameters with a leading axis as a matrix, in the order of `ravel_pytree`."""
    return np.asarray(jax.vmap(lambda tree: ravel_pytree(tree)[0])(tree))


def test_directions_are_the_combinations_of_gradients(feature, images, weights, vectors):
    jacobian = np.stack([feature(x) for x in images]).astype(np.float64)
    np.testing.assert_allclose(flat_rows(vectors), weights @ jacobian, rtol=1e-3, atol=1e-4)


def test_directions_do_not_depend_on_the_blocks(network, state, images, weights, vectors, monkeypatch):
    monkeypatch.setattr(eigenvectors, "_BLOCK", 3)
    blocked = eigenvectors.directions(network, state[0], state[1], images, C, weights)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), blocked, vectors)


def test_squared_lengths_are_eigenvalues_and_directions_are_orthogonal(kernel, vectors):
    eigenvalues, _ = eigenvectors.point_weights(kernel, LABELS, C, 3)
    assert eigenvalues[0] > eigenvalues[1] > eigenvalues[2] > 0
    v = flat_rows(vectors)[:3].astype(np.float64)
    np.testing.assert_allclose(v @ v.T, np.diag(eigenvalues), rtol=1e-4, atol=1e-4 * eigenvalues[0])


def test_the_regression_direction_predicts_the_class_on_the_points(feature, kernel, images, weights, vectors):
    np.testing.assert_allclose(weights[-1], np.linalg.solve(kernel.astype(np.float64), LABELS == C), rtol=1e-6)
    predicted = np.stack([feature(x) for x in images]) @ flat_rows(vectors)[-1]
    np.testing.assert_allclose(predicted, LABELS == C, atol=2e-3)


def test_eigenvectors_are_on_the_side_of_their_class(kernel):
    for c in range(CLASSES):
        eigenvalues, weights = eigenvectors.point_weights(kernel, LABELS, c, 7)
        assert np.all(weights[:7] @ (c == LABELS) > 0)
        np.testing.assert_allclose(kernel @ weights[:7].T, weights[:7].T * eigenvalues, atol=1e-4)


def test_a_singular_kernel_is_solved_without_its_rounding_errors():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(7, 3))
    noise = 1e-7 * rng.normal(size=(7, 7))
    kernel = (features @ features.T + noise + noise.T).astype(np.float32)
    _, weights = eigenvectors.point_weights(kernel, LABELS, C, 2)
    expected = np.linalg.pinv(features @ features.T, rcond=1e-3) @ (LABELS == C)
    np.testing.assert_allclose(weights[-1], expected, rtol=1e-3, atol=1e-4)


def test_impossible_requests_are_refused(kernel):
    with pytest.raises(InputError, match="only 7 points"):
        eigenvectors.point_weights(kernel, LABELS, C, 8)
    with pytest.raises(InputError, match="class 3"):
        eigenvectors.point_weights(kernel, LABELS, 3, 1)


def test_panels_are_both_signs_of_each_eigenvector_and_the_weights():
    names, rows, signs = eigenvectors.panels(2)
    assert names == ["1+", "1-", "2+", "2-", "w"]
    np.testing.assert_array_equal(rows, [0, 0, 1, 1, 2])
    np.testing.assert_array_equal(signs, [1, -1, 1, -1, 1])


def cosine(feature, v: np.ndarray, x: jax.Array) -> jax.Array:
    g = feature(x)
    return g @ v / (jnp.linalg.norm(g) * jnp.linalg.norm(v))


def test_cosines_are_the_explicit_ones(feature, vectors, climbed):
    images, cosines, _ = climbed
    v = flat_rows(vectors)[eigenvectors.panels(3)[1]]
    expected = [cosine(feature, row, x) for row, x in zip(v, images, strict=True)]
    np.testing.assert_allclose(cosines, expected, atol=1e-5)
    assert np.ptp(cosines) > 0.5


def test_the_ascent_direction_is_the_gradient_of_the_explicit_cosine(network, state, feature, vectors, images):
    unit = jax.vmap(eigenvectors._unit)(vectors)
    at = partial(eigenvectors._cosine_and_ascent, network, state[0], state[1], C)
    for k, v in enumerate(flat_rows(vectors)):
        direction = jax.tree.map(lambda leaf, k=k: leaf[k], unit)
        for x in images[:3]:
            value, ascent = at(x=x, v=direction)
            expected, gradient = jax.value_and_grad(partial(cosine, feature, v))(x)
            assert value == pytest.approx(float(expected), abs=1e-5)
            length = jnp.linalg.norm(feature(x))
            np.testing.assert_allclose(ascent / length, gradient, rtol=1e-2, atol=1e-4 * np.abs(gradient).max() + 1e-6)


def test_each_step_moves_every_pixel_by_the_sign_of_the_gradient(network, state, feature, vectors):
    v, step = flat_rows(vectors)[1], 0.01
    gradient = jax.grad(partial(cosine, feature, v))(GREY)
    assert np.abs(gradient).min() > 1e-3
    pair = jax.tree.map(lambda leaf: leaf[jnp.array([1, 1])], vectors)
    images, _, trajectory = climb(network, state, pair, [1, -1], 1, step)
    np.testing.assert_allclose(images[0], GREY + step * jnp.sign(gradient), atol=1e-6)
    np.testing.assert_allclose(images[1], GREY - step * jnp.sign(gradient), atol=1e-6)
    change = trajectory[:, 1] - trajectory[:, 0]
    np.testing.assert_allclose(change, np.array([1, -1]) * step * np.abs(gradient).sum(), rtol=0.1)


def test_the_best_image_of_the_trajectory_is_kept(climbed):
    _, cosines, trajectory = climbed
    assert trajectory.shape == (7, 201)
    np.testing.assert_array_equal(SIGNS * cosines, (SIGNS[:, None] * trajectory).max(axis=1))
    assert np.all(SIGNS * (cosines - trajectory[:, 0]) > 0.02)
    # Sign steps overshoot: the last image is not the best of all.
    assert np.any(SIGNS * trajectory[:, -1] < SIGNS * cosines)


def test_the_least_aligned_image_is_kept_where_every_cosine_is_positive(network, state, chosen):
    first = jax.tree.map(lambda leaf: leaf[:1], chosen)
    _, cosines, trajectory = climb(network, state, first, [-1], 6, 0.5)
    assert trajectory.min() > 0
    assert trajectory[0, -1] > trajectory.min() + 0.1
    assert cosines[0] == trajectory.min()


def test_more_steps_continue_the_path_and_never_end_lower(network, state, chosen, climbed):
    reached = climbed[2][:, 0] * SIGNS
    for steps in (0, 10, 50):
        _, cosines, trajectory = climb(network, state, chosen, SIGNS, steps, 0.003)
        np.testing.assert_allclose(trajectory, climbed[2][:, : steps + 1], atol=1e-4)
        assert np.all(cosines * SIGNS >= reached - 1e-6)
        reached = cosines * SIGNS
    assert np.all(climbed[1] * SIGNS > climbed[2][:, 0] * SIGNS)


def test_against_a_direction_is_along_its_opposite(network, state, vectors):
    opposite = jax.tree.map(lambda leaf: -leaf[:2], vectors)
    down = climb(network, state, jax.tree.map(lambda leaf: leaf[:2], vectors), [-1, -1], 60, 0.01)
    up = climb(network, state, opposite, [1, 1], 60, 0.01)
    np.testing.assert_array_equal(down[0], up[0])
    np.testing.assert_array_equal(down[1], -up[1])


def test_images_stay_in_the_box_and_reach_it(climbed):
    images = np.asarray(climbed[0])
    assert images.min() >= 0
    assert images.max() <= 1
    assert np.any(images == 1)
    assert np.any(images == 0)
    assert images.shape == (7, 3, 2, 1)


def test_a_linear_network_reaches_cosine_one():
    network = models.Network(Linear(), CLASSES, EXECUTION)
    target = jnp.asarray(np.random.default_rng(3).uniform(0.1, 0.9, size=(3, 2, 1)), jnp.float32)
    v = jnp.zeros((1, 6, CLASSES)).at[:, :, C].set(target.ravel())
    state = network.init(jax.random.key(0), target[None])
    _, cosines, trajectory = climb(network, state, {"logits": {"kernel": v}}, [1], 800, 0.001)
    assert trajectory[0, 0] == pytest.approx(float(target.mean() / jnp.sqrt((target**2).mean())), abs=1e-6)
    assert trajectory[0, 0] < 0.97
    assert cosines[0] > 1 - 1e-4
    # With longer steps, the least aligned image is white at the darkest pixel and black elsewhere.
    _, [least], _ = climb(network, state, {"logits": {"kernel": v}}, [-1], 40, 0.1)
    assert least == pytest.approx(float(target.min() / jnp.linalg.norm(target)), abs=1e-5)


def test_vanishing_features_and_directions_give_zero_not_nan():
    network = models.Network(Linear(), CLASSES, EXECUTION)
    state = network.init(jax.random.key(0), GREY[None])
    v = jnp.zeros((2, 6, CLASSES)).at[0, :, C].set(1.0)
    for start in (jnp.zeros_like(GREY), GREY):
        result = climb(network, state, {"logits": {"kernel": v}}, [1, 1], 5, 0.1, start)
        assert all(np.isfinite(array).all() for array in result)
        np.testing.assert_array_equal(result[1][1], 0)
        assert result[1][0] > 0.99
        assert (result[2][0, 0] == 0) == (start is not GREY)


def test_a_repetition_is_equal_and_a_stepped_loop_agrees(network, state, chosen, climbed):
    again = climb(network, state, chosen, SIGNS, 200, 0.003)
    jax.tree.map(np.testing.assert_array_equal, again, climbed)
    stepped = models.Network(network.module, CLASSES, STEPPED)
    by_hand = climb(stepped, state, chosen, SIGNS, 30, 0.003)
    np.testing.assert_allclose(by_hand[2], climbed[2][:, :31], atol=1e-4)


def test_a_convolutional_network_climbs_alike_by_columns_and_by_rows():
    start = jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.8, size=(8, 8, 1)), jnp.float32)
    built = [
        models.build({"architecture": "resnet", "width": 4, "blocks": [1]}, CLASSES, execution)
        for execution in (Execution("columns", compiled_loops=False), STEPPED)
    ]
    params, statistics = built[0].init(jax.random.key(0), start[None])
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), params)
    chosen = jax.tree.map(lambda leaf: jnp.sin(jnp.arange(2.0 * leaf.size)).reshape(2, *leaf.shape), params)
    found, expected = (climb(net, (params, statistics), chosen, [1, -1], 5, 0.01, start) for net in built)
    np.testing.assert_allclose(found[2], expected[2], atol=1e-4)
    assert np.abs(np.diff(expected[2], axis=1)).max() > 1e-3


def wave(height: int, width: int, down: int, across: int) -> np.ndarray:
    i, j = np.mgrid[:height, :width]
    return np.cos(2 * np.pi * (down * i / height + across * j / width) + 0.3)[..., None]


def test_waves_are_low_up_to_a_quarter_cycle_per_pixel():
    low = [(1, 0), (0, 1), (1, 1), (2, 0), (0, 2)]
    for size in (8, 32):
        for down, across in low:
            scaled = wave(size, size, down * size // 8, across * size // 8)
            assert eigenvectors.low_frequency_share(scaled) == pytest.approx(1)
    for down, across in [(2, 1), (1, 2), (3, 0), (0, 3), (2, 2), (4, 0), (4, 4)]:
        assert eigenvectors.low_frequency_share(wave(8, 8, down, across)) == pytest.approx(0, abs=1e-12)


def test_the_share_weighs_power_ignores_the_mean_and_sums_channels():
    low, high = wave(8, 8, 1, 0), wave(8, 8, 3, 0)
    share = eigenvectors.low_frequency_share
    assert share(0.5 + low + 2 * high) == pytest.approx(1 / 5)
    assert share(np.concatenate([3 * low, 0 * low, high + 7], axis=-1)) == pytest.approx(9 / 10)
    np.testing.assert_allclose(share(np.stack([[low, high], [high, low]])), [[1, 0], [0, 1]], atol=1e-12)


def test_the_share_of_white_noise_is_the_share_of_frequencies():
    assert eigenvectors.white_noise_share(8, 8) == 12 / 63
    rng = np.random.default_rng(0)
    for height, width in ((8, 8), (8, 12), (32, 32)):
        noise = rng.normal(size=(400, height, width, 1))
        shares = eigenvectors.low_frequency_share(noise)
        error = shares.std() / np.sqrt(len(shares))
        assert shares.mean() == pytest.approx(eigenvectors.white_noise_share(height, width), abs=4 * error)
    # At large images, the area of a disc of radius 1/4 in the unit square.
    assert eigenvectors.white_noise_share(1000, 1000) == pytest.approx(np.pi / 16, rel=1e-2)


def test_the_share_knows_no_orientation_and_a_constant_is_smooth():
    image = np.random.default_rng(0).uniform(size=(8, 8, 3))
    share = eigenvectors.low_frequency_share
    for turned in (np.rot90(image), image[::-1], image.transpose(1, 0, 2), np.roll(image, 3, axis=0), 1 - image):
        assert share(turned) == pytest.approx(float(share(image)))
    wide = np.random.default_rng(1).uniform(size=(6, 9, 1))
    assert share(wide.transpose(1, 0, 2)) == pytest.approx(float(share(wide)))
    constant = np.broadcast_to([0.1, 0.7, 0.3], (8, 8, 3))
    assert share(constant) == 1
    np.testing.assert_allclose(share(np.stack([constant, image])), [1, float(share(image))])


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3)])
def test_the_figure_shows_every_image_on_one_scale(shape):
    rng = np.random.default_rng(0)
    networks, directions = ["initial", "benign"], eigenvectors.panels(1)[0]
    images = {network: {name: 0.4 + 0.2 * rng.uniform(size=shape) for name in directions} for network in networks}
    table = pd.DataFrame(
        [
            (seed, network, name, (seed + 1) / 100, 0.1 * (seed + 1))
            for seed in (4, 5)
            for network in networks
            for name in directions
        ],
        columns=["seed", "network", "direction", "cosine", "low_frequency_share"],
    )
    figure = loo_eigenvectors.eigenvector_images(images, table, {}, "title", 0.2, 0.6)
    shown = [ax for ax in figure.get_axes() if ax.images]
    assert len(shown) == len(networks) * len(directions)
    for ax, image in zip(shown, [images[n][d] for n in networks for d in directions], strict=True):
        [drawn] = ax.images
        assert drawn.get_clim() == (0, 1)
        np.testing.assert_array_equal(np.squeeze(np.asarray(drawn.get_array())), np.squeeze(image))
        assert ax.get_xlabel() == "cos 0.05\nlow 0.50"
    assert [ax.get_ylabel() for ax in shown if ax.get_ylabel()] == networks
