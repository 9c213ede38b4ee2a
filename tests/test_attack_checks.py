"""Each check on a robust accuracy fires where attacks fail, stays silent where they do not, and allows for chance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from robust_tangents.attack_checks import CHECKS, failed_checks, standard_error, stronger_than_white_box
from robust_tangents.attacks.ball import Ball
from robust_tangents.evaluation import Robustness, Stage, Strength, robustness
from robust_tangents.execution import Execution

COMPILED = Execution("xla", compiled_loops=True)
KEY = jax.random.key(0)
GOOD = {
    "images": 100.0,
    "attacks": 4.0,
    "accuracy": 0.9,
    "robust_accuracy": 0.5,
    "first_accuracy": 0.55,
    "zero_gradient": 0.0,
    "no_gradient": 0.0,
    "silent_success": 0.0,
    "still_rising": 0.0,
    "checked_images": 25.0,
    "more_budget_takes": 0.0,
    "gradient_free_takes": 0.0,
    "probed_images": 10.0,
    "unbounded_accuracy": 0.0,
    "noisy_gradient": 0.0,
}
# On which side of each threshold a figure lies. Standard error of the robust accuracy: √(0.5² / 100) = 0.05. Of a fifth
# of 25 checked images: 0.08, and 0.5 · (0.2 − 0.08) = 0.06; of 0.16: 0.073, and 0.5 · (0.16 − 0.073) = 0.043.
THRESHOLDS = {
    "more_budget_lowers": ("more_budget_takes", 0.16, 0.2),
    "masked_gradients": ("zero_gradient", 0.01, 0.02),
    "unavailable_gradients": ("no_gradient", 0.01, 0.02),
    "noisy_gradients": ("noisy_gradient", 0.2, 0.3),
    "silent_successes": ("silent_success", 0.05, 0.06),
    "incomplete_ascent": ("still_rising", 0.05, 0.06),
    "gradient_free_stronger": ("gradient_free_takes", 0.16, 0.2),
    "unbounded_attack_fails": ("unbounded_accuracy", 0.0, 0.1),
}


def failing(record):
    return {name for name, value in failed_checks(record).items() if value}


# From records


def test_all_checks_have_a_threshold_here():
    assert set(THRESHOLDS) == set(CHECKS) == set(failed_checks(GOOD))
    assert failing(GOOD) == set()
    assert set(failed_checks(GOOD).values()) == {0.0}


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_fires_beyond_its_threshold_and_no_other_does(check):
    figure, most, more = THRESHOLDS[check]
    assert failing(GOOD | {figure: most}) == set()
    assert failing(GOOD | {figure: more}) == {check}
    assert failed_checks(GOOD | {figure: more})[check] == 1.0


def test_chance_is_allowed_for_by_the_numbers_of_images():
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    assert standard_error(0.2, 25) == pytest.approx(0.08)
    for check in ("more_budget_lowers", "gradient_free_stronger"):
        figure = THRESHOLDS[check][0]
        # The same share of fewer checked images is chance: 0.5 · (0.2 − 0.126) = 0.037.
        assert failing(GOOD | {figure: 0.2, "checked_images": 10.0}) == set()
        # Of more images altogether it is not, the standard error being 0.016.
        assert failing(GOOD | {figure: 0.2, "checked_images": 10.0, "images": 1000.0}) == {check}
        # One image of a single one checked is all of them.
        assert failing(GOOD | {figure: 1.0, "checked_images": 1.0}) == {check}
        # Where nothing was left to check, nothing was found.
        assert failing(GOOD | {figure: 0.0, "checked_images": 0.0, "robust_accuracy": 0.0}) == set()
    # Rising losses are counted on all images: 0.05 of 1000 is beyond 0.016, and one in a hundred never is.
    assert failing(GOOD | {"still_rising": 0.05, "images": 1000.0}) == {"incomplete_ascent"}
    assert failing(GOOD | {"still_rising": 0.01, "images": 100_000.0}) == set()


# From evaluations

NOTHING = {
    "bias": 0.0, "linear": 0.0, "bend": 0.0, "dead": 0.0, "stairs": 0.0, "wave": 0.0,
    "scale": 1.0, "rival": 0.0, "rival_bias": -50.0,
}  # fmt: skip


def landscape(terms, images):
    """Logits of four classes by an image's mean: 0, a sum of terms that deceive attacks, and twice a rival."""
    mean = images.mean(axis=(1, 2, 3))
    value = terms["bias"] + terms["linear"] * mean + terms["bend"] * jnp.abs(mean - 0.5)
    value += terms["dead"] * jnp.maximum(mean - 0.5, 0) + terms["stairs"] * jnp.floor(20 * mean)
    value += terms["wave"] * jnp.sin(2e4 * mean)
    rival = terms["rival"] * mean + terms["rival_bias"]
    return terms["scale"] * jnp.stack([jnp.zeros_like(mean), value, rival, rival], axis=1)


