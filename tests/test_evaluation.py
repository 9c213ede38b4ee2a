"""Robust accuracy is the worst of the attacks on every image once, and says when it cannot be believed."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from robust_tangents import models
from robust_tangents.attack_checks import CHECKS, failed_checks, stronger_than_white_box
from robust_tangents.attacks.pgd import Attack, pgd
from robust_tangents.evaluation import (
    Robustness,
    robustness,
    transfer_matrix,
)
from robust_tangents.execution import Execution
from robust_tangents.training import State, Trainer

STEPPED, COMPILED = Execution("xla", compiled_loops=False), Execution("xla", compiled_loops=True)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def network():
    return models.build({"architecture": "fully_connected", "widths": [6]}, 3, COMPILED)


@pytest.fixture(scope="module")
def trained(network):
    """A predictor of noisy two-by-two patterns, and its training images."""
    rng = np.random.default_rng(4)
    labels = rng.integers(3, size=60)
    patterns = np.array([[0.7, 0.3, 0.3, 0.7], [0.3, 0.7, 0.3, 0.3], [0.3, 0.3, 0.7, 0.7]])
    pixels = np.clip(patterns[labels] + rng.normal(0, 0.1, size=(60, 4)), 0, 1)
    images = jnp.asarray(pixels.reshape(60, 2, 2, 1), jnp.float32)
    spec = {"objective": "standard", "batch_size": 20, "learning_rate": [[0, 0.3]], "momentum": 0.9, "weight_decay": 0}
    state = State.start(*network.init(jax.random.key(1), images))
    trainer = Trainer(network, images, jnp.asarray(labels), spec, (0, 0))
    for epoch in range(30):
        [(_, state, _)] = trainer.epoch(state, epoch)
    return Partial(network.logits, state.params, {}), images, jnp.asarray(labels)


@pytest.mark.parametrize("execution", [STEPPED, COMPILED])
def test_robust_accuracy_falls_from_clean_accuracy_as_the_ball_grows(trained, execution):
    predict, images, labels = trained
    values = []
    for epsilon in (1e-6, 0.1, 0.5):
        found = robustness(
            predict, images, labels, KEY, Robustness(Attack(epsilon, epsilon / 5, 10, True), 1), execution, 20
        )
        assert found["accuracy"] == pytest.approx(float((jnp.argmax(predict(images), axis=-1) == labels).mean()))
        assert not any(found[check] for check in CHECKS)
        values.append(found["robust_accuracy"])
    assert found["accuracy"] > 0.9
    assert values[0] == found["accuracy"]
    assert found["accuracy"] > values[1] > values[2]


@pytest.mark.parametrize("batch_size", [4, 7, 11, 25])
def test_every_image_counts_once_whatever_the_batches(trained, batch_size):
    predict, images, labels = trained
    images = images[:11]
    # Right at first and wrong later, so that images counted twice would show.
    predicted = jnp.argmax(predict(images), axis=-1)
    labels = jnp.where(jnp.arange(11) < 3, predicted, (predicted + 1) % 3)
    attack = Attack(0.15, 0.03, 10, False)

    def survivors(attack: Attack) -> jax.Array:
        return jnp.argmax(predict(pgd(predict, images, labels, KEY, attack, STEPPED)), axis=-1) == labels

    first, second = survivors(attack), survivors(replace(attack, on_margin=True))
    found = robustness(predict, images, labels, KEY, Robustness(attack, 1), COMPILED, batch_size)
    assert 0 < float(first.mean()) < 1
    assert found["accuracy"] == pytest.approx(3 / 11)
    assert found["pgd_accuracy"] == pytest.approx(float(first.mean()))
    assert found["margin_accuracy"] == pytest.approx(float(second.mean()))
    assert found["robust_accuracy"] == pytest.approx(float((first & second).mean()))
    assert found["checked_images"] == -(-11 // -(-11 // batch_size))


def test_eight_bit_images_are_taken(trained):
    predict, images, labels = trained
    eight_bit = jnp.round(images * 255).astype(jnp.uint8)
    settings = Robustness(Attack(0.1, 0.02, 5, False), 2)
    expected = robustness(predict, eight_bit / 255, labels, KEY, settings, STEPPED, 60)
    assert robustness(predict, eight_bit, labels, KEY, settings, STEPPED, 60) == pytest.approx(expected)


def test_more_restarts_never_help_the_defender(trained):
    predict, images, labels = trained
    # Half a step: where an image ends depends on where it starts.
    attack = Attack(0.2, 0.01, 3, True)
    accuracies = [
        robustness(predict, images, labels, KEY, Robustness(attack, restarts), COMPILED, 60)["margin_accuracy"]
        for restarts in (1, 20)
    ]
    assert accuracies[1] <= accuracies[0]


def test_the_worst_attack_on_each_image_counts():
    # Right only at the left: PGD on the cross-entropy and on the margin each break another image.
    def predict(images):
        x = images[:, 0, 0, 0]
        return jnp.stack([jnp.zeros_like(x), x - 0.55, x - 0.55 + 0 * x], axis=1)

    images = jnp.array([0.5, 0.2]).reshape(2, 1, 1, 1)
    settings = Robustness(Attack(0.1, 0.05, 5, False), 1)
    found = robustness(Partial(predict), images, jnp.zeros(2, int), KEY, settings, STEPPED, 2)
    assert found["accuracy"] == 1
    assert found["robust_accuracy"] == min(found["pgd_accuracy"], found["margin_accuracy"]) == 0.5


def test_a_masked_model_is_found_out(trained):
    predict, images, labels = trained

    def scaled(params, images):
        return 1e4 * predict(images)

    settings = Robustness(Attack(0.1, 0.02, 10, True), 1)
    plain = robustness(predict, images, labels, KEY, settings, COMPILED, 60)
    masked = robustness(Partial(scaled, 0), images, labels, KEY, settings, COMPILED, 60)
    assert plain["zero_gradient"] == 0
    assert plain["masked_gradients"] == 0
    assert masked["zero_gradient"] > 0.5
    assert masked["masked_gradients"] == 1
    # And does not deceive the attack: confidence alone changes no accuracy.
    assert masked["robust_accuracy"] == pytest.approx(plain["robust_accuracy"], abs=0.04)


def test_each_check_can_fail_and_chance_is_allowed_for():
    good = {
        "accuracy": 0.9,
        "robust_accuracy": 0.5,
        "checked_accuracy": 0.5,
        "half_steps_accuracy": 0.55,
        "half_epsilon_accuracy": 0.7,
        "zero_gradient": 0.0,
        "checked_images": 100,
    }
    assert not any(failed_checks(good).values())
    assert not any(failed_checks({**good, "half_steps_accuracy": 0.42}).values())
    bad = {
        "robust_above_clean": {"robust_accuracy": 0.91},
        "fewer_steps_stronger": {"half_steps_accuracy": 0.38},
        "smaller_ball_stronger": {"half_epsilon_accuracy": 0.38},
        "masked_gradients": {"zero_gradient": 0.02},
    }
    assert set(bad) == set(CHECKS)
    for check, change in bad.items():
        assert failed_checks({**good, **change}) == {name: float(name == check) for name in CHECKS}


@pytest.mark.parametrize("execution", [STEPPED, COMPILED])
def test_the_diagonal_of_the_transfer_matrix_is_white_box_accuracy(trained, network, execution):
    predict, images, labels = trained
    untrained = Partial(network.logits, network.init(jax.random.key(7), images)[0], {})
    attack = Attack(0.15, 0.05, 5, True)
    matrix = transfer_matrix([predict, untrained], images, labels, KEY, attack, execution, 25)
    for index, one in enumerate((predict, untrained)):
        alone = robustness(one, images, labels, KEY, Robustness(attack, 1), execution, 25)
        assert matrix[index, index] == pytest.approx(alone["pgd_accuracy"])
    # By hand, off the diagonal: made on the untrained network, tried on the trained one, without batches.
    fixed = replace(attack, random_start=False)
    attacked = pgd(untrained, images, labels, KEY, fixed, execution)
    expected = float((jnp.argmax(predict(attacked), axis=-1) == labels).mean())
    matrix = transfer_matrix([untrained, predict], images, labels, KEY, fixed, execution, 25)
    assert matrix[0, 1] == pytest.approx(expected)
    assert matrix[1, 1] < matrix[0, 1]


def test_a_transferred_attack_that_beats_the_white_box_is_flagged():
    matrix = np.array([[0.5, 0.3], [0.9, 0.35]])
    assert stronger_than_white_box(matrix, 100).tolist() == [False, False]
    assert stronger_than_white_box(matrix, 10_000).tolist() == [False, True]
