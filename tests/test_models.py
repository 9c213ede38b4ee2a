"""Networks have the sizes, initialisation, batch norm and features of the papers' ones, whichever way they convolve."""

import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT
from flax import linen as nn

from robust_tangents import models
from robust_tangents.execution import Convolution, Execution, choose
from robust_tangents.models import Network, cnn, layers
from robust_tangents.models.layers import BatchNorm, Conv, identity_statistics
from robust_tangents.models.resnet import ResNet

EXECUTION = Execution("xla", compiled_loops=True)
RESNET = {"architecture": "resnet", "width": 4, "blocks": [1, 1]}
RESNET18 = {"architecture": "resnet", "width": 64, "blocks": [2, 2, 2, 2]}
PREACT_RESNET = {"architecture": "preact_resnet", "width": 4, "blocks": [1, 1]}
PREACT_RESNET18 = {"architecture": "preact_resnet", "width": 64, "blocks": [2, 2, 2, 2]}
VGG = {"architecture": "vgg", "widths": [[4], [5, 6], [3]]}
VGG11 = {"architecture": "vgg", "widths": [[64], [128], [256, 256], [512, 512], [512, 512]]}
# For ImageNette
VGG11_POOL = {"architecture": "vgg", "widths": [*VGG11["widths"], []], "large_images": True}
PREACT_RESNET18_STEM = PREACT_RESNET18 | {"large_images": True}
CNN = {"architecture": "cnn", "widths": [2, 3]}
CNN_MEGA = {"architecture": "cnn", "widths": [32, 64, 128]}
FULLY_CONNECTED = {"architecture": "fully_connected", "widths": [10_000, 10_000]}


def images_of(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), jnp.float32)


def apply(module: nn.Module, *arguments, **options) -> Any:
    return module.apply(*arguments, **options)


@pytest.fixture(scope="module")
def resnet() -> Network:
    return models.build(RESNET, 3, EXECUTION)


@pytest.fixture(scope="module")
def batch() -> jax.Array:
    return images_of(10, 5, 5, 2)


@pytest.fixture(scope="module")
def initialised(resnet, batch):
    return resnet.init(jax.random.key(0), batch)


@pytest.fixture(scope="module")
def plain(batch):
    """A CNN and its parameters."""
    network = models.build(CNN, 3, EXECUTION)
    return network, *network.init(jax.random.key(0), batch)


# Sizes


@pytest.mark.parametrize(
    ("spec", "classes", "shape", "count"),
    [
        (RESNET18, 10, (32, 32, 3), 11_173_962),
        (PREACT_RESNET18, 10, (32, 32, 3), 11_172_170),
        (VGG11, 10, (32, 32, 3), 9_231_114),
        (VGG11_POOL, 10, (160, 160, 3), 9_231_114),
        (PREACT_RESNET18_STEM, 10, (160, 160, 3), 11_172_170 + (49 - 9) * 3 * 64),
        (RESNET18, 100, (32, 32, 3), 11_220_132),
        (CNN_MEGA, 10, (32, 32, 3), 368_938),
        (CNN_MEGA, 10, (28, 28, 1), 349_162),
        (FULLY_CONNECTED, 10, (32, 32, 3), 3072 * 10_000 + 10_000 + 10_000**2 + 10_000 + 10_000 * 10 + 10),
    ],
)
def test_networks_of_the_papers_have_their_number_of_parameters(spec, classes, shape, count):
    assert models.parameter_count(models.build(spec, classes, EXECUTION), shape) == count


def test_resnet18_has_62_parameter_arrays_and_20_batch_norm_layers():
    network = models.build(RESNET18, 10, EXECUTION)
    init = partial(network.module.init, train=True)
    variables = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert len(jax.tree.leaves(variables["params"])) == 62
    assert len(jax.tree.leaves(variables["batch_stats"])) == 3 * 20  # mean, variance, count


def test_default_sizes_are_those_of_the_papers():
    assert ResNet(10) == models.build(RESNET18, 10, EXECUTION).module
    assert cnn.CNN(10) == models.build(CNN_MEGA, 10, EXECUTION).module
    assert cnn.FullyConnected(10) == models.build(FULLY_CONNECTED, 10, EXECUTION).module