def record_of(means, *, epsilon=0.1, steps=10, loss="cross_entropy", **terms):
    """Of 40 images with such means that are all of class 0, or of the class predicted."""
    predict = Partial(landscape, {name: jnp.float32(value) for name, value in (NOTHING | terms).items()})
    images = jnp.broadcast_to(jnp.resize(jnp.asarray(means, jnp.float32), (40, 1, 1, 1)), (40, 2, 2, 1))
    labels = np.asarray(jnp.argmax(predict(images), axis=1))
    settings = Robustness(Ball(epsilon), Strength((Stage("apgd", loss, steps, 0),)))
    return robustness(predict, images, labels, KEY, settings, COMPILED, 40)


SPREAD = np.linspace(0.301, 0.899, 40)
LINE = {"bias": -0.6, "linear": 1.0}


def test_nothing_is_said_of_an_attack_that_succeeds():
    record = record_of(SPREAD, **LINE)
    assert record["robust_accuracy"] == pytest.approx(np.mean(np.abs(SPREAD - 0.6) > 0.1))
    assert record["first_accuracy"] == record["robust_accuracy"]
    assert record["accuracy"] == 1
    assert record["images"] == 40
    assert record["checked_images"] == 10
    assert failing(record) == set()
    assert {name: record[name] for name in CHECKS} == dict.fromkeys(CHECKS, 0.0)


def test_confidence_masks_gradients_and_changes_nothing_else():
    plain, masked = record_of(SPREAD, **LINE), record_of(SPREAD, **LINE, scale=1e5)
    assert failing(masked) == {"masked_gradients"}
    assert masked["zero_gradient"] > 0.9
    assert masked["no_gradient"] == 0
    assert masked["robust_accuracy"] == plain["robust_accuracy"]


def test_gradients_that_vanish_in_a_region_are_found_out():
    # Flat up to 0.5: no start of the ball around 0.3 leaves it, but the slope behind it is within the box.
    record = record_of([0.3, 0.55], dead=1.0, bias=-0.2)
    assert record["no_gradient"] == 0.5
    assert record["unbounded_accuracy"] == pytest.approx(0.5, abs=0.3)
    expected = {"unavailable_gradients", "masked_gradients", "noisy_gradients", "unbounded_attack_fails"}
    assert failing(record) == expected


def test_gradients_that_tell_nothing_of_their_surroundings_are_found_out():
    record = record_of(SPREAD, bias=-0.3, linear=0.01, wave=0.01)
    assert record["noisy_gradient"] > 0.2
    assert "noisy_gradients" in failing(record)
    assert record["no_gradient"] == 0


def test_an_attack_that_fails_in_the_whole_box_is_found_out():
    record = record_of(SPREAD, bias=-5.0, linear=1.0)
    assert record["unbounded_accuracy"] == 1
    assert failing(record) == {"unbounded_attack_fails"}


