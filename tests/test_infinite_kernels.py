"""Kernels of infinitely wide networks against neural-tangents, wide finite networks, and values known by hand."""

import subprocess
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_tangents.errors import InputError
from robust_tangents.infinite_kernels import BIAS_VARIANCE, Kernel, build, fully_connected

SHAPE = (4, 4, 2)
pytestmark = pytest.mark.usefixtures("double_precision")


def images(count: int, seed: int) -> jax.Array:
    return jnp.asarray(uniform(count, seed))


def uniform(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(count, *SHAPE))


def kernel_of(depth: int, **sizes: int) -> Kernel:
    whole = build(f"fc{depth}", SHAPE, 1 << 30)
    return Kernel(whole.function, **sizes) if sizes else whole


@pytest.fixture(scope="module")
def oracle(neural_tangents_python, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("oracle")
    with h5py.File(folder / "in.h5", "w") as file:
        file["x"], file["points"] = uniform(3, 0), uniform(5, 1)
        file["weights"] = np.random.default_rng(2).normal(size=(5, 2))
    script = Path(__file__).with_name("infinite_kernels_oracle.py")
    command = [neural_tangents_python, script, folder / "in.h5", folder / "out.h5"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    with h5py.File(folder / "out.h5") as file:
        return {name: {key: value[()] for key, value in group.items()} for name, group in file.items()}


def relative_error(found, expected) -> float:
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_the_closed_form_is_the_kernel_of_neural_tangents(oracle, depth):
    expected = oracle[f"fully_connected {depth}"]
    kernel = kernel_of(depth)
    assert relative_error(kernel(images(3, 0), images(5, 1)), expected["kernel"]) < 1e-8
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(5, 2)))
    values, gradients = kernel.at(images(3, 0)[0], images(5, 1), weights)
    assert relative_error(values, expected["kernel"][0] @ weights) < 1e-8
    assert relative_error(gradients, np.tensordot(weights.T, expected["gradients"], 1)) < 1e-8


def test_other_kernels_are_those_of_neural_tangents_in_blocks_as_well(oracle):
    weights = np.random.default_rng(2).normal(size=(5, 2))
    assert len(oracle) == 7
    for expected in oracle.values():
        assert relative_error(expected["blocked"], expected["kernel"]) < 1e-10
        assert relative_error(expected["values"], expected["kernel"][0] @ weights) < 1e-10
        contracted = np.tensordot(weights.T, expected["gradients"], 1)
        assert relative_error(expected["contracted"], contracted) < 1e-8


def test_orthogonal_and_equal_inputs_by_hand():
    # Two values per image and no overlap: without bias K⁰ = Θ⁰ = 2 · 1/2 = 1 on the diagonal, 0 beside it.
    x = jnp.eye(2)
    bias = BIAS_VARIANCE
    first = 1 + bias  # K⁰(x, x)
    diagonal = first + bias + first  # K¹ = K⁰ + bias, and κ₀ = 1 takes Θ⁰ whole
    cosine = bias / first
    angle = np.arccos(cosine)
    beside = first * (np.sin(angle) + (np.pi - angle) * cosine) / np.pi + bias + (np.pi - angle) / np.pi * bias
    expected = [[diagonal, beside], [beside, diagonal]]
    np.testing.assert_allclose(fully_connected(x, x, 1), expected, rtol=1e-7)


def test_a_wide_network_has_nearly_this_kernel():
    x, width = images(4, 0).reshape(4, -1), 50_000
    rng = np.random.default_rng(0)
    inner, outer = rng.normal(size=(x.shape[1], width)), rng.normal(size=width)
    offset, last = rng.normal(size=width), rng.normal()

    def network(params, x):
        inner, offset, outer, last = params
        hidden = jnp.maximum(jnp.sqrt(2 / len(x)) * x @ inner + 0.1 * offset, 0)
        return jnp.sqrt(2 / width) * hidden @ outer + 0.1 * last

    gradients = [jax.grad(network)((inner, offset, outer, last), image) for image in x]
    rows = np.stack([np.concatenate([np.ravel(part) for part in gradient]) for gradient in gradients])
    assert relative_error(rows @ rows.T, fully_connected(x, x, 1)) < 0.02


@pytest.mark.parametrize("depth", [1, 3])
def test_gradients_are_differences_of_values(depth):
    kernel, x, points = kernel_of(depth), images(1, 0)[0], images(6, 1)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(6, 3)))
    _, gradients = kernel.at(x, points, weights)
    direction, small = jnp.asarray(np.random.default_rng(3).normal(size=SHAPE)), 1e-5
    ahead, behind = (kernel(x[None] + sign * small * direction, points) @ weights for sign in (1, -1))
    expected = (ahead - behind)[0] / (2 * small)
    np.testing.assert_allclose(jnp.tensordot(gradients, direction, 3), expected, rtol=1e-7)
    # Every function at an image of its own.
    own = kernel.gradient(jnp.stack([x] * 3), points, weights)
    np.testing.assert_allclose(own, gradients, rtol=1e-10, atol=1e-14)


def test_the_gradient_at_a_training_image_is_finite():
    points = images(4, 1)
    _, gradients = kernel_of(2).at(points[0], points, jnp.eye(4))
    assert np.isfinite(gradients).all()


@pytest.mark.parametrize("budget", [1, 7, 20, 10**6])
def test_blocks_change_nothing(budget):
    whole, blocked = kernel_of(2), kernel_of(2, value_bytes=1, gradient_bytes=2, budget=budget)
    x, points = images(5, 0), images(7, 1)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(7, 5)))
    np.testing.assert_allclose(blocked(x, points), whole(x, points), rtol=1e-14)
    np.testing.assert_allclose(blocked(points), whole(points, points), rtol=1e-7)
    np.testing.assert_array_equal(blocked(points), blocked(points).T)
    for found, expected in zip(blocked.at(x[0], points, weights), whole.at(x[0], points, weights), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    own = blocked.gradient(x, points, weights)
    np.testing.assert_allclose(own, whole.gradient(x, points, weights), rtol=1e-12, atol=1e-14)


def test_what_is_missing_for_other_kernels_is_said():
    with pytest.raises(InputError, match=r"snakemake neural_tangents.*fully connected kernels work without"):
        build("myrtle5", (8, 8, 1), 1 << 30)
