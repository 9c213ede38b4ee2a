"""The first-order model is the Taylor expansion, and training it is regression with the parent's kernel."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from robust_tangents import models
from robust_tangents.execution import Execution
from robust_tangents.kernels import empirical_kernels
from robust_tangents.linearization import Expansion
from robust_tangents.models.layers import BatchNorm
from robust_tangents.training import State, Trainer

EXECUTION = Execution("rows", compiled_loops=True)
CLASSES = 3
STEPS = {"batch_size": 4, "learning_rate": [[0, 0.1]], "momentum": 0.9, "weight_decay": 0}
STANDARD = STEPS | {"objective": "standard"}
ATTACK = {"epsilon": 0.1, "step_size": None, "steps": 3, "random_start": True, "norm": "linf"}


class Normalised(nn.Module):
    """A smooth network with batch norm."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dense(5, name="hidden")(x.reshape(len(x), -1))
        return nn.Dense(CLASSES, name="logits")(jnp.tanh(BatchNorm(name="norm")(x, train)))


def random_like(tree, seed: int):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), tree)


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).uniform(size=(7, 2, 2, 1)), jnp.float32)


@pytest.fixture(scope="module")
def labels() -> jax.Array:
    return jnp.array([0, 1, 2, 1, 0, 2, 2])


@pytest.fixture(scope="module")
def model() -> Expansion:
    return Expansion(models.Network(Normalised(), CLASSES, EXECUTION))


@pytest.fixture(scope="module")
def parent(model, images):
    return model.network.init(jax.random.key(1), images)


@pytest.fixture(scope="module")
def displacement(parent):
    return random_like(parent[0], 2)


@pytest.fixture(scope="module")
def jacobian(model, parent, images) -> np.ndarray:
    """Of all logits with respect to all parameters, (B, classes, P)."""
    flat, unravel = ravel_pytree(parent[0])
    return jax.jacrev(lambda flat: model.network.logits(unravel(flat), parent[1], images))(flat)


def test_the_start_is_the_parent_or_zero(model, parent, images):
    displacement, point = model.start(*parent, centered=False)
    jax.tree.map(lambda zero, leaf: np.testing.assert_array_equal(zero, np.zeros(leaf.shape)), displacement, parent[0])
    np.testing.assert_array_equal(model.logits(displacement, point, images), model.network.logits(*parent, images))
    centered = model.logits(*model.start(*parent, centered=True), images)
    np.testing.assert_array_equal(centered, np.zeros((7, CLASSES)))


def test_linearized_is_the_taylor_expansion_and_centered_its_first_order(model, parent, images, displacement, jacobian):
    zeroth = model.network.logits(*parent, images)
    first = jacobian @ ravel_pytree(displacement)[0]
    assert np.abs(first).max() > 1
    _, point = model.start(*parent, centered=False)
    for part, expected in zip(model.terms(displacement, point, images), (zeroth, first), strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.logits(displacement, point, images), zeroth + first, rtol=1e-4, atol=1e-5)
    _, point = model.start(*parent, centered=True)
    np.testing.assert_allclose(model.logits(displacement, point, images), first, rtol=1e-4, atol=1e-5)


def test_the_error_of_the_expansion_shrinks_quadratically(model, parent, images, displacement):
    _, point = model.start(*parent, centered=False)

    @jax.jit
    def error(size):
        step = jax.tree.map(lambda leaf: size * leaf, displacement)
        moved = jax.tree.map(jnp.add, parent[0], step)
        return jnp.linalg.norm(model.network.logits(moved, parent[1], images) - model.logits(step, point, images))

    large, middle, small = (float(error(size)) for size in (0.08, 0.04, 0.02))
    assert small > 1e-4  # well above rounding
    assert large / middle == pytest.approx(4, rel=0.25)
    assert middle / small == pytest.approx(4, rel=0.25)


def test_batch_norm_is_frozen_in_evaluation_mode(model, parent, images, displacement):
    _, point = model.start(*parent, centered=False)
    # Other images than those of the statistics: here the modes differ.
    logits, after = model.train(displacement, point, images**3)
    assert after is point
    np.testing.assert_array_equal(logits, model.logits(displacement, point, images**3))
    alone = jnp.concatenate([model.train(displacement, point, image[None] ** 3)[0] for image in images])
    np.testing.assert_allclose(logits, alone, rtol=1e-4, atol=1e-5)


def test_what_attacks_are_made_on_makes_a_difference(model, parent, images, labels):
    spec = STEPS | {"objective": "adversarial", "attack": ATTACK, "adversarial_steps": "pure"}
    reached = []
    for mode in ("evaluation", "network"):
        state = State.start(*model.start(*parent, centered=True))
        trainer = Trainer(model, images, labels, spec | {"attack_mode": mode}, (0, 0))
        for epoch in range(3):
            [(_, state, _)] = trainer.epoch(state, epoch)
        reached.append(ravel_pytree(state.params)[0])
    assert np.abs(reached[0] - reached[1]).max() > 1e-4