def test_an_attack_without_gradients_is_the_witness_where_there_are_none():
    # A step up at 0.6, within reach of 0.5.
    record = record_of([0.51], epsilon=0.12, stairs=1.0, bias=-11.5)
    assert record["gradient_free_takes"] == 1
    assert record["robust_accuracy"] > 0.9
    assert {"gradient_free_stronger", "unavailable_gradients"} <= failing(record)


def test_more_steps_and_restarts_show_where_an_attack_was_too_weak():
    # A valley, of which only the right-hand side is high enough; one start is in it on either side by chance.
    record = record_of([0.49, 0.495, 0.505, 0.51], steps=1, bias=-0.2, linear=0.2, bend=1.0)
    assert 0.2 < record["robust_accuracy"] < 0.9
    assert record["more_budget_takes"] > 0.5
    assert failing(record) == {"more_budget_lowers", "gradient_free_stronger"}


def test_points_that_an_attack_passed_without_ending_there_are_counted():
    # Class 1 is the largest only around 0.5, where some random starts lie; the loss is larger at the end of the ball,
    # where two rivals together outweigh the label, but neither by itself.
    record = record_of([0.45], bias=0.08, bend=-4.0, rival=8.0, rival_bias=-4.45)
    assert record["silent_success"] > 0.05
    assert record["robust_accuracy"] <= 1 - record["silent_success"] + 1e-6
    assert "silent_successes" in failing(record)


def chain(height, images):
    """Class 1 is higher by every value of the image, each of which shows once the one before is large."""
    values = 10 * (images.reshape(len(images), -1) - 0.5)
    shows = jnp.concatenate([jnp.ones((len(images), 1)), values[:, :-1] > 0.5], axis=1)
    value = jnp.sum(shows * (values + 1), axis=1) - height
    low = jnp.full_like(value, -50)
    return jnp.stack([jnp.zeros_like(value), value, low, low], axis=1)


def test_a_loss_that_still_rises_at_the_end_is_found_out():
    images, labels = jnp.full((40, 2, 2, 1), 0.5), np.zeros(40, int)
    # The margin is −0.05 at best, and rises by more than that in each of the first steps.
    for steps, expected in ((4, {"incomplete_ascent"}), (40, set())):
        settings = Robustness(Ball(0.1), Strength((Stage("apgd", "cross_entropy", steps, 0),)))
        record = robustness(Partial(chain, jnp.float32(8.05)), images, labels, KEY, settings, COMPILED, 40)
        assert record["robust_accuracy"] == 1
        assert failing(record) == expected


# Transferred attacks


def test_a_transferred_attack_that_beats_all_attacks_on_the_target_itself_is_flagged():
    matrix = np.array([[0.5, 0.3], [0.9, 0.35]])
    # 0.35 − 2 · 0.048 − 0.01 = 0.245 of 100 images; 0.35 − 2 · 0.0048 − 0.0001 = 0.340 of 10 000.
    assert stronger_than_white_box(matrix, np.array([0.5, 0.35]), 100).tolist() == [False, False]
    assert stronger_than_white_box(matrix, np.array([0.5, 0.35]), 10_000).tolist() == [False, True]
    # The diagonal plays no part, robust accuracy does.
    assert stronger_than_white_box(matrix, np.array([0.5, 0.30]), 10_000).tolist() == [False, False]
    # A source that could not be attacked, and a target of which nothing is known, are no evidence.
    unknown = np.array([[np.nan, np.nan], [0.1, np.nan]])
    assert stronger_than_white_box(unknown, np.array([0.5, 0.5]), 100).tolist() == [True, False]
    assert stronger_than_white_box(unknown, np.array([np.nan, 0.5]), 100).tolist() == [False, False]
    # One image is always allowed: no standard error at 1.
    assert stronger_than_white_box(np.array([[1, 0.99], [1, 1]]), np.ones(2), 50).tolist() == [False, False]
    assert stronger_than_white_box(np.array([[1, 0.97], [1, 1]]), np.ones(2), 50).tolist() == [False, True]