def test_an_unknown_architecture_is_refused():
    with pytest.raises(ValueError, match="no architecture 'transformer'"):
        models.build({"architecture": "transformer"}, 10, EXECUTION)


# Convolution


@pytest.mark.parametrize(("size", "stride", "shape"), list(product((1, 3), (1, 2), ((6, 6), (7, 5), (2, 2), (1, 1)))))
def test_rows_and_xla_give_the_same_convolution_and_derivatives(size, stride, shape):
    x, dx = images_of(2, *shape, 3), images_of(2, *shape, 3, seed=1) - 0.5
    params = Conv(4, size, stride, use_bias=True).init(jax.random.key(0), x)
    params = jax.tree.map(lambda p: p + 0.1, params)
    dparams = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size, dtype=jnp.float32)).reshape(p.shape), params)

    @partial(jax.jit, static_argnums=0)
    def everything(implementation: Convolution):
        conv = Conv(4, size, stride, use_bias=True, implementation=implementation).apply
        y, dy = jax.jvp(conv, (params, x), (dparams, dx))
        _, pull_back = jax.vjp(conv, params, x)
        return y, dy, pull_back(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    with jax.default_matmul_precision("highest"):
        xla, rows = everything("xla"), everything("rows")
    assert xla[0].shape == (2, -(-shape[0] // stride), -(-shape[1] // stride), 4)
    for a, b in zip(jax.tree.leaves(xla), jax.tree.leaves(rows), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("images", [1, 2, 5])  # two at a time, and one that is left over
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (2, 1), (3, 1), (3, 2), (4, 2), (7, 2)])
@pytest.mark.parametrize(
    ("shape", "channels", "features", "columns"),
    [
        ((9, 9), 3, 4, 1),
        ((8, 12), 3, 4, 4),
        ((16, 16), 1, 2, 16),
        ((16, 8), 5, 8, 4),
        ((8, 8), 20, 3, 1),
        ((8, 8), 4, 33, 1),
        ((2, 8), 3, 2, 8),
        ((1, 1), 3, 2, 1),
    ],
)
def test_columns_give_xlas_convolution_and_gradients(
    shape, channels, features, columns, size, stride, images, monkeypatch
):
    one = size * shape[0] * -(-shape[1] // stride) * (channels + features) * 4  # bytes that an image takes
    monkeypatch.setattr(layers, "_CACHED", 2 * one)
    x = images_of(images, *shape, channels)
    params = Conv(features, size, stride).init(jax.random.key(0), x)

    def results(implementation: Convolution):
        conv = Conv(features, size, stride, implementation=implementation).apply
        y: Any
        y, pull_back = jax.vjp(conv, params, x)
        several = jnp.sin(jnp.arange(2.0 * y.size)).reshape(2, *y.shape)
        return y, jax.vmap(pull_back)(several)

    program = jax.make_jaxpr(partial(results, "columns"))()
    if stride == 1 and min(shape) >= size:
        assert f"window_strides=(1, {columns})" in str(program)
    for found, expected in zip(
        *(jax.tree.leaves(jax.jit(partial(results, i))()) for i in ("columns", "xla")), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("moved", [("x",), ("kernel",), ("x", "kernel")])
@pytest.mark.parametrize(("shape", "stride"), [((8, 8), 1), ((8, 8), 2), ((2, 3), 1)])
def test_columns_in_forward_mode_have_xlas_derivatives(shape, stride, moved):
    x, dx = images_of(2, *shape, 3), images_of(2, *shape, 3, seed=1) - 0.5
    kernel, dkernel = images_of(3, 3, 3, 4), images_of(3, 3, 3, 4, seed=1) - 0.5
    at, along = {"x": x, "kernel": kernel}, {"x": dx, "kernel": dkernel}

    @partial(jax.jit, static_argnums=0)
    def everything(implementation: Convolution):
        def conv(x, kernel):
            convolution = Conv(4, 3, stride, implementation=implementation)
            return convolution.apply({"params": {"kernel": kernel}}, x)

        def derivative(at):
            varied = {name: at[name] for name in moved}
            return jax.jvp(lambda varied: conv(**(at | varied)), (varied,), ({name: along[name] for name in moved},))

        y, dy = derivative(at)
        weights = jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        of_derivative = jax.grad(lambda at: jnp.vdot(weights, derivative(at)[1]))(at)
        return y, dy, of_derivative

    results = (jax.tree.leaves(everything(how)) for how in ("columns in forward", "xla"))
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_only_networks_by_columns_change_for_forward_mode(resnet, batch, initialised):
    assert resnet.in_forward_mode() is resnet
    network = models.build(RESNET, 3, Execution("columns", compiled_loops=False))
    params, statistics = initialised
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda p: network.logits(p, statistics, batch), (params,), (params,))
    both = [net.in_forward_mode() for net in (network, resnet)]
    found, expected = (jax.jvp(lambda p: net.logits(p, statistics, batch), (params,), (params,)) for net in both)  # noqa: B023
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert models.build(FULLY_CONNECTED | {"widths": [6]}, 3, EXECUTION).in_forward_mode().classes == 3


@pytest.mark.parametrize("spec", [RESNET, PREACT_RESNET, VGG, CNN, FULLY_CONNECTED | {"widths": [6]}])
def test_networks_by_columns_have_the_gradients_of_those_by_xla(spec, batch):
    network, reverse = (models.build(spec, 3, Execution(how, compiled_loops=False)) for how in ("xla", "columns"))
    params, statistics = network.init(jax.random.key(0), batch)

    @partial(jax.jit, static_argnums=0)
    def gradient(network):
        return jax.grad(lambda p: jax.nn.log_softmax(network.train(p, statistics, batch)[0])[:, 0].mean())(params)

    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), gradient(reverse), gradient(network))


@pytest.mark.parametrize("implementation", ["xla", "rows"])
def test_stride_2_pads_only_below_and_to_the_right(implementation):
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    conv = Conv(1, 3, 2, implementation=implementation)
    y = apply(conv, {"params": {"kernel": jnp.ones((3, 3, 1, 1))}}, x)
    image = np.arange(16.0).reshape(4, 4)
    expected = [[image[:3, :3].sum(), image[:3, 2:].sum()], [image[2:, :3].sum(), image[2:, 2:].sum()]]
    np.testing.assert_allclose(y[0, ..., 0], expected)


def test_both_convolutions_give_the_same_resnet(resnet, batch, initialised):
    by_rows = models.build(RESNET, 3, Execution("rows", compiled_loops=True))
    params, batch_stats = initialised
    features, same = (net.features(params, batch_stats, batch)["penultimate"] for net in (resnet, by_rows))
    np.testing.assert_allclose(features, same, rtol=1e-4, atol=1e-5)


def test_execution_convolves_and_loops_as_suits_image_and_device():
    compiled, stepped = Execution("rows", compiled_loops=True), Execution("columns", compiled_loops=False)
    assert choose((8, 8, 1), RESNET, "cpu") == compiled
    assert choose((8, 8, 1), RESNET18, "cpu") == stepped
    assert choose((28, 28, 1), {"architecture": "cnn", "widths": [1]}, "cpu") == stepped
    assert choose((32, 32, 3), RESNET, "cpu") == stepped
    for shape in ((8, 8, 1), (32, 32, 3)):
        assert choose(shape, RESNET, "gpu") == Execution("xla", compiled_loops=True, on_cpu=False)


@pytest.mark.parametrize(("threads", "options"), [(1, 0), (2, 1)])
def test_whole_batches_on_several_threads_leave_convolutions_to_xla(threads, options, monkeypatch):
    monkeypatch.setenv("NPROC", str(threads))
    for execution in (Execution("xla", compiled_loops=True), Execution("rows", compiled_loops=True)):
        assert execution.compiler_options is None
    found = Execution("columns", compiled_loops=False).compiler_options
    assert len(found or {}) == options
    assert jax.jit(jnp.sin, compiler_options=found)(0.0) == 0


@pytest.mark.parametrize(
    ("size", "threads", "count", "parts"),
    [
        *((32, 2, *case) for case in ((128, 4), (100, 4), (250, 8), (40, 2), (32, 1), (97, 4), (1, 1), (0, 1))),
        *((8, 2, *case) for case in ((128, 2), (97, 2), (32, 1), (40, 2), (2000, 4))),
        *((8, 1, *case) for case in ((128, 1), (600, 2))),
    ],
)
def test_images_are_taken_in_equal_parts_and_in_order(size, threads, count, parts, monkeypatch):
    monkeypatch.setenv("NPROC", str(threads))
    images = jnp.broadcast_to(jnp.arange(count)[:, None, None, None], (count, size, size, 1))
    seen = []

    def doubled(x):
        seen.append(len(x))
        return 2 * x

    found = Execution("xla", compiled_loops=False).by_parts(doubled, images)
    np.testing.assert_array_equal(found, 2 * images)
    assert seen == [-(-count // parts)] * parts
    seen.clear()
    Execution("xla", compiled_loops=True).by_parts(doubled, images)
    assert seen == [count]


# Initialisation


def test_resnet_starts_with_zero_logits(resnet, batch, initialised):
    params, batch_stats = initialised
    assert not np.any(resnet.logits(params, batch_stats, batch))
    assert not np.any(resnet.train(params, batch_stats, batch)[0])
    assert resnet.features(params, batch_stats, batch)["penultimate"].max() > 0.1  # zero for no other reason


def test_resnet_convolutions_start_from_a_cut_normal_that_is_not_rescaled(initialised):
    kernels = [leaf for leaf in jax.tree.leaves(initialised[0]) if leaf.ndim == 4]
    assert len(kernels) == 1 + 2 + 3
    # In units of 1/sqrt(fan_in), each layer by its own fan-in.
    scaled = [np.ravel(kernel) * np.sqrt(np.prod(kernel.shape[:3])) for kernel in kernels]
    for values in scaled:
        assert np.abs(values).max() <= 2 + 1e-6
        if values.size > 100:
            assert np.abs(values).max() > 1.75
            assert abs(values.mean()) < 4 * 0.88 / np.sqrt(values.size)
    assert np.std(np.concatenate(scaled)) == pytest.approx(0.8796, rel=0.05)


def test_plain_networks_start_from_lecun_normal_with_zero_bias():
    for spec in (CNN_MEGA | {"widths": [16]}, FULLY_CONNECTED | {"widths": [60, 40]}):
        params, batch_stats = models.build(spec, 10, EXECUTION).init(jax.random.key(1), images_of(1, 6, 6, 2))
        assert batch_stats == {}
        for layer in params.values():
            assert not np.any(layer["bias"])
        scaled = [np.ravel(p["kernel"]) * np.sqrt(np.prod(p["kernel"].shape[:-1])) for p in params.values()]
        assert np.std(np.concatenate(scaled)) == pytest.approx(1, rel=0.05)


def test_initialisation_depends_on_the_key_alone_but_for_the_statistics(resnet, batch, initialised):
    params, batch_stats = resnet.init(jax.random.key(0), images_of(10, 5, 5, 2, seed=5))
    jax.tree.map(np.testing.assert_array_equal, params, initialised[0])
    assert np.abs(batch_stats["stem_norm"]["mean"] - initialised[1]["stem_norm"]["mean"]).max() > 1e-3
    linear = models.build(FULLY_CONNECTED | {"widths": []}, 3, EXECUTION)
    first, same, second = (linear.init(jax.random.key(key), batch)[0]["logits"]["kernel"] for key in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - second).max() > 0.1


def test_initial_statistics_of_a_resnet_are_those_of_the_given_batch(resnet, batch, initialised):
    params, batch_stats = initialised
    variables = {"params": params, "batch_stats": batch_stats}
    _, seen = resnet.module.apply(variables, batch, train=True, mutable=["features", "batch_stats"])
    evaluated_stages = resnet.features(params, batch_stats, batch)
    del evaluated_stages["input"], evaluated_stages["logits"]
    for name, evaluated in evaluated_stages.items():
        np.testing.assert_allclose(evaluated, seen["features"][name][0], rtol=1e-4, atol=1e-5)
    other = images_of(10, 5, 5, 2, seed=5) ** 3
    _, seen = resnet.module.apply(variables, other, train=True, mutable=["features", "batch_stats"])
    evaluated = resnet.features(params, batch_stats, other)["stem"]
    assert np.abs(evaluated - seen["features"]["stem"][0]).max() > 0.1


# Batch norm


def normalised(x, mean, variance, scale=1.0, offset=0.0):
    return (np.asarray(x, np.float64) - mean) / np.sqrt(variance + 1e-5) * scale + offset


def moments(x):
    """Mean and biased variance of every channel."""
    x = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    return x.mean(axis=0), ((x - x.mean(axis=0)) ** 2).sum(axis=0) / len(x)


def test_batch_norm_after_one_pass_evaluates_with_exactly_that_batch():
    x, other = images_of(3, 2, 2, 4) * 3 + 1, images_of(5, 2, 2, 4, seed=1)
    y, variables = BatchNorm().init_with_output(jax.random.key(0), x, train=True)
    np.testing.assert_allclose(y, normalised(x, *moments(x)), rtol=1e-4, atol=1e-4)
    evaluated = apply(BatchNorm(), variables, other, train=False)
    np.testing.assert_allclose(evaluated, normalised(other, *moments(x)), rtol=1e-4, atol=1e-4)
    assert not np.any(variables["params"]["offset"])
    assert np.all(variables["params"]["scale"] == 1)


def test_running_statistics_are_a_debiased_exponential_average():
    batches = [images_of(4, 3, seed=seed) * (seed + 1) - seed for seed in range(4)]
    params = {"scale": jnp.array([1.0, 2.0, -0.5]), "offset": jnp.array([0.0, 1.0, 3.0])}
    variables = {**BatchNorm().init(jax.random.key(0), batches[0], train=True), "params": params}
    mean, variance = (0.1 * moment for moment in moments(batches[0]))
    for batch in batches[1:]:
        y, updated = apply(BatchNorm(), variables, batch, train=True, mutable=["batch_stats"])
        variables = {"params": params, **updated}
        np.testing.assert_allclose(y, normalised(batch, *moments(batch), **params), rtol=1e-4, atol=1e-4)
        mean, variance = (0.9 * old + 0.1 * new for old, new in zip((mean, variance), moments(batch), strict=True))
    correction = 1 - 0.9**4
    assert int(variables["batch_stats"]["count"]) == 4
    x = images_of(2, 3, seed=9)
    expected = normalised(x, mean / correction, variance / correction, **params)
    np.testing.assert_allclose(apply(BatchNorm(), variables, x, train=False), expected, rtol=1e-4, atol=1e-4)


def test_batch_norm_couples_the_images_of_a_batch_in_training_mode_only(resnet, batch, initialised):
    params, batch_stats = initialised
    params = {**params, "logits": jax.tree.map(lambda p: p + 1, params["logits"])}
    changed = batch.at[0].set(1 - batch[0])
    evaluated = [resnet.logits(params, batch_stats, x) for x in (batch, changed)]
    np.testing.assert_array_equal(evaluated[0][1:], evaluated[1][1:])
    assert np.abs(evaluated[0][0] - evaluated[1][0]).max() > 1e-3
    trained = [resnet.train(params, batch_stats, x)[0] for x in (batch, changed)]
    assert np.abs(trained[0][1:] - trained[1][1:]).max() > 1e-3


def test_only_training_mode_returns_new_statistics(resnet, batch, initialised, plain):
    params, batch_stats = initialised
    before = jax.tree.map(np.array, batch_stats)
    _, updated = resnet.train(params, batch_stats, batch * 2)
    jax.tree.map(np.testing.assert_array_equal, batch_stats, before)
    jax.tree.map(lambda new, old: np.testing.assert_equal(new.shape, old.shape), updated, batch_stats)
    assert updated["stem_norm"]["count"] == before["stem_norm"]["count"] + 1
    network, params, none = plain
    assert none == network.train(params, none, batch)[1] == {}


# Features


def check_features(network, state, images, shapes, raw=()):
    """Shapes by stage; stages lie behind a ReLU, but for the ``raw`` ones."""
    params, batch_stats = state
    head = {"kernel": images_of(*params["logits"]["kernel"].shape), "bias": jnp.array([0.0, 1.0, 2.0])}
    params = {**params, "logits": head}
    features = network.features(params, batch_stats, images)
    assert list(features) == ["input", *shapes, "logits"] == network.stages(params, batch_stats, images)
    np.testing.assert_array_equal(features.pop("input"), images)
    np.testing.assert_array_equal(features.pop("logits"), network.logits(params, batch_stats, images))
    assert {name: value.shape for name, value in features.items()} == shapes
    assert [np.all(np.asarray(value) >= 0) for value in features.values()] == [name not in raw for name in shapes]
    logits = network.logits(params, batch_stats, images)
    variables = {"params": params, "batch_stats": batch_stats}
    np.testing.assert_array_equal(network.module.apply(variables, images, train=False, mutable=["features"])[0], logits)
    last = list(features.values())[-1]
    np.testing.assert_allclose(last @ head["kernel"] + head["bias"], logits, rtol=1e-4, atol=1e-5)


def test_features_of_a_resnet_are_its_stages_and_leave_the_logits_alone(resnet, batch, initialised):
    shapes = {"stem": (2, 5, 5, 4), "group1": (2, 5, 5, 4), "group2": (2, 3, 3, 8), "penultimate": (2, 8)}
    check_features(resnet, initialised, batch[:2], shapes)


def test_features_of_a_preactivation_resnet_are_its_stages_and_leave_the_logits_alone(batch):
    network = models.build(PREACT_RESNET, 3, EXECUTION)
    shapes = {"stem": (2, 5, 5, 4), "group1": (2, 5, 5, 4), "group2": (2, 3, 3, 8), "norm": (2, 3, 3, 8)}
    state = network.init(jax.random.key(2), batch)
    check_features(network, state, batch[:2], {**shapes, "penultimate": (2, 8)}, raw=shapes)


def test_features_of_a_vgg_are_what_its_layers_see_and_leave_the_logits_alone(batch):
    network = models.build(VGG, 3, EXECUTION)
    shapes = {"layer1": (2, 2, 2, 4), "layer2": (2, 2, 2, 5), "layer3": (2, 1, 1, 6), "layer4": (2, 1, 1, 3)}
    check_features(network, network.init(jax.random.key(2), batch), batch[:2], {**shapes, "penultimate": (2, 3)})


def test_an_empty_last_group_of_a_vgg_pools_once_more(batch):
    network = models.build({"architecture": "vgg", "widths": [[4], []]}, 3, EXECUTION)
    features = network.features(*network.init(jax.random.key(2), batch), batch)
    assert features["layer1"].shape == (10, 2, 2, 4)


def test_statistics_of_the_identity_leave_batch_norm_its_scale_and_offset():
    x = images_of(4, 3, 3, 2) * 5
    variables = BatchNorm().init(jax.random.key(0), x, train=True)
    statistics = identity_statistics(variables["batch_stats"])
    params = {"scale": jnp.array([2.0, -1.0]), "offset": jnp.array([0.5, 0.0])}
    y = apply(BatchNorm(), {"params": params, "batch_stats": statistics}, x, train=False)
    np.testing.assert_allclose(y, x * params["scale"] + params["offset"], rtol=1e-4, atol=1e-4)


def test_features_of_a_cnn_are_its_stages_and_leave_the_logits_alone(plain, batch):
    network, *state = plain
    check_features(network, state, batch[:2], {"stage1": (2, 5, 5, 2), "stage2": (2, 2, 2, 3), "penultimate": (2, 3)})


def test_features_of_a_fully_connected_network_are_its_layers_and_leave_the_logits_alone(batch):
    network = models.build(FULLY_CONNECTED | {"widths": [7, 4]}, 3, EXECUTION)
    state = network.init(jax.random.key(2), batch)
    check_features(network, state, batch[:2], {"hidden1": (2, 7), "penultimate": (2, 4)})


def test_the_cnn_pools_the_maximum_of_its_first_stage_and_the_mean_of_its_last(plain, batch):
    network, params, none = plain
    features = network.features(params, none, batch)

    def windows(name: str, size: int) -> np.ndarray:
        stage = np.asarray(features[name])[:, : 2 * size, : 2 * size]
        return stage.reshape(len(batch), size, 2, size, 2, -1)

    x = jnp.asarray(windows("stage1", 2).max(axis=(2, 4)))
    for layer in ("stage2_conv1", "stage2_conv2"):
        x = jax.nn.relu(apply(Conv(3, use_bias=True), {"params": params[layer]}, x))
    np.testing.assert_allclose(features["stage2"], x, rtol=1e-5, atol=1e-6)
    mean = windows("stage2", 1).mean(axis=(2, 4)).reshape(len(batch), -1)
    np.testing.assert_allclose(features["penultimate"], mean, rtol=1e-5, atol=1e-6)


# Large images


@pytest.mark.parametrize(
    ("spec", "sides"),
    [
        (VGG11_POOL, [80, 40, 40, 20, 20, 10, 10, 5]),
        (PREACT_RESNET18_STEM, [40, 40, 20, 10, 5, 5]),
    ],
)
def test_networks_for_imagenette_end_with_5_x_5_positions_of_512_features(spec, sides):
    network = models.build(spec, 10, EXECUTION)
    images = jax.ShapeDtypeStruct((1, 160, 160, 3), jnp.float32)
    variables = jax.eval_shape(partial(network.module.init, train=True), jax.random.key(0), images)
    shapes = jax.eval_shape(network.features, variables["params"], variables["batch_stats"], images)
    names = [name for name, feature in shapes.items() if len(feature.shape) == 4 and name != "input"]
    by_name = {name: shapes[name].shape for name in names}
    assert sorted((shape[1] for shape in by_name.values()), reverse=True) == sides
    assert shapes["penultimate"].shape == (1, 512)
    assert {shape[3] for shape in by_name.values() if shape[1] == 5} == {512}


@pytest.mark.parametrize("spec", [VGG | {"large_images": True}, PREACT_RESNET | {"width": 32, "large_images": True}])
def test_convolutions_for_imagenette_start_with_the_deviation_of_what_they_write(spec):
    network = models.build(spec, 3, EXECUTION)
    params, _ = network.init(jax.random.key(0), images_of(2, 40, 40, 3))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if leaf.ndim == 4:
            expected = np.sqrt(2 / (leaf.shape[0] * leaf.shape[1] * leaf.shape[3]))
            assert np.std(leaf) == pytest.approx(expected, rel=4 / np.sqrt(2 * leaf.size)), path


# Mixed precision


@pytest.mark.parametrize(
    ("spec", "convolution"),
    [
        *product([RESNET, CNN], ["xla", "rows"]),
        *product([PREACT_RESNET, VGG, {"architecture": "fully_connected", "widths": [6]}], ["xla"]),
    ],
)
def test_mixed_precision_rounds_what_layers_pass_on_and_nothing_that_is_kept(spec, convolution):
    network = models.build(spec, 3, Execution(convolution, compiled_loops=True))
    images = images_of(12, 8, 8, 3)
    params, statistics = network.init(jax.random.key(0), images)
    # The ResNet begins with zero logits.
    params = jax.tree.map(lambda p: p + 0.1 * images_of(*p.shape, seed=p.size), params)

    @partial(jax.jit, static_argnums=0)
    def results(network, params, images):
        def loss(params):
            logits, updated = network.train(params, statistics, images)
            return -jax.nn.log_softmax(logits)[:, 0].mean(), (logits, updated)

        gradient, (logits, updated) = jax.grad(loss, has_aux=True)(params)
        return logits, network.logits(params, statistics, images), gradient, updated

    mixed = replace(network, mixed_precision=True)
    *rounded, gradient, updated = results(mixed, params, images)
    *exact, expected_gradient, expected_updated = results(network, params, images)
    for found, wanted in zip(rounded, exact, strict=True):
        assert 0 < np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    for found, wanted in ((gradient, expected_gradient), (updated, expected_updated)):
        assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: x.dtype, wanted)
        difference = jax.tree.map(jnp.subtract, found, wanted)
        assert optax.tree.norm(difference) <= 0.1 * optax.tree.norm(wanted)

    program = jax.jit(lambda x: mixed.train(params, statistics, x)[0]).lower(images).as_text()
    *layers, last = re.findall(r"stablehlo\.(?:dot_general|convolution).*-> tensor<\S*x(\w+)>", program)
    assert set(layers) == {"bf16"}
    assert last == "f32"


@pytest.mark.skipif(not jax.__version__.startswith("0.10."), reason="jobs give this flag to the locked JAX alone")
@pytest.mark.parametrize(("size", "quick"), [(8, True), (32, False)])
def test_jobs_compile_very_small_networks_without_fusion_emitters(size, quick):
    model = {"architecture": "resnet", "blocks": [1, 1, 1, 1], "width": 8}
    code = f"import os, _network; _network.build({model}, 10, ({size}, {size}, 1)); print(os.environ['XLA_FLAGS'])"
    flags = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT / "scripts", text=True)
    assert ("--xla_cpu_use_fusion_emitters=false" in flags) == quick
