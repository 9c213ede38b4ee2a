"""Kernels are inner products of explicit gradients, however they are blocked, and those of neural-tangents."""

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from robust_tangents import models
from robust_tangents.execution import Execution
from robust_tangents.kernel_measures import specialization
from robust_tangents.kernels import Kind, _Kernels, _layers, empirical_kernels

ROOT = Path(__file__).parents[1]
EXECUTION = Execution("xla", compiled_loops=True)
SPECS: dict[str, dict[str, Any]] = {
    "resnet": {"architecture": "resnet", "width": 2, "blocks": [1, 1]},
    "large": {"architecture": "preact_resnet", "width": 2, "blocks": [1, 1], "large_images": True},
    "cnn": {"architecture": "cnn", "widths": [2, 3]},
    "fully connected": {"architecture": "fully_connected", "widths": [5]},
}
ALL: tuple[Kind, ...] = ("trace", "class", "full")
COUNT, CLASSES = 5, 3
LABELS = np.array([0, 1, 2, 0, 1])


def kernels_of(checkpoint, images, kinds=ALL, **options):
    network, params, batch_stats = checkpoint
    return empirical_kernels(network, params, batch_stats, images, kinds, **options)


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).uniform(size=(COUNT, 4, 4, 1)), jnp.float32)


@pytest.fixture(scope="module")
def checkpoint(images):
    """Network, parameters and statistics by name: "new" as initialised, otherwise away from there."""
    made = {}

    def get(name: str, new: bool = False):
        if name not in made:
            network = models.build(SPECS[name], CLASSES, EXECUTION)
            params, batch_stats = network.init(jax.random.key(0), images**2)
            flat, unravel = ravel_pytree(params)
            moved = unravel(flat + 0.3 * np.random.default_rng(1).normal(size=flat.shape).astype(np.float32))
            made[name] = network, params, moved, batch_stats
        network, params, moved, batch_stats = made[name]
        return network, params if new else moved, batch_stats

    return get


@pytest.fixture(scope="module")
def kernels(checkpoint, images):
    """All three kernels of a moved network, by name."""
    made = {}

    def get(name: str):
        if name not in made:
            made[name] = kernels_of(checkpoint(name), images)
        return made[name]

    return get


def jacobian(checkpoint, images) -> np.ndarray:
    """Of all logits with respect to all parameters, (N, C, P), in float64."""
    network, params, batch_stats = checkpoint
    flat, unravel = ravel_pytree(params)
    jacobian = jax.jit(jax.jacrev(lambda flat: network.logits(unravel(flat), batch_stats, images)))(flat)
    return np.asarray(jacobian, np.float64)


