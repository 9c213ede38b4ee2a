"""Measures of kernels whose values are known by hand."""

import numpy as np
import pytest

from robust_tangents.kernel_measures import (
    cosines,
    distance,
    effective_rank,
    gram,
    polar,
    similarity,
    specialization,
    spectral_parts,
    velocity,
)

IDENTITY = np.eye(2)
ONES = np.ones((2, 2))
FIRST, SECOND = np.diag([1.0, 0.0]), np.diag([0.0, 1.0])


def random_kernel(points: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(points, points + 2))
    return rows @ rows.T


# Similarity and distance


@pytest.mark.parametrize(
    ("a", "b", "cosine"),
    [
        (IDENTITY, IDENTITY, 1),
        (IDENTITY, ONES, 2 / (np.sqrt(2) * 2)),
        (FIRST, SECOND, 0),
        (FIRST, IDENTITY, 1 / np.sqrt(2)),
        (np.array([[2.0, 1.0], [1.0, 2.0]]), IDENTITY, 4 / np.sqrt(10 * 2)),
        (np.array([[2.0, -1.0], [-1.0, 2.0]]), np.array([[2.0, 1.0], [1.0, 2.0]]), 6 / 10),
    ],
)
def test_similarity_is_the_cosine_in_frobenius_norm(a, b, cosine):
    assert similarity(a, b) == pytest.approx(cosine, abs=1e-15)
    assert distance(a, b) == pytest.approx(1 - cosine, abs=1e-15)
    assert distance(a, b) == distance(b, a)


def test_distance_vanishes_for_proportional_kernels_only():
    kernel = random_kernel(6)
    assert distance(kernel, 1e6 * kernel) == pytest.approx(0, abs=1e-15)
    changed = kernel + 0.1 * np.eye(6)
    assert 1e-6 < distance(kernel, changed) < 1
    # No centering: a common shift counts.
    assert distance(kernel, kernel + 1) > 1e-3


def test_velocity_is_distance_per_epoch():
    kernels = [FIRST, IDENTITY, ONES, ONES, SECOND]
    steps = np.array([0.125, 0.375, 1, 2])
    distances = [1 - 1 / np.sqrt(2), 1 - 1 / np.sqrt(2), 0, 0.5]
    result = velocity(kernels, [0, 0.125, 0.5, 1.5, 3.5])
    np.testing.assert_allclose(result, distances / steps, atol=1e-15)
    assert velocity(kernels[:1], [0]).shape == (0,)


# Effective rank


@pytest.mark.parametrize(
    ("eigenvalues", "rank"),
    [
        ([1, 1, 1, 1], 4),
        ([5, 5, 5, 5], 4),
        ([3, 0, 0, 0], 1),
        ([2, 2, 0, 0], 2),
        ([2, 1, 1, 0], 2 * np.sqrt(2)),  # entropy 3/2 log 2
        ([3, 1], 4 / 3**0.75),
    ],
)
def test_effective_rank_is_the_exponential_of_the_entropy_of_the_eigenvalues(eigenvalues, rank):
    kernel = np.diag(np.array(eigenvalues, float))
    assert effective_rank(kernel) == pytest.approx(rank, rel=1e-12)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=kernel.shape))[0]
    assert effective_rank(rotation @ kernel @ rotation.T) == pytest.approx(rank, rel=1e-10)


def test_effective_rank_of_a_rank_one_kernel_is_one():
    row = np.random.default_rng(0).normal(size=7)
    assert effective_rank(np.outer(row, row)) == pytest.approx(1, abs=1e-10)


def test_effective_rank_takes_negative_rounding_errors_for_zero():
    assert effective_rank(np.diag([1.0, 1.0, -1e-3])) == pytest.approx(2, rel=1e-12)
    assert 1 < effective_rank(random_kernel(9)) < 9


# Specialization


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_perfectly_specialized_kernels_reach_the_number_of_classes(classes):
    labels = np.tile(np.arange(classes), 4)
    kernels = np.stack([np.outer(labels == c, labels == c) for c in range(classes)]).astype(float)
    np.testing.assert_allclose(specialization(kernels, labels), classes * np.eye(classes), atol=1e-14)


def test_equal_class_kernels_are_not_specialized():
    kernels = np.stack([random_kernel(6)] * 4)
    np.testing.assert_array_equal(specialization(kernels, np.array([0, 1, 2, 3, 0, 2])), np.ones((4, 4)))


def test_proportional_class_kernels_are_not_specialized():
    kernels = np.stack([random_kernel(6)] * 3) * np.array([1, 10, 0.1])[:, None, None]
    np.testing.assert_allclose(specialization(kernels, np.array([0, 1, 2, 2, 1, 0])), 1, rtol=1e-14)


