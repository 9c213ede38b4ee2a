"""Collapse measures are zero at a simplex, agree with their definitions written out, and with what is known."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from robust_tangents import collapse
from robust_tangents.collapse import Centres


def identity(weights, images):
    """No network: the images are the features."""
    return {"penultimate": images, "logits": images @ weights.T}


def two_stages(weights, images):
    return {"early": images.reshape(len(images), 2, -1) ** 2, **identity(weights, images)}


def simplex(classes: int, dimension: int, rng: np.random.Generator) -> np.ndarray:
    """Vertices of a regular simplex around zero, in a random position."""
    basis = np.linalg.qr(rng.normal(size=(dimension, classes)))[0].T
    return basis - basis.mean(axis=0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def problem(rng):
    """Features (N, d), unbalanced labels, classifier rows: C = 4, d = 6."""
    labels = np.repeat(np.arange(4), [5, 3, 7, 2])
    features = (rng.normal(size=(4, 6))[labels] * 2 + rng.normal(size=(17, 6))).astype(np.float32)
    shuffled = rng.permutation(17)
    return features[shuffled], labels[shuffled], rng.normal(size=(4, 6))


def measured(features, labels, weights, clean=None, batch_size=5):
    stages = Partial(identity, jnp.asarray(weights, jnp.float32))
    return collapse.measures(stages, ["penultimate"], weights, features, labels, clean, batch_size)


# At collapse


def test_everything_is_zero_at_a_simplex_with_its_own_classifier(rng):
    vertices = simplex(5, 8, rng)
    labels = np.repeat(np.arange(5), 4)
    features = (3 * vertices[labels]).astype(np.float32)
    found, _ = measured(features, labels, 0.5 * vertices)
    exact = {"nc1", "nc1_papyan", "equinorm", "equiangularity", "equiangularity_papyan", "nc3", "nc3_papyan", "nc4"}
    for name in exact | {"classifier_equinorm", "classifier_equiangularity"}:
        np.testing.assert_allclose(found[name], 0, atol=2e-6, err_msg=name)
    assert found["nearest_centre_accuracy"] == found["accuracy"] == 1
    np.testing.assert_array_equal(found["nearest_clean"], np.eye(5))


# Against the definitions


def test_measures_are_their_definitions_written_out(problem):
    features, labels, weights = problem
    found, _ = measured(features, labels, weights)
    h, classes, count = features.astype(np.float64), 4, len(labels)
    means = np.array([h[labels == c].mean(axis=0) for c in range(classes)])
    centred = means - h.mean(axis=0)
    within = sum(np.outer(h[i] - means[labels[i]], h[i] - means[labels[i]]) for i in range(count)) / count
    between = sum(np.outer(m, m) for m in centred) / classes
    nc1 = np.trace(within @ np.linalg.pinv(between))
    np.testing.assert_allclose(found["nc1"], [nc1], rtol=1e-5)
    np.testing.assert_allclose(found["nc1_papyan"], [nc1 / classes], rtol=1e-5)

    def norms_and_cosines(vectors):
        pairs = [(a, b) for a in range(classes) for b in range(classes) if a != b]
        norm = [np.sqrt(sum(v**2)) for v in vectors]
        return norm, [vectors[a] @ vectors[b] / (norm[a] * norm[b]) for a, b in pairs]

    for prefix, vectors in (("", centred), ("classifier_", weights)):
        norm, cosine = norms_and_cosines(vectors)
        np.testing.assert_allclose(found[f"{prefix}equinorm"], np.std(norm, ddof=1) / np.mean(norm), rtol=1e-5)
        expected = np.mean([abs(c + 1 / 3) for c in cosine])
        np.testing.assert_allclose(found[f"{prefix}equiangularity"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["equiangularity_papyan"], np.std(norms_and_cosines(centred)[1]), rtol=1e-5)
    difference = weights / np.sqrt((weights**2).sum()) - centred / np.sqrt((centred**2).sum())
    np.testing.assert_allclose(found["nc3"], (difference**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(found["nc3_papyan"], np.sqrt((difference**2).sum()), rtol=1e-5)
    nearest = np.array([np.argmin([np.sum((x - m) ** 2) for m in means]) for x in h])
    predicted = np.argmax(h @ weights.T, axis=1)
    assert found["nc4"] == np.mean(nearest != predicted) > 0
    assert found["nearest_centre_accuracy"] == np.mean(nearest == labels)
    assert found["accuracy"] == np.mean(predicted == labels)
    logits = h @ weights.T
    log_likelihood = logits[np.arange(count), labels] - np.log(np.exp(logits).sum(axis=1))
    np.testing.assert_allclose(found["loss"], -log_likelihood.mean(), rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 17])
def test_batches_do_not_matter(problem, batch_size):
    features, labels, weights = problem
    reference, _ = measured(features, labels, weights)
    found, _ = measured(features, labels, weights, batch_size=batch_size)
    for name in reference:
        np.testing.assert_allclose(found[name], reference[name], rtol=1e-5, atol=1e-7)


def test_every_stage_is_measured_flattened_and_others_are_undefined(problem):
    features, labels, weights = problem
    stages = Partial(two_stages, jnp.asarray(weights, jnp.float32))
    names = ["early", "nowhere", "penultimate"]
    found, own = collapse.measures(stages, names, weights, features, labels, None, 5)
    squared, _ = measured(features**2, labels, weights)
    plain, _ = measured(features, labels, weights)
    assert set(own) == {"early", "penultimate"}
    for name in ("nc1", "equinorm", "equiangularity", "nearest_centre_accuracy"):
        expected = [squared[name][0], np.nan, plain[name][0]]
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)
    # The network's prediction is compared with the nearest centre of every stage.
    assert found["nc4"][2] == plain["nc4"][0]


def test_perturbed_images_are_compared_with_clean_centres(problem, rng):
    features, labels, weights = problem
    _, clean = measured(features, labels, weights)
    moved = features[:, ::-1].copy()
    found, own = measured(moved, labels, weights, clean)
    distances = ((moved[:, None] - clean["penultimate"].means) ** 2).sum(axis=-1)
    nearest = distances.argmin(axis=1)
    assert found["nearest_centre_accuracy"] == np.mean(nearest == labels)
    shares = np.array([[np.mean(nearest[labels == c] == other) for other in range(4)] for c in range(4)])
    np.testing.assert_allclose(found["nearest_clean"], shares)
    # Spread and geometry are around their own centres.
    alone, _ = measured(moved, labels, weights)
    np.testing.assert_allclose(found["nc1"], alone["nc1"])
    np.testing.assert_allclose(own["penultimate"].means, clean["penultimate"].means[:, ::-1], rtol=1e-5, atol=1e-6)


# What is known


def test_random_features_have_the_expected_spread(rng):
    """Gaussian features of n images in each of C equal classes: E NC1 = C (C − 1) (n − 1) / (d − C)."""
    classes, per_class, dimension = 4, 6, 24
    labels = np.repeat(np.arange(classes), per_class)
    spreads = []
    for _ in range(300):
        features = rng.normal(size=(len(labels), dimension))
        centres = Centres(features.reshape(classes, per_class, dimension).mean(axis=1), np.full(classes, per_class))
        offsets = (features - centres.means[labels]) @ centres.whitening
        spreads.append((offsets**2).sum() / len(labels))
    expected = classes * (classes - 1) * (per_class - 1) / (dimension - classes)
    assert np.mean(spreads) == pytest.approx(expected, abs=4 * np.std(spreads) / np.sqrt(300))
    assert np.std(spreads) / np.sqrt(300) < 0.02 * expected


def test_random_class_means_form_a_simplex_in_many_dimensions(rng):
    """Centred independent vectors deviate from a simplex like 1/√d."""
    values = []
    for dimension in (100, 10_000):
        means = rng.normal(size=(10, dimension))
        values.append(collapse.equiangularity(means - means.mean(axis=0)))
    assert values[0] / values[1] == pytest.approx(10, rel=0.25)
    assert values[1] < 0.02


def test_rotation_and_scale_change_no_measure(problem, rng):
    features, labels, weights = problem
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    before, clean = measured(features, labels, weights)
    after, turned = measured((5 * features @ rotation).astype(np.float32), labels, weights @ rotation)
    for name in before:
        if name != "loss":  # the only one that sees the scale
            np.testing.assert_allclose(after[name], before[name], rtol=2e-5, atol=1e-6)
    other = Centres(clean["penultimate"].means[::-1], clean["penultimate"].counts)
    angles = collapse.displacement(clean["penultimate"], other)
    other = Centres(turned["penultimate"].means[::-1], clean["penultimate"].counts)
    for name, value in collapse.displacement(turned["penultimate"], other).items():
        # Near 0 an angle holds the root of the rounding of its cosine.
        np.testing.assert_allclose(value, angles[name] * (5 if "distance" in name else 1), rtol=1e-5, atol=1e-7)


def test_layers_of_any_size_are_measured_without_a_square_matrix(rng):
    labels = np.repeat(np.arange(3), 4)
    features = rng.normal(size=(12, 300_000)).astype(np.float32)  # a square matrix would take 720 GB
    centres = Centres(features.reshape(3, 4, -1).mean(axis=1, dtype=np.float64), np.full(3, 4))
    offsets = (features - centres.means[labels]) @ centres.whitening
    within = (features - centres.means[labels]) @ centres.centred.T
    small = centres.centred @ centres.centred.T
    expected = 3 * np.trace(within.T @ within @ np.linalg.pinv(small) @ np.linalg.pinv(small)) / 12
    assert (offsets**2).sum() / 12 == pytest.approx(expected, rel=1e-8)


# Movements of class means


def test_angles_and_distances_by_hand():
    first = Centres(np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([1, 1]))
    second = Centres(np.array([[2.0, 2.0], [2.0, 0.0]]), np.array([1, 1]))
    found = collapse.displacement(first, second)
    np.testing.assert_allclose(found["distance"], [np.sqrt(5), 3])
    np.testing.assert_allclose(found["angle"], [np.pi / 4, np.pi])
    # Centred: (1, 0), (−1, 0) and (0, 1), (0, −1).
    np.testing.assert_allclose(found["centred_distance"], [np.sqrt(2), np.sqrt(2)])
    np.testing.assert_allclose(found["centred_angle"], [np.pi / 2, np.pi / 2])
    np.testing.assert_allclose(found["overall_distance"], np.sqrt(5))
    np.testing.assert_allclose(found["overall_angle"], np.pi / 2)  # of the zero vector: undecided


def test_angles_of_equal_means_are_zero_and_never_undefined(rng):
    means = rng.normal(size=(200, 64)).astype(np.float32).astype(np.float64)
    angles = collapse.angles(means, means * (1 + 1e-12))
    assert np.isfinite(angles).all()
    assert angles.max() < 1e-6


def test_before_training_what_needs_a_classifier_is_undefined_without_a_warning(problem):
    features, labels, _ = problem
    found, _ = measured(features, labels, np.zeros((4, 6)))
    for name in ("classifier_equinorm", "classifier_equiangularity", "nc3", "nc3_papyan"):
        assert np.isnan(found[name])
    assert np.isfinite(found["nc1"]).all()


def test_measures_are_exact_deep_in_collapse(rng):
    """A relative spread of 1e-3 around a simplex far from the origin: as exact as float32 features allow."""
    vertices, labels = simplex(10, 64, rng), np.repeat(np.arange(10), 30)
    features = (5 + 10 * vertices[labels] + 1e-2 * rng.normal(size=(300, 64))).astype(np.float32)
    found, _ = measured(features, labels, vertices)
    h = features.astype(np.float64)
    means = np.array([h[labels == c].mean(axis=0) for c in range(10)])
    centred = means - h.mean(axis=0)
    within = (h - means[labels]).T @ (h - means[labels]) / 300
    expected = np.trace(within @ np.linalg.pinv(centred.T @ centred / 10))
    assert expected < 1e-4
    np.testing.assert_allclose(found["nc1"], [expected], rtol=1e-3)


def test_one_program_serves_all_checkpoints(problem):
    features, labels, weights = problem
    jax.clear_caches()
    for scale in (1, 2, 3):
        measured(features, labels, scale * weights)
    programs: list[Any] = [collapse._sums, collapse._compare]
    assert [program._cache_size() for program in programs] == [1, 1]
