"""Kernel predictors against training itself, features against their sum, attacks against those on networks."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from jax.tree_util import Partial
from scipy.integrate import solve_ivp

from robust_tangents import kernel_features
from robust_tangents.attacks.pgd import Attack, pgd
from robust_tangents.datasets import load
from robust_tangents.errors import InputError
from robust_tangents.execution import Execution
from robust_tangents.infinite_kernels import Kernel, build

SHAPE, COUNT = (3, 3, 1), 12
REAL = Path(os.environ.get("ROBUST_TANGENTS_DATA", ROOT.parent / "shared" / "data" / "cifar-10-subset"))
FGSM = Attack(0.1, 0.1, 1, False)
pytestmark = pytest.mark.usefixtures("double_precision")


def images(count: int, seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(size=(count, *SHAPE)))


def labels(count: int, classes: int) -> np.ndarray:
    return np.random.default_rng(9).permutation(np.arange(count) % classes)


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return build("fc2", SHAPE, 1 << 30)


@pytest.fixture
def points() -> jax.Array:
    return images(COUNT, 0)


@pytest.fixture
def spectrum(kernel, points) -> kernel_features.Spectrum:
    return kernel_features.spectrum(kernel(points))


@pytest.fixture(params=[2, 3], ids=["two classes", "three classes"])
def targets(request) -> np.ndarray:
    return kernel_features.targets(labels(COUNT, request.param), request.param)


def outputs(predictors, kernel, x, points) -> jax.Array:
    return predictors.outputs_everywhere(jnp.asarray(kernel(x, points)))


# Predictors and features


def test_two_equations_by_hand():
    # Θ = [[2, 1], [1, 2]]: λ = 3 and 1, v = (1, ±1)/√2. Y = (1, −1) lies along the second alone, so that at time t
    # f_t(x) = (Θ(x, x₁) − Θ(x, x₂)) (1 − e^(−t)).
    spectrum = kernel_features.spectrum(np.array([[2.0, 1.0], [1.0, 2.0]]))
    targets = np.array([[1.0], [-1.0]])
    np.testing.assert_allclose(spectrum.eigenvalues, [3, 1])
    rows = jnp.array([[2.0, 1.0], [0.5, 4.0]])
    for time in (None, 0.7):
        learned = 1 if time is None else 1 - np.exp(-time)
        found = kernel_features.predictor(spectrum, targets, time).outputs_everywhere(rows)
        np.testing.assert_allclose(found[:, 0, 0], learned * np.array([1, -3.5]), rtol=1e-12)
    features = kernel_features.features(spectrum, targets).outputs_everywhere(rows)
    np.testing.assert_allclose(features[:, :, 0], np.array([[0, 1], [0, -3.5]]), atol=1e-12)


def test_at_infinity_the_training_images_are_fitted_and_others_regressed(kernel, points, spectrum, targets):
    predictor = kernel_features.predictor(spectrum, targets)
    np.testing.assert_allclose(outputs(predictor, kernel, points, points)[:, 0], targets, atol=1e-9)
    expected = kernel(images(5, 1), points) @ np.linalg.solve(kernel(points), targets)
    np.testing.assert_allclose(outputs(predictor, kernel, images(5, 1), points)[:, 0], expected, rtol=1e-8, atol=1e-10)


def test_a_ridge_is_added_to_the_kernel(kernel, points, targets):
    ridged = kernel_features.predictor(kernel_features.spectrum(kernel(points), 0.3), targets)
    expected = kernel(images(5, 1), points) @ np.linalg.solve(kernel(points) + 0.3 * np.eye(COUNT), targets)
    np.testing.assert_allclose(outputs(ridged, kernel, images(5, 1), points)[:, 0], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("ridge", [0.0, 0.2])
def test_the_predictor_at_time_t_solves_the_gradient_flow(kernel, points, targets, ridge):
    train, test = kernel(points), kernel(images(4, 1), points)
    time = 3 / np.linalg.eigvalsh(train)[-3]

    def flow(_, state):  # outputs on training and test images under gradient flow on ½‖f − Y‖² + ½ ridge ‖θ‖²
        f = state.reshape(-1, targets.shape[1])
        return -(np.vstack([train, test]) @ (f[:COUNT] - targets) + ridge * f).ravel()

    start = np.zeros((COUNT + 4) * targets.shape[1])
    solved = solve_ivp(flow, (0, time), start, rtol=1e-10, atol=1e-12).y[:, -1].reshape(-1, targets.shape[1])
    predictor = kernel_features.predictor(kernel_features.spectrum(train, ridge), targets, time)
    found = outputs(predictor, kernel, jnp.concatenate([points, images(4, 1)]), points)[:, 0]
    np.testing.assert_allclose(found, solved, rtol=1e-6, atol=1e-7)
    assert np.abs(found[:COUNT] - targets).max() > 0.05  # still on the way


def test_features_sum_to_the_predictor_and_their_gradients_to_its_gradient(kernel, points, spectrum, targets):
    features, whole = kernel_features.features(spectrum, targets), kernel_features.predictor(spectrum, targets)
    x = images(4, 1)
    found = outputs(features, kernel, x, points)
    assert found.shape == (4, COUNT, targets.shape[1])
    np.testing.assert_allclose(found.sum(axis=1), outputs(whole, kernel, x, points)[:, 0], rtol=1e-8, atol=1e-10)

    def gradients(predictors):
        parts = kernel.at(x[0], points, predictors.weights.reshape(COUNT, -1))[1]
        return np.einsum("fq...,fqc->fc...", parts.reshape(*predictors.loadings.shape[:2], *SHAPE), predictors.loadings)

    np.testing.assert_allclose(gradients(features).sum(axis=0), gradients(whole)[0], rtol=1e-8, atol=1e-10)


def test_subsets_are_sums_of_their_features(kernel, points, spectrum, targets):
    members = np.random.default_rng(3).uniform(size=(4, COUNT)) < 0.5
    found = outputs(kernel_features.sums(spectrum, targets, members), kernel, images(3, 1), points)
    every = outputs(kernel_features.features(spectrum, targets), kernel, images(3, 1), points)
    np.testing.assert_allclose(found, np.einsum("fn,mnc->mfc", members, every), rtol=1e-8, atol=1e-10)


def test_chosen_features_are_those_of_all(spectrum, targets):
    every, some = kernel_features.features(spectrum, targets), kernel_features.features(spectrum, targets, [0, 5, 3])
    np.testing.assert_array_equal(some.weights, every.weights[:, jnp.array([0, 5, 3])])
    np.testing.assert_allclose(some.loadings, every.loadings[jnp.array([0, 5, 3])], atol=1e-14)


def test_two_classes_by_sign_are_two_classes_by_the_larger_output(kernel, points, spectrum):
    of_points = labels(COUNT, 2)
    signs = kernel_features.targets(of_points, 2)
    one_hot = np.eye(2)[of_points]
    x, y = images(40, 1), jnp.asarray(labels(40, 2))
    for made in (kernel_features.features, kernel_features.predictor):
        found, expected = (outputs(made(spectrum, t), kernel, x, points) for t in (signs, one_hot))
        np.testing.assert_array_equal(
            kernel_features.correct(found, y[:, None]), kernel_features.correct(expected, y[:, None])
        )
    # And so are attacks on them.
    attacks = [
        kernel_features.attacked(kernel, points, made(spectrum, t), x[0], 1, FGSM, jax.random.key(0))[0]
        for made in (kernel_features.features, kernel_features.predictor)
        for t in (signs, one_hot)
    ]
    np.testing.assert_array_equal(attacks[0], attacks[1])
    np.testing.assert_array_equal(attacks[2], attacks[3])


def test_a_kernel_of_equal_images_is_refused_and_a_ridge_helps(kernel, points):
    twice = kernel(jnp.concatenate([points, points[:1]]))
    with pytest.raises(InputError, match=r"13 training images is singular to working precision.*set a ridge"):
        kernel_features.spectrum(np.round(twice, 12))
    assert kernel_features.spectrum(twice, 0.1).eigenvalues[-1] == pytest.approx(0.1, rel=1e-6)


# Attacks


def test_one_step_follows_the_sign_of_the_gradient_of_each_feature(kernel, points, spectrum):
    targets = kernel_features.targets(labels(COUNT, 2), 2)
    features = kernel_features.features(spectrum, targets)
    image = images(1, 1)[0]
    for label in (0, 1):
        found, _ = kernel_features.attacked(kernel, points, features, image, label, FGSM, jax.random.key(0))
        for i in range(COUNT):

            def feature(x, i=i):
                rows = kernel.function(x[None], points)[0]
                v = spectrum.vectors[:, i]
                return rows @ v * (v @ targets[:, 0]) / spectrum.eigenvalues[i]

            expected = jnp.clip(image - 0.1 * (2 * label - 1) * jnp.sign(jax.grad(feature)(image)), 0, 1)
            np.testing.assert_allclose(found[i], expected, atol=1e-12)


@pytest.mark.parametrize("attack", [FGSM, Attack(0.1, 0.03, 7, False), Attack(0.2, 0.05, 5, True)])
def test_attacks_on_a_predictor_are_those_on_a_network_with_its_outputs(kernel, points, spectrum, targets, attack):
    classes = max(2, targets.shape[1])
    predictor = kernel_features.predictor(spectrum, targets)

    def network(weights, x):
        return kernel_features.logits(kernel.function(x, points) @ weights)

    execution = Execution("xla", compiled_loops=True)
    for image, label in zip(images(6, 1), labels(6, classes), strict=True):
        found, _ = kernel_features.attacked(kernel, points, predictor, image, label, attack, jax.random.key(0))
        predict = Partial(network, predictor.weights[:, 0])
        expected = pgd(predict, image[None], jnp.asarray([label]), jax.random.key(0), attack, execution)
        np.testing.assert_allclose(found, expected, atol=1e-9)
        withstood = kernel_features.withstands(kernel, points, predictor, found, label)
        assert withstood == (jnp.argmax(predict(found), axis=-1) == label)


@pytest.mark.parametrize("steps", [1, 4])
def test_features_are_attacked_together_as_alone(kernel, points, spectrum, targets, steps):
    attack, classes = Attack(0.1, 0.1 / steps, steps, False), max(2, targets.shape[1])
    features = kernel_features.features(spectrum, targets)
    image, label = images(1, 1)[0], labels(1, classes)[0]
    whole = kernel_features.predictor(spectrum, targets)
    family = kernel_features.joined(features, whole)
    together, gradients = kernel_features.attacked(kernel, points, family, image, label, attack, jax.random.key(0))
    for i in range(COUNT + 1):
        made = kernel_features.features(spectrum, targets, [i]) if i < COUNT else whole
        found, own = kernel_features.attacked(kernel, points, made, image, label, attack, jax.random.key(0))
        np.testing.assert_allclose(together[i], found[0], atol=1e-12)
        np.testing.assert_allclose(gradients[i, : own.shape[1]], own[0], atol=1e-12)


def test_attacks_keep_to_ball_and_box_and_lower_the_margin(kernel, points, spectrum):
    of_points = labels(COUNT, 2)
    predictor = kernel_features.predictor(spectrum, kernel_features.targets(of_points, 2))
    attack = Attack(0.2, 0.05, 8, False)
    for image, label in zip(points, of_points, strict=True):
        moved, _ = kernel_features.attacked(kernel, points, predictor, image, label, attack, jax.random.key(0))
        assert moved.min() >= 0
        assert moved.max() <= 1
        assert np.abs(moved - image).max() <= 0.2 + 1e-12
        signed = 2 * label - 1
        before, after = (signed * outputs(predictor, kernel, x, points).item() for x in (image[None], moved))
        assert before == pytest.approx(1, abs=1e-8)
        assert after < 0.9


# Sets of features


def test_features_are_spread_over_the_logarithm_of_their_rank():
    np.testing.assert_array_equal(kernel_features.spread(100, 3, None), np.arange(100))
    np.testing.assert_array_equal(kernel_features.spread(100, 4, 3), [0, 1, 2, 3, 9, 99])


def test_useful_features_are_split_at_each_threshold():
    sets = kernel_features.split_by_robustness(
        np.array([0.5, 0.6, 0.7, 0.8]), np.array([0.5, 0.3, 0.1, 0.3]), 0.5, [0.0, 0.3, 0.4]
    )
    np.testing.assert_array_equal(sets["robust"], [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]])
    np.testing.assert_array_equal(sets["non-robust"], [[0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 1, 1]])
    assert sets["all"].all()


# Real images


@pytest.mark.skipif(not REAL.exists(), reason=f"no subset of CIFAR-10 at {REAL}; set ROBUST_TANGENTS_DATA")
def test_planes_and_cars_give_the_known_numbers():
    """CIFAR-10 plane against car, one hidden layer, no ridge, ε = 8/255: the shape of the authors' notebook."""
    every = {"train_per_class": None, "test_per_class": None}
    data = load({"source": "cifar10", "path": str(REAL), "classes": [0, 1], **every}, 0)
    train, test = (jnp.asarray(part / 255.0) for part in (data.train_images, data.test_images))
    kernel = build("fc1", train.shape[1:], 1 << 30)
    spectrum = kernel_features.spectrum(kernel(train))
    targets = kernel_features.targets(data.train_labels, 2)
    y = jnp.asarray(data.test_labels)[:, None]
    chosen = [0, 1, 2, 3, 10, 25, 100, 500]
    predictors = [kernel_features.features(spectrum, targets, chosen), kernel_features.predictor(spectrum, targets)]
    attack = Attack(8 / 255, 8 / 255, 1, False)
    rows = jnp.asarray(kernel(test, train))
    useful, robust = [], []
    for made in predictors:
        useful.append(kernel_features.correct(made.outputs_everywhere(rows), y).mean(axis=0))
        withstood = []
        for image, label in zip(test, data.test_labels, strict=True):
            moved, _ = kernel_features.attacked(kernel, train, made, image, label, attack, jax.random.key(0))
            withstood.append(kernel_features.withstands(kernel, train, made, moved, label))
        robust.append(np.mean(withstood, axis=0))
    known_useful, known_robust = [0.55, 0.64, 0.70, 0.52, 0.54, 0.45, 0.60], [0.41, 0.47, 0.47, 0.31, 0.09, 0, 0]
    # Measured independently, with NumPy alone: two digits.
    assert useful[1] == pytest.approx(0.896, abs=0.006)
    assert robust[1] == pytest.approx(0.026, abs=0.006)
    np.testing.assert_allclose(useful[0][1:], known_useful, atol=0.011)
    np.testing.assert_allclose(robust[0][1:], known_robust, atol=0.011)