def assert_close(kernel, expected):
    """To 1e-5 of the kernel's largest entry."""
    assert kernel.shape == expected.shape
    np.testing.assert_allclose(kernel, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# Against the definition


@pytest.mark.parametrize("name", SPECS)
def test_kernels_are_inner_products_of_the_rows_of_the_explicit_jacobian(checkpoint, kernels, images, name):
    rows = jacobian(checkpoint(name), images)
    by_class = np.einsum("icp,jcp->cij", rows, rows)
    assert_close(kernels(name)["class"], by_class)
    assert_close(kernels(name)["trace"], by_class.mean(axis=0))
    flat = rows.reshape(COUNT * CLASSES, -1)
    assert_close(kernels(name)["full"], flat @ flat.T)
    assert np.linalg.norm(by_class[0] - by_class[1]) > 1e-2 * np.linalg.norm(by_class[0])


@pytest.mark.parametrize("name", SPECS)
def test_the_three_kinds_hold_the_same_numbers(kernels, name):
    trace, by_class, full = (kernels(name)[kind] for kind in ("trace", "class", "full"))
    np.testing.assert_allclose(trace, by_class.mean(axis=0), rtol=1e-6)
    for c in range(CLASSES):
        rows = np.arange(COUNT) * CLASSES + c
        np.testing.assert_array_equal(full[np.ix_(rows, rows)], by_class[c])


@pytest.mark.parametrize("kinds", [["trace"], ["class"], ["class", "trace"], ["full"]])
def test_only_the_kinds_asked_for_come_back_and_are_the_same(checkpoint, kernels, images, kinds):
    result = kernels_of(checkpoint("fully connected"), images, kinds)
    assert set(result) == set(kinds)
    for kind in kinds:
        assert result[kind].dtype == np.float32
        assert_close(result[kind], kernels("fully connected")[kind])


@pytest.mark.parametrize("name", SPECS)
def test_kernels_are_exactly_symmetric_and_positive_semidefinite_to_rounding(kernels, name):
    for kernel in (kernels(name)["trace"], *kernels(name)["class"], kernels(name)["full"]):
        np.testing.assert_array_equal(kernel, kernel.T)
        eigenvalues = np.linalg.eigvalsh(kernel.astype(np.float64))
        assert eigenvalues.min() > -1e-5 * eigenvalues.max()
        assert np.trace(kernel) > 0


def test_the_kernel_of_some_images_is_a_block_of_that_of_all(checkpoint, kernels, images):
    some = kernels_of(checkpoint("resnet"), images[:3])
    whole = kernels("resnet")
    assert_close(some["trace"], whole["trace"][:3, :3])
    assert_close(some["class"], whole["class"][:, :3, :3])
    assert_close(some["full"], whole["full"][: 3 * CLASSES, : 3 * CLASSES])


def test_convolutions_by_columns_give_the_same_kernels(checkpoint, kernels, images):
    _, params, batch_stats = checkpoint("resnet")
    network = models.build(SPECS["resnet"], CLASSES, Execution("columns", compiled_loops=False))
    assert network != checkpoint("resnet")[0]
    found = kernels_of((network, params, batch_stats), images)
    for kind, kernel in kernels("resnet").items():
        assert_close(found[kind], kernel)


# Blocks


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("budget", [0, 3000, 10_000, 30_000, 1 << 30])
def test_layers_go_in_groups_whose_factors_fit_into_two_thirds_of_the_budget(checkpoint, images, name, across, budget):
    network, params, batch_stats = checkpoint(name)
    engine = _Kernels(network, params, batch_stats, images, budget, across)
    groups = engine.groups()
    assert [layer for layers, _ in groups for layer in layers] == engine.layers
    for layers, together in groups:
        taken = COUNT * sum(layer.bytes(together) for layer in layers)
        assert taken <= budget * 2 // 3 or (len(layers) == 1 and together == (CLASSES if across else 1))
    if budget == 0:
        assert len(groups) == len(engine.layers)
    if budget == 1 << 30:
        assert groups == [(tuple(engine.layers), CLASSES)]


@pytest.mark.parametrize("name", ["resnet", "cnn"])
def test_what_layers_keep_is_what_is_counted(checkpoint, images, name):
    network, params, batch_stats = checkpoint(name)
    engine = _Kernels(network, params, batch_stats, images, 1 << 30, across=False)
    for layers in (engine.layers, engine.layers[:2], engine.layers[3:4]):
        kept = jax.tree.leaves(engine.factors(tuple(layers), range(2)))
        assert sum(each.nbytes for each in kept) == COUNT * sum(layer.bytes(2) for layer in layers)


@pytest.mark.parametrize("kinds", [["class"], ["full"]])
@pytest.mark.parametrize("budget", [0, 3000, 10_000, 30_000])
@pytest.mark.parametrize("on_cpu", [True, False])
def test_any_budget_and_any_blocks_give_the_same_kernels(
    checkpoint, kernels, images, kinds, budget, on_cpu, monkeypatch
):
    # Blocks of two images and one, strips of images, few features of weights at a time.
    monkeypatch.setattr("robust_tangents.execution._PART", 2)
    monkeypatch.setattr(Execution, "pass_bytes", 20_000)
    monkeypatch.setattr(Execution, "cached_bytes", 500)
    network, params, batch_stats = checkpoint("resnet")
    network = replace(network, execution=replace(EXECUTION, on_cpu=on_cpu))
    blocked = empirical_kernels(network, params, batch_stats, images, kinds, budget)
    for kind in kinds:
        assert_close(blocked[kind], kernels("resnet")[kind])
        np.testing.assert_array_equal(blocked[kind], np.swapaxes(blocked[kind], -1, -2))


class Shared(nn.Module):
    """One layer used twice."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layer = nn.Dense(16, name="shared")
        return nn.Dense(CLASSES)(layer(layer(x.reshape(len(x), -1))))


class Unknown(nn.Module):
    """A layer that the engine knows nothing of."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.Dense(CLASSES)(nn.LayerNorm(name="norm")(x.reshape(len(x), -1)))


@pytest.mark.parametrize(
    ("module", "message"), [(Shared(), "shared: .* used twice"), (Unknown(), "norm: .* no kernel")]
)
def test_networks_without_factored_gradients_are_refused(images, module, message):
    network = models.Network(module, CLASSES, EXECUTION)
    with pytest.raises(NotImplementedError, match=message):
        empirical_kernels(network, *network.init(jax.random.key(0), images), images, ["trace"])


@pytest.mark.parametrize(
    ("shape", "forms"), [((5, 5, 2), {True, False}), ((2, 2, 1), {True, False}), ((1, 1, 3), {True})]
)
def test_few_positions_and_many_channels_give_the_same_kernels(shape, forms):
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(COUNT, *shape)), jnp.float32)
    network = models.build({"architecture": "resnet", "width": 6, "blocks": [1, 1, 1]}, CLASSES, EXECUTION)
    params, batch_stats = network.init(jax.random.key(0), images**2)
    params["logits"] = jax.tree.map(lambda leaf: leaf + 0.3, params["logits"])
    found = empirical_kernels(network, params, batch_stats, images, ["class"])["class"]
    rows = jacobian((network, params, batch_stats), images)
    assert_close(found, np.einsum("icp,jcp->cij", rows, rows))
    layers = [layer for layer in _layers(network, params, batch_stats, shape) if layer.has_weights]
    assert {layer.factored(CLASSES) for layer in layers} == forms  # by factors or not