def test_specialization_by_hand():
    kernels = np.array([[[3.0, 0.0], [0.0, 4.0]], [[1.0, 0.0], [0.0, 0.0]]])
    # Cosines with the outer products of (1, 0) and (0, 1): 3/5 and 4/5 for the first kernel, 1 and 0 for the second.
    expected = np.array([[0.6 / 0.8, 0.8 / 0.4], [1 / 0.8, 0 / 0.4]])
    np.testing.assert_allclose(specialization(kernels, np.array([0, 1])), expected, rtol=1e-14)
    # The other way round, the columns change places.
    np.testing.assert_allclose(specialization(kernels, np.array([1, 0])), expected[:, ::-1], rtol=1e-14)


def test_specialization_with_unequal_classes_by_its_formula():
    rng = np.random.default_rng(2)
    labels = np.array([0, 1, 1, 2, 2, 2])
    kernels = np.stack([random_kernel(6, seed) for seed in rng.integers(100, size=3)])
    cosine = [[similarity(kernel, np.outer(labels == c, labels == c)) for c in range(3)] for kernel in kernels]
    result = specialization(kernels, labels)
    for c in range(3):
        for other in range(3):
            assert result[c, other] == pytest.approx(cosine[c][other] / np.mean([row[other] for row in cosine]))
    np.testing.assert_allclose(result.mean(axis=0), 1)
    # One class after the other in arbitrary scale: nothing but the cosine counts.
    np.testing.assert_allclose(specialization(kernels * 7, labels), result, rtol=1e-13)


# Full kernels over training


def truncated(kernel: np.ndarray, k: int) -> np.ndarray:
    eigenvalues, vectors = np.linalg.eigh(kernel)
    return vectors[:, -k:] @ np.diag(eigenvalues[-k:]) @ vectors[:, -k:].T


@pytest.mark.parametrize("at_once", [1, 100, 1 << 25])
def test_all_distances_come_from_one_matrix_of_inner_products(monkeypatch, at_once):
    monkeypatch.setattr("robust_tangents.kernel_measures._AT_ONCE", at_once)
    kernels = [random_kernel(7, seed) for seed in range(4)]
    found = 1 - cosines(gram(kernels))
    expected = [[distance(a, b) for b in kernels] for a in kernels]
    np.testing.assert_allclose(found, expected, atol=1e-14)
    np.testing.assert_array_equal(np.diagonal(found), 0)


def test_top_and_bottom_are_what_truncated_kernels_give():
    kernels = [random_kernel(9, seed) for seed in range(4)]
    parts = spectral_parts(kernels, 3)
    tops = [truncated(kernel, 3) for kernel in kernels]
    bottoms = [kernel - top for kernel, top in zip(kernels, tops, strict=True)]
    for found, explicit in ((parts.full, kernels), (parts.top, tops), (parts.bottom, bottoms)):
        np.testing.assert_allclose(found, gram(explicit), rtol=1e-10, atol=1e-10)
    for mass, kernel in zip(parts.mass, kernels, strict=True):
        squared = np.sort(np.linalg.eigvalsh(kernel) ** 2)[::-1]
        np.testing.assert_allclose(mass, squared[:3].cumsum() / squared.sum(), rtol=1e-12)


def test_polar_coordinates_by_hand():
    # From diag(1, 0) to twice the identity: first straight away along itself, then to 45°.
    radius, angle = polar(gram([FIRST, 2 * FIRST, 2 * IDENTITY]))
    np.testing.assert_allclose(radius, [0, 1 / np.sqrt(5), 1], atol=1e-15)
    np.testing.assert_allclose(angle, [0, 0, np.pi / 4], atol=1e-7)


def test_rounding_makes_no_angle_undefined():
    kernel = random_kernel(50).astype(np.float32)
    _, angle = polar(gram([kernel, kernel * np.float32(1.1), random_kernel(50, 1)]))
    assert np.isfinite(angle).all()


# Precision


def test_float32_kernels_are_measured_in_float64():
    kernels = [random_kernel(40, seed).astype(np.float32) for seed in range(3)]
    near = kernels[0] * np.float32(1 + 2**-12)  # proportional but for the rounding of its entries
    assert abs(distance(kernels[0], near)) < 1e-13
    labels = np.arange(40) % 3
    wide = [kernel.astype(np.float64) for kernel in kernels]
    assert distance(*kernels[:2]) == distance(*wide[:2])
    assert effective_rank(kernels[0]) == effective_rank(wide[0])
    by_class = specialization(np.stack(kernels), labels)
    assert by_class.dtype == np.float64
    np.testing.assert_array_equal(by_class, specialization(np.stack(wide), labels))