@pytest.mark.parametrize("objective", ["standard", "adversarial"])
def test_training_moves_the_displacement_and_nothing_else(model, parent, images, labels, objective):
    spec = STEPS | {
        "objective": objective,
        "attack": ATTACK,
        "adversarial_steps": "alternate",
        "attack_mode": "evaluation",
    }
    state = State.start(*model.start(*parent, centered=True))
    before = jax.tree.map(np.array, state.batch_stats)
    trainer = Trainer(model, images, labels, spec, (0, 0), ("stage2 order", "stage2 attack"))
    losses = []
    for epoch in range(5):
        [(_, state, loss)] = trainer.epoch(state, epoch)
        losses.append(loss)
    jax.tree.map(np.testing.assert_array_equal, state.batch_stats, before)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(state.params["logits"]))
    assert losses[-1] < losses[0]


def test_the_first_loss_of_a_centered_model_is_that_of_guessing(model, parent, images, labels):
    trainer = Trainer(model, images, labels, STANDARD | {"batch_size": 7}, (0, 0))
    for centered in (True, False):
        [(_, _, loss)] = trainer.epoch(State.start(*model.start(*parent, centered=centered)), 0)
        assert (abs(loss - np.log(CLASSES)) < 1e-6) == centered


def test_training_attacks_may_be_made_on_the_network_at_the_weights_reached(model, parent, images, displacement):
    moved = jax.tree.map(jnp.add, parent[0], displacement)
    _, point = model.start(*parent, centered=True)
    expected = model.network.logits(moved, parent[1], images)
    np.testing.assert_allclose(model.network_logits(displacement, point, images), expected, rtol=1e-6)
    assert np.abs(expected - model.logits(displacement, point, images)).max() > 0.1
    np.testing.assert_array_equal(model.network.network_logits(moved, parent[1], images), expected)


@pytest.mark.parametrize("batch_norm", ["frozen", "free"])
@pytest.mark.parametrize(
    ("variant", "linear", "centered"),
    [
        ("linearized", True, False),
        ("centered", True, True),
        ("nonlinear", False, False),
        ("nonlinear_centered", False, True),
    ],
)
def test_every_variant_in_both_modes(parent, images, displacement, variant, linear, centered, batch_norm):
    network = models.Network(Normalised(), CLASSES, EXECUTION)
    model = Expansion.of(network, variant, batch_norm)
    assert model == Expansion(network, linear, batch_norm == "free")
    moved = jax.tree.map(jnp.add, parent[0], displacement)
    seen = images**3  # other images than those of the statistics, so that the modes of batch norm differ

    def expected(evaluate):
        first = evaluate(moved) - evaluate(parent[0])
        if linear:
            small = 1e-3
            ahead, behind = (
                evaluate(jax.tree.map(lambda p, d, sign=sign: p + sign * small * d, parent[0], displacement))
                for sign in (1, -1)
            )
            first = (ahead - behind) / (2 * small)
        return first + (0 if centered else evaluate(parent[0]))

    _, point = model.start(*parent, centered=centered)
    frozen = expected(lambda params: network.logits(params, parent[1], seen))
    np.testing.assert_allclose(model.logits(displacement, point, seen), frozen, rtol=1e-2, atol=2e-3)
    logits, after = model.train(displacement, point, seen)
    if batch_norm == "frozen":
        np.testing.assert_array_equal(logits, model.logits(displacement, point, seen))
        assert after is point
        return
    by_batch = expected(lambda params: network.train(params, parent[1], seen)[0])
    assert np.abs(by_batch - frozen).max() > 0.05
    np.testing.assert_allclose(logits, by_batch, rtol=1e-2, atol=2e-3)
    # A first-order model passes the checkpoint's activations, a nonlinear one those of the moved network.
    _, batch_stats = network.train(parent[0] if linear else moved, parent[1], seen)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), after["batch_stats"], batch_stats)


def test_nonlinear_training_is_further_training_of_the_network(parent, images, labels):
    network = models.Network(Normalised(), CLASSES, EXECUTION)
    model = Expansion.of(network, "nonlinear", "free")
    displaced = State.start(*model.start(*parent, centered=False))
    plain = State.start(*parent)
    for epoch in range(3):
        [(_, displaced, loss)] = Trainer(model, images, labels, STANDARD, (0, 0)).epoch(displaced, epoch)
        [(_, plain, same)] = Trainer(network, images, labels, STANDARD, (0, 0)).epoch(plain, epoch)
        assert loss == pytest.approx(same, rel=1e-4)
    reached = jax.tree.map(jnp.add, parent[0], displaced.params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), reached, plain.params)
    statistics = (displaced.batch_stats["batch_stats"], plain.batch_stats)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), *statistics)


