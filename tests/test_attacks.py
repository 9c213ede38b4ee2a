"""The attack is the papers' PGD, finds what can be found, stays where it may be, and is not fooled by confidence."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from robust_tangents import models
from robust_tangents.attacks.pgd import Attack, divergence_attack, kl_divergence, pgd
from robust_tangents.execution import Execution

STEPPED, COMPILED = Execution("xla", compiled_loops=False), Execution("xla", compiled_loops=True)
KEY = jax.random.key(0)


def affine(weights, bias, images):
    return images.reshape(len(images), -1) @ weights + bias


def constant(logits, images):
    return jnp.broadcast_to(logits, (len(images), *logits.shape)) + 0 * images.sum()


def images_of(rng: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(rng.uniform(size=shape), jnp.float32)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def network():
    spec = {"architecture": "fully_connected", "widths": [6]}
    return models.build(spec, 3, COMPILED)


@pytest.fixture(scope="module")
def parameters(network):
    return network.init(jax.random.key(1), jnp.zeros((1, 2, 2, 1)))[0]


@pytest.fixture(scope="module")
def predict(network, parameters):
    return Partial(network.logits, parameters, {})


# What a specification means


def test_a_missing_step_size_stands_for_two_radii_over_the_steps():
    spec = {"epsilon": 0.1, "steps": 20, "step_size": None, "random_start": True, "norm": "linf"}
    assert Attack.of(spec) == Attack(0.1, 0.01, 20, True)
    assert Attack.of(spec | {"step_size": 0.3, "random_start": False}) == Attack(0.1, 0.3, 20, False)
    assert Attack.of(spec | {"norm": "l2"}) == Attack(0.1, 0.01, 20, True, norm="l2")


# Against what is known


@pytest.mark.parametrize("random_start", [True, False])
def test_the_optimum_against_a_linear_predictor_is_reached(rng, random_start):
    w = jnp.asarray(rng.choice([-1, 1], size=12) * rng.uniform(0.1, 2, size=12), jnp.float32)
    predict = Partial(affine, jnp.stack([jnp.zeros(12), w], axis=1), jnp.array([0.0, -0.3]))
    images = images_of(rng, 6, 2, 3, 2).at[0].set(0).at[1].set(1)
    labels = jnp.array([0, 1, 0, 1, 0, 1])
    attack = Attack(0.2, 0.04, 10, random_start)
    attacked = pgd(predict, images, labels, KEY, attack, STEPPED)
    towards = jnp.where(labels == 0, 1, -1)[:, None, None, None] * jnp.sign(w).reshape(2, 3, 2)
    corner = jnp.clip(images + attack.epsilon * towards, 0, 1)
    np.testing.assert_allclose(attacked, corner, atol=1e-6)


def start_of(predict, images, labels, attack):
    return pgd(predict, images, labels, KEY, Attack(attack.epsilon, attack.step_size, 0, attack.random_start), STEPPED)


@pytest.mark.parametrize("random_start", [True, False])
def test_iterates_are_those_of_a_plain_reimplementation(rng, predict, parameters, random_start):
    images, labels = images_of(rng, 5, 2, 2, 1).at[0].set(0), np.array([0, 1, 2, 1, 0])
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), parameters)

    def loss_gradient(x):
        """Of the mean cross-entropy at the images, in float64."""
        before = x.reshape(len(x), -1) @ p["dense1"]["kernel"] + p["dense1"]["bias"]
        logits = np.maximum(before, 0) @ p["logits"]["kernel"] + p["logits"]["bias"]
        softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        back = (softmax - np.eye(3)[labels]) / len(x) @ p["logits"]["kernel"].T * (before > 0)
        return (back @ p["dense1"]["kernel"].T).reshape(x.shape)

    # Steps larger than half the ball, so that ball and box both cut.
    epsilon, alpha = 0.3, 0.17
    x0 = np.asarray(images, np.float64)
    x = np.asarray(start_of(predict, images, labels, Attack(epsilon, alpha, 1, random_start)), np.float64)
    assert (np.abs(x - x0).max() > 0.1) == random_start
    for steps in range(1, 6):
        x = np.clip(x + alpha * np.sign(loss_gradient(x)), 0, 1)
        x = x0 + np.clip(x - x0, -epsilon, epsilon)
        attacked = pgd(predict, images, jnp.asarray(labels), KEY, Attack(epsilon, alpha, steps, random_start), STEPPED)
        np.testing.assert_allclose(attacked, x, atol=1e-5)
    assert np.abs(x - x0).max() == pytest.approx(epsilon, abs=1e-6)


# Ball and box


def test_every_result_is_in_the_ball_and_in_the_box(rng):
    for epsilon, steps, random_start in [(0.05, 3, True), (0.05, 3, False), (0.5, 2, True), (1.0, 1, True)]:
        for step_size in (2 * epsilon / steps, 3.0):
            attack = Attack(epsilon, step_size, steps, random_start)
            for _ in range(5):
                predict = Partial(affine, jnp.asarray(rng.normal(size=(8, 4)), jnp.float32), jnp.zeros(4))
                # Rounded, so that many pixels lie on the border of the box.
                images = jnp.round(images_of(rng, 7, 2, 4, 1) * 3) / 3
                labels = jnp.asarray(rng.integers(4, size=7))
                key = jax.random.key(int(rng.integers(1000)))
                attacked = pgd(predict, images, labels, key, attack, STEPPED)
                assert attacked.shape == images.shape
                assert attacked.min() >= 0
                assert attacked.max() <= 1
                assert jnp.abs(attacked - images).max() <= epsilon + 1e-6


def test_the_random_start_fills_the_ball_and_stays_inside(rng):
    predict = Partial(constant, jnp.zeros(3))
    images = jnp.full((50, 4, 4, 1), 0.5).at[25:].set(0.02)
    labels = jnp.zeros(50, int)
    attack = Attack(0.1, 0.0, 0, True)
    noise = np.asarray(pgd(predict, images, labels, KEY, attack, STEPPED) - images)
    inner, outer = noise[:25].ravel(), noise[25:].ravel()
    assert np.abs(inner).max() <= 0.1 + 1e-6
    assert inner.min() < -0.095
    assert inner.max() > 0.095
    assert inner.mean() == pytest.approx(0, abs=0.012)
    assert inner.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.1)
    assert outer.min() == pytest.approx(-0.02, abs=1e-6)
    assert np.mean(outer <= -0.02 + 1e-6) == pytest.approx(0.4, abs=0.1)


def test_the_random_start_depends_on_the_key_and_is_left_out_where_not_wanted(rng, predict):
    images, labels = images_of(rng, 4, 2, 2, 1), jnp.array([0, 1, 2, 0])
    for random_start in (True, False):
        attack = Attack(0.1, 0.0, 1, random_start)
        first, same, second = (pgd(predict, images, labels, jax.random.key(key), attack, STEPPED) for key in (0, 0, 1))
        np.testing.assert_array_equal(first, same)
        assert bool(jnp.all(first == second)) is not random_start
    np.testing.assert_array_equal(first, images)


# Gradients of confident predictors


def direction(predict, images, labels):
    """Sign of the gradient that the attack follows, from one small step inside ball and box."""
    return jnp.sign(pgd(predict, images, labels, KEY, Attack(0.1, 1e-3, 1, False), STEPPED) - images)


def cross_entropy_gradient(predict, images, labels):
    def loss(x):
        return optax.softmax_cross_entropy_with_integer_labels(predict(x), labels).mean()

    return jax.grad(loss)(images)


def test_the_attack_follows_the_sign_of_the_cross_entropy_gradient(rng, predict):
    images, labels = images_of(rng, 30, 2, 2, 1) * 0.8 + 0.1, jnp.asarray(rng.integers(3, size=30))
    gradient = cross_entropy_gradient(predict, images, labels)
    assert np.mean(np.asarray(gradient) != 0) > 0.8
    np.testing.assert_array_equal(direction(predict, images, labels), jnp.sign(gradient))


def test_confident_predictors_are_attacked_where_cross_entropy_gradients_underflow(rng, parameters, network):
    head = jax.tree.map(lambda p: 1e3 * p, parameters["logits"])
    confident = Partial(network.logits, {**parameters, "logits": head}, {})
    images = images_of(rng, 30, 2, 2, 1) * 0.8 + 0.1
    labels = jnp.argmax(confident(images), axis=-1)
    sure = jnp.sort(confident(images), axis=-1)
    images, labels = (x[sure[:, -1] - sure[:, -2] > 120] for x in (images, labels))
    assert len(images) > 5
    assert not np.any(cross_entropy_gradient(confident, images, labels))
    alive = np.asarray(direction(confident, images, labels)).reshape(len(images), -1)
    assert np.all(np.any(alive, axis=1))

    def margin(x):
        logits = confident(x)
        true = jax.nn.one_hot(labels, 3, dtype=bool)
        return jnp.where(true, -jnp.inf, logits).max(axis=-1) - logits[true]

    attacked = pgd(confident, images, labels, KEY, Attack(0.1, 0.02, 10, True), STEPPED)
    assert np.all(margin(attacked) > margin(images))


# How the work is laid out


@pytest.mark.parametrize("random_start", [True, False])
def test_stepped_and_compiled_attacks_agree(rng, predict, random_start):
    images, labels = images_of(rng, 8, 2, 2, 1), jnp.asarray(rng.integers(3, size=8))
    attack = Attack(0.2, 0.05, 7, random_start)
    stepped = pgd(predict, images, labels, KEY, attack, STEPPED)
    compiled = pgd(predict, images, labels, KEY, attack, COMPILED)
    np.testing.assert_allclose(stepped, compiled, atol=1e-6)


def test_attacks_on_predictors_of_one_kind_share_a_program(rng, predict, caplog):
    images, labels = images_of(rng, 8, 2, 2, 1), jnp.asarray(rng.integers(3, size=8))
    other = jax.tree.map(lambda leaf: leaf + 1, predict)
    pgd(predict, images, labels, KEY, Attack(0.2, 0.05, 2, True), COMPILED)
    with jax.log_compiles():
        pgd(other, images, labels, KEY, Attack(0.1, 0.02, 3, True), COMPILED)
    assert not [line for line in caplog.messages if "ompil" in line]


def test_the_other_images_of_a_batch_do_not_matter(rng, predict):
    images, labels = images_of(rng, 6, 2, 2, 1), jnp.asarray(rng.integers(3, size=6))
    attack = Attack(0.2, 0.05, 5, False)
    together = pgd(predict, images, labels, KEY, attack, STEPPED)
    for i in range(len(images)):
        alone = pgd(predict, images[i : i + 1], labels[i : i + 1], KEY, attack, STEPPED)
        np.testing.assert_allclose(together[i : i + 1], alone, atol=1e-6)


def of_a_batch(weights, images):
    """Logits that depend on the whole batch, as with batch norm in training mode."""
    return affine(weights, 0, jnp.tanh(9 * (images - images.mean(axis=0))))


@pytest.mark.parametrize("count", [64, 67, 100])
def test_many_images_are_attacked_as_they_would_be_at_once(rng, count, predict):
    images, labels = images_of(rng, count, 2, 2, 1), jnp.arange(count) % 3
    attack = Attack(0.3, 0.1, 5, True)
    at_once = pgd(predict, images, labels, KEY, attack, COMPILED)
    np.testing.assert_allclose(pgd(predict, images, labels, KEY, attack, STEPPED), at_once, atol=1e-6)
    at_once = divergence_attack(predict, images, KEY, attack, COMPILED)
    np.testing.assert_allclose(divergence_attack(predict, images, KEY, attack, STEPPED), at_once, atol=1e-6)


def test_images_that_depend_on_each_other_stay_together(rng):
    predict = Partial(of_a_batch, images_of(rng, 4, 3))
    images, labels = images_of(rng, 64, 2, 2, 1), jnp.arange(64) % 3
    attack = Attack(0.3, 0.1, 5, False)
    at_once = pgd(predict, images, labels, KEY, attack, COMPILED, coupled=True)
    stepped = pgd(predict, images, labels, KEY, attack, STEPPED, coupled=True)
    np.testing.assert_allclose(stepped, at_once, atol=1e-6)
    assert not np.allclose(pgd(predict, images, labels, KEY, attack, STEPPED), at_once, atol=0.01)


# Evaluation


def test_the_margin_attack_follows_the_strongest_other_class(rng):
    # Three classes, of which the true one is 0: the attack heads for class 2, which is ahead, not for class 1.
    weights = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    predict = Partial(affine, weights, jnp.array([0.0, 0.0, 5.0]))
    images = jnp.full((1, 2, 2, 1), 0.5)
    attack = Attack(0.1, 0.1, 1, False, on_margin=True)
    attacked = pgd(predict, images, jnp.array([0]), KEY, attack, STEPPED)
    expected = images + 0.1 * jnp.sign(weights[:, 2] - weights[:, 0]).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(attacked, expected, atol=1e-6)


# In ℓ2


def lengths(x):
    return np.linalg.norm(np.asarray(x, np.float64).reshape(len(x), -1), axis=1)


def test_the_l2_optimum_against_a_linear_predictor_is_reached(rng):
    w = jnp.asarray(rng.normal(size=12), jnp.float32)
    predict = Partial(affine, jnp.stack([jnp.zeros(12), w], axis=1), jnp.array([0.0, -0.3]))
    images = 0.4 + 0.2 * images_of(rng, 4, 2, 3, 2)
    labels = jnp.array([0, 1, 0, 1])
    attacked = pgd(predict, images, labels, KEY, Attack(0.3, 0.1, 40, True, norm="l2"), STEPPED)
    towards = jnp.where(labels == 0, 1, -1)[:, None, None, None] * (w / jnp.linalg.norm(w)).reshape(2, 3, 2)
    np.testing.assert_allclose(attacked, images + 0.3 * towards, atol=1e-4)


def test_l2_results_are_in_the_ball_and_in_the_box(rng):
    for epsilon, step_size, random_start in [(0.3, 0.1, True), (0.3, 5.0, False), (1.7, 0.5, True)]:
        predict = Partial(affine, jnp.asarray(rng.normal(size=(8, 4)), jnp.float32), jnp.zeros(4))
        images = jnp.round(images_of(rng, 9, 2, 4, 1) * 3) / 3
        labels = jnp.asarray(rng.integers(4, size=9))
        attack = Attack(epsilon, step_size, 5, random_start, norm="l2")
        attacked = pgd(predict, images, labels, KEY, attack, STEPPED)
        assert attacked.min() >= 0
        assert attacked.max() <= 1
        assert lengths(attacked - images).max() <= epsilon * (1 + 1e-5)


def test_the_l2_start_is_a_random_direction_by_a_uniform_share_of_the_radius():
    images = jnp.full((2000, 2, 2, 1), 0.5)
    attack = Attack(0.2, 0.0, 0, True, norm="l2")
    noise = pgd(Partial(constant, jnp.zeros(3)), images, jnp.zeros(2000, int), KEY, attack, STEPPED) - images
    length = lengths(noise) / 0.2
    assert length.max() <= 1 + 1e-5
    np.testing.assert_allclose(np.quantile(length, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.05)
    unit = np.asarray(noise).reshape(2000, 4) / lengths(noise)[:, None]
    np.testing.assert_allclose(unit.T @ unit / 2000, np.eye(4) / 4, atol=0.02)


def test_l2_steps_do_not_depend_on_the_scale_of_the_logits(rng, predict, parameters, network):
    images, labels = 0.3 + 0.4 * images_of(rng, 6, 2, 2, 1), jnp.asarray(rng.integers(3, size=6))
    attack = Attack(0.2, 0.05, 1, False, on_margin=True, norm="l2")
    for scale in (1e-30, 1e30):
        head = jax.tree.map(lambda p, scale=scale: scale * p, parameters["logits"])
        scaled = Partial(network.logits, {**parameters, "logits": head}, {})
        expected = pgd(predict, images, labels, KEY, attack, STEPPED)
        np.testing.assert_allclose(pgd(scaled, images, labels, KEY, attack, STEPPED), expected, atol=1e-6)


# Towards targets


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_targeted_step_descends_the_cross_entropy_of_the_target(rng, predict, norm):
    images, targets = images_of(rng, 30, 2, 2, 1) * 0.8 + 0.1, jnp.asarray(rng.integers(3, size=30))
    attack = Attack(0.1, 1e-3, 1, False, targeted=True, norm=norm)
    step = (pgd(predict, images, targets, KEY, attack, STEPPED) - images) / 1e-3
    gradient = np.asarray(cross_entropy_gradient(predict, images, targets))
    size = lengths(gradient)[:, None, None, None] if norm == "l2" else 1
    expected = -gradient / np.maximum(size, 1e-30) if norm == "l2" else -np.sign(gradient)
    np.testing.assert_allclose(step, expected, atol=2e-3)


def test_a_targeted_attack_reaches_its_target(rng, predict):
    images = images_of(rng, 20, 2, 2, 1)
    targets = (jnp.argmax(predict(images), axis=1) + 1) % 3
    attacked = pgd(predict, images, targets, KEY, Attack(1.0, 0.1, 40, True, targeted=True), STEPPED)
    before, after = (np.mean(np.asarray(jnp.argmax(predict(x), axis=1) == targets)) for x in (images, attacked))
    assert before == 0
    assert after > 0.5


# Without labels


def test_divergence_is_that_of_the_probabilities(rng):
    first, second = rng.normal(size=(2, 7, 4))
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (first, second))
    expected = (p * np.log(p / q)).sum(axis=1)
    np.testing.assert_allclose(kl_divergence(jnp.asarray(first), jnp.asarray(second)), expected, rtol=1e-4)
    np.testing.assert_allclose(kl_divergence(jnp.asarray(first), jnp.asarray(first)), 0, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("execution", [STEPPED, COMPILED])
def test_the_attack_inside_trades_moves_predictions_away_within_the_ball(rng, predict, norm, execution):
    images = images_of(rng, 20, 2, 2, 1)
    clean = predict(images)
    attack = Attack(0.2, 0.05, 10, False, norm=norm)
    attacked = divergence_attack(predict, images, KEY, attack, execution)
    start = divergence_attack(predict, images, KEY, Attack(0.2, 0.05, 0, False, norm=norm), execution)
    noise = np.asarray(start - images) / 0.001
    assert noise.std() == pytest.approx(1, rel=0.2)
    size = lengths(attacked - images) if norm == "l2" else np.abs(attacked - images).max(axis=(1, 2, 3))
    assert size.max() <= 0.2 + 1e-5
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert np.all(kl_divergence(clean, predict(attacked)) > kl_divergence(clean, predict(start)))


def test_the_first_step_inside_trades_follows_the_divergence(rng, predict):
    images = images_of(rng, 5, 2, 2, 1) * 0.8 + 0.1
    start = divergence_attack(predict, images, KEY, Attack(0.2, 1e-3, 0, False), STEPPED)
    step = divergence_attack(predict, images, KEY, Attack(0.2, 1e-3, 1, False), STEPPED) - start

    def slope(i, pixel):
        """Of the divergence along one pixel, by central differences in float64 of the probabilities."""

        def divergence(shift):
            x = start.at[i].add(shift * pixel)
            p, q = (jax.nn.softmax(predict(y)[i].astype(jnp.float32)) for y in (images, x))
            return float(jnp.sum(p * (jnp.log(p) - jnp.log(q))))

        return divergence(1e-2) - divergence(-1e-2)

    for i in range(5):
        slopes = [slope(i, pixel.reshape(2, 2, 1)) for pixel in np.eye(4, dtype=np.float32)]
        steep = np.abs(slopes) > 1e-5
        np.testing.assert_array_equal(np.sign(np.asarray(step[i]).ravel()[steep]), np.sign(slopes)[steep])