# Before training


def test_kernels_at_epoch_zero_are_the_conjugate_kernel_of_every_class(checkpoint, images):
    network, params, batch_stats = checkpoint("resnet", new=True)
    assert not np.any(network.logits(params, batch_stats, images))
    kernels = empirical_kernels(network, params, batch_stats, images, ["class", "full"])
    full = kernels["full"].reshape(COUNT, CLASSES, COUNT, CLASSES)
    features = np.asarray(network.features(params, batch_stats, images)["penultimate"], np.float64)
    assert np.abs(features).max() > 0.1
    for c in range(CLASSES):
        assert_close(kernels["class"][c], features @ features.T + 1)
        assert_close(kernels["class"][c], kernels["class"][0])
        for other in set(range(CLASSES)) - {c}:
            np.testing.assert_array_equal(full[:, c, :, other], 0)
    np.testing.assert_allclose(specialization(kernels["class"], LABELS), 1, rtol=1e-6)


# Against neural-tangents


def test_kernels_are_those_of_neural_tangents(checkpoint, kernels, images, neural_tangents_python, tmp_path):
    network, params, batch_stats = checkpoint("cnn")
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["images"] = images
        for layer, arrays in params.items():
            for name, value in arrays.items():
                file[f"params/{layer}/{name}"] = value
    oracle = Path(__file__).with_name("neural_tangents_oracle.py")
    paths = [str(tmp_path / name) for name in ("in.h5", "out.h5")]
    run = subprocess.run([neural_tangents_python, oracle, *paths], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    with h5py.File(tmp_path / "out.h5") as file:
        logits, trace, full = (file[name][()] for name in ("logits", "trace", "full"))
    np.testing.assert_allclose(logits, network.logits(params, batch_stats, images), rtol=1e-4, atol=1e-5)
    assert_close(kernels("cnn")["trace"], trace)
    assert full.shape == (COUNT, COUNT, CLASSES, CLASSES)
    assert_close(kernels("cnn")["full"], full.transpose(0, 2, 1, 3).reshape(COUNT * CLASSES, -1))