def test_relative_magnitude_compares_squared_norms_image_by_image(model, parent, images, displacement, jacobian):
    zeroth = np.asarray(model.network.logits(*parent, images), np.float64)
    first = np.asarray(jacobian, np.float64) @ np.asarray(ravel_pytree(displacement)[0])
    expected = [sum(first[i] ** 2) / sum(zeroth[i] ** 2) for i in range(len(images))]
    for centered in (True, False):
        _, point = model.start(*parent, centered=centered)
        np.testing.assert_allclose(model.relative_magnitude(displacement, point, images), expected, rtol=1e-4)
        double = jax.tree.map(lambda leaf: 2 * leaf, displacement)
        ratio = model.relative_magnitude(double, point, images)
        np.testing.assert_allclose(ratio, 4 * np.array(expected), rtol=1e-4)


def test_training_with_squared_loss_ends_at_kernel_regression():
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.uniform(size=(8, 2, 3, 1)), jnp.float32)
    train, targets = x[:5], jnp.asarray(rng.normal(size=(5, 2)), jnp.float32)
    network = models.build({"architecture": "fully_connected", "widths": [40]}, 2, EXECUTION)
    parent = network.init(jax.random.key(0), x)
    model = Expansion(network)

    full = empirical_kernels(network, *parent, x, ["full"])["full"].astype(np.float64)
    largest, condition = np.linalg.norm(full[:10, :10], 2), np.linalg.cond(full[:10, :10])
    assert condition < 1e4

    @jax.jit
    def train_long(displacement, point):
        def loss(displacement):
            return jnp.sum((model.logits(displacement, point, train) - targets) ** 2) / 2

        def step(_, carry):
            displacement, memory = carry
            memory = jax.tree.map(lambda m, g: 0.99 * m + g, memory, jax.grad(loss)(displacement))
            return jax.tree.map(lambda p, m: p - 0.5 / largest * m, displacement, memory), memory

        zero = jax.tree.map(jnp.zeros_like, displacement)
        return jax.lax.fori_loop(0, 5000, step, (displacement, zero))[0]

    output = np.asarray(network.logits(*parent, x), np.float64).ravel()
    for centered in (True, False):
        start = np.zeros(16) if centered else output
        rest = np.linalg.solve(full[:10, :10], np.ravel(targets) - start[:10])
        expected = start[10:] + full[10:, :10] @ rest
        displacement, point = model.start(*parent, centered=centered)
        trained = model.logits(train_long(displacement, point), point, x)
        np.testing.assert_allclose(trained[:5], targets, atol=1e-3)
        np.testing.assert_allclose(np.ravel(trained[5:]), expected, atol=2e-3)
        assert np.abs(expected - start[10:]).max() > 0.1


def test_expansions_of_networks_by_columns_have_the_derivatives_of_those_by_xla(images, labels):
    spec = {"architecture": "resnet", "width": 4, "blocks": [1, 1]}
    at_hand = [models.build(spec, CLASSES, Execution(how, compiled_loops=False)) for how in ("columns", "xla")]
    params, batch_stats = at_hand[0].init(jax.random.key(0), images)
    displacement = random_like(params, 3)
    for free in (False, True):

        @partial(jax.jit, static_argnums=0)
        def derivatives(model: Expansion, displacement, images):
            _, point = model.start(params, batch_stats, centered=False)

            def loss(displacement, images):
                logits = model.train(displacement, point, images)[0]
                return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels].sum()

            return model.logits(displacement, point, images), jax.grad(loss, argnums=(0, 1))(displacement, images)

        found, expected = (derivatives(Expansion(net, free_batch_norm=free), displacement, images) for net in at_hand)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-4), found, expected)


def test_from_epoch_zero_of_a_resnet_it_is_logistic_regression_on_the_last_features(images, labels):
    network = models.build({"architecture": "resnet", "width": 4, "blocks": [1]}, CLASSES, EXECUTION)
    params, batch_stats = network.init(jax.random.key(0), images)
    model = Expansion(network)
    displacement, point = model.start(params, batch_stats, centered=False)
    features = np.asarray(network.features(params, batch_stats, images)["penultimate"], np.float64)

    trainer = Trainer(model, images, labels, STANDARD | {"batch_size": 7, "momentum": 0.5}, (0, 0))
    state = State.start(displacement, point)
    kernel, bias = np.zeros((4, CLASSES)), np.zeros(CLASSES)
    memory_kernel, memory_bias = np.zeros_like(kernel), np.zeros_like(bias)
    for epoch in range(3):
        [(_, state, _)] = trainer.epoch(state, epoch)
        logits = features @ kernel + bias
        error = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) - np.eye(CLASSES)[labels]
        memory_kernel = 0.5 * memory_kernel + features.T @ error / 7
        memory_bias = 0.5 * memory_bias + error.mean(axis=0)
        kernel, bias = kernel - 0.1 * memory_kernel, bias - 0.1 * memory_bias

    head = {"kernel": kernel, "bias": bias}
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), state.params["logits"], head)
    below = {name: layer for name, layer in state.params.items() if name != "logits"}
    assert len(jax.tree.leaves(below)) == 3 + 6
    for leaf in jax.tree.leaves(below):
        np.testing.assert_array_equal(leaf, 0)
