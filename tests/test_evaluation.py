"""Robust accuracy is the worst of all attacks on every image, whatever the order, batches, and other images."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from robust_tangents import evaluation, models
from robust_tangents.attack_checks import CHECKS
from robust_tangents.attacks.apgd import APGD, Items, apgd
from robust_tangents.attacks.ball import Ball
from robust_tangents.attacks.fab import FAB, fab
from robust_tangents.attacks.losses import LOSSES
from robust_tangents.attacks.pgd import Attack, pgd
from robust_tangents.attacks.square import Square, square
from robust_tangents.errors import InputError
from robust_tangents.evaluation import (
    Robustness,
    Stage,
    Strength,
    accuracy,
    attacked,
    evaluate,
    robustness,
    spread,
    transfer_matrix,
)
from robust_tangents.execution import Execution
from robust_tangents.linearization import Expansion

STEPPED, COMPILED = Execution("xla", compiled_loops=False), Execution("xla", compiled_loops=True)
KEY = jax.random.key(0)
COUNT = 32


def layers(weights, images):
    """Logits of a network with one hidden layer."""
    first, second = weights
    return jnp.tanh(images.reshape(len(images), -1) @ first - first.sum(axis=0) / 2) @ second


def network_of(classes: int) -> Partial:
    rng = np.random.default_rng(4)
    first, second = 2 * rng.normal(size=(4, 8)), rng.normal(size=(8, classes))
    return Partial(layers, (jnp.asarray(first, jnp.float32), jnp.asarray(second, jnp.float32)))


def scaled(predict: Partial, factor: float) -> Partial:
    [(first, second)] = predict.args
    return Partial(layers, (first, factor * second))


@pytest.fixture(scope="module")
def predict():
    return network_of(4)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(5).uniform(size=(COUNT, 2, 2, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def labels(predict, images):
    """Those predicted, but for every seventh image."""
    predicted = np.asarray(jnp.argmax(predict(images), axis=1))
    return np.where(np.arange(COUNT) % 7 == 0, (predicted + 1) % 4, predicted)


def settings_of(*stages: tuple, epsilon: float = 0.08, norm="linf", **more) -> Robustness:
    stages = stages or (("apgd", "cross_entropy", 5, 0),)
    return Robustness(Ball(epsilon, norm), Strength(tuple(Stage(*stage) for stage in stages), **more))


def outcome(predict, images, labels, settings, batch_size=32, **more):
    return evaluate(predict, images, labels, KEY, settings, COMPILED, batch_size, **more)


# Settings


def test_a_specification_names_ball_and_attacks():
    attacks = [
        {"method": "apgd", "loss": "dlr", "steps": 7, "targets": 9},
        {"method": "square", "loss": "margin", "steps": 50, "targets": 0},
    ]
    strength = {"attacks": attacks, "repeats": 3, "quiet": 2, "checked": 5}
    assert Robustness.of({"norm": "l2", "epsilon": 0.5, "strength": strength}) == Robustness(
        Ball(0.5, "l2"), Strength((Stage("apgd", "dlr", 7, 9), Stage("square", "margin", 50, 0)), 3, 2, 5)
    )


def test_targets_are_the_next_most_likely_classes_and_no_more_than_there_are():
    strength = Strength((Stage("apgd", "margin", 5, 2), Stage("apgd", "cross_entropy", 5, 0)), repeats=2)
    places = [(of.stage.loss, of.place) for of in strength.rounds(4)]
    assert places[:3] == [("margin", 0), ("margin", 1), ("cross_entropy", 0)]
    assert places[3:] == [("margin", 2), ("margin", 0), ("cross_entropy", 0)]
    strength = Strength((Stage("apgd", "margin", 5, 9),))
    assert [of.place for of in strength.rounds(3)] == [0, 1]
    assert [of.place for of in strength.rounds(2)] == [0]


def test_surrogates_are_followed_in_turn_with_the_predictor_itself():
    stages = [Stage("apgd", "margin", 5, 0), Stage("square", "margin", 5, 0), Stage("apgd", "margin", 9, 0)]
    strength = Strength(tuple(stages), repeats=3, quiet=1.0)
    sources = [of.source for of in strength.rounds(3, 2)]
    assert sources == [0, 2, 1, 0, 2, 1, 2, 2, 0]
    # Where every attack is made on every image, it is made along every gradient.
    every = replace(strength, quiet=None, repeats=1).rounds(3, 2)
    assert [of.source for of in every] == [0, 1, 2, 2, 0, 1, 2]
    assert [of.stage for of in every] == 3 * stages[:1] + stages[1:2] + 3 * stages[2:]
    assert {of.source for of in strength.rounds(3)} == {0}


@pytest.mark.parametrize(("targets", "classes"), [(0, 2), (9, 3)])
def test_the_difference_of_logits_ratio_is_refused_with_too_few_classes(targets, classes):
    few = settings_of(("apgd", "dlr", 5, targets))
    with pytest.raises(InputError, match=f"not {classes}; use the loss margin"):
        outcome(network_of(classes), np.full((3, 2, 2, 1), 0.5, np.float32), np.zeros(3, int), few)
    few.strength.rounds(classes + 1)


def test_robust_accuracy_needs_two_classes():
    with pytest.raises(InputError, match="two classes"):
        settings_of().strength.rounds(1)


# Which images count


def test_an_image_is_robust_if_no_attack_takes_it(predict, images, labels):
    stages = [
        ("apgd", "cross_entropy", 9, 0),  # in two legs, after the first of which what has fallen leaves
        ("apgd", "dlr", 3, 2),
        ("fab", "margin", 9, 1),
        ("square", "margin", 25, 0),
    ]
    settings = settings_of(*stages, checked=0)
    found = outcome(predict, images, labels, settings)
    # Every attack by itself, on all images at once, with the random numbers of image and attempt.
    correct = np.asarray(jnp.argmax(predict(images), axis=1)) == labels
    clean, taken = np.asarray(predict(images)), []
    # Other classes from the most likely on; the label's logit is the lowest here.
    order = np.argsort(-np.where(np.eye(4, dtype=bool)[labels], -np.inf, clean), axis=1)
    rounds = [(stages[0], 0), (stages[1], 0), (stages[1], 1), (stages[2], 0), (stages[3], 0)]
    for number, ((method, loss, steps, targets), place) in enumerate(rounds):
        keys = jax.vmap(lambda i, number=number: jax.random.fold_in(jax.random.fold_in(KEY, i), number))(
            jnp.arange(COUNT)
        )
        items = Items(jnp.asarray(images), jnp.asarray(labels), jnp.asarray(order[:, place]), keys)
        if method == "apgd":
            attack = APGD(settings.ball, LOSSES.index(loss), targets > 0, steps, True)
            taken.append(np.asarray(apgd(predict, items, attack, COMPILED).fallen))
        elif method == "fab":
            taken.append(np.asarray(fab(predict, items, FAB(settings.ball, steps, False), COMPILED)))
        else:
            search = square(predict, items, Square(settings.ball), steps, COMPILED)
            taken.append(np.asarray(search.fallen))
    np.testing.assert_array_equal(found.correct, correct)
    np.testing.assert_array_equal(found.first, correct & ~taken[0])
    np.testing.assert_array_equal(found.robust, correct & ~np.any(taken, axis=0))
    assert found.attacks == 5
    assert 0.2 < found.robust.mean() < found.first.mean() + 1e-9
    assert found.first.mean() < correct.mean()


def test_images_misclassified_as_they_are_are_never_attacked(predict, images, labels):
    found = outcome(predict, images, labels, settings_of(repeats=2))
    wrong = np.asarray(jnp.argmax(predict(images), axis=1)) != labels
    assert wrong.sum() == 5
    assert not np.any(found.correct[wrong] | found.robust[wrong] | found.first[wrong])
    assert np.all(np.isneginf(found.margin[wrong]))
    assert np.all(np.isfinite(found.margin[~wrong]))
    # Nor is there an attack where nothing is right.
    nothing = outcome(predict, images[wrong], labels[wrong], settings_of())
    assert nothing.attacks == 0
    assert not np.any(nothing.robust)
    record = robustness(predict, images[wrong], labels[wrong], KEY, settings_of(), COMPILED, 32)
    assert record["accuracy"] == record["robust_accuracy"] == record["checked_images"] == 0
    assert all(np.isfinite(value) for value in record.values())


def test_images_that_attacks_bring_no_closer_are_left_alone(predict, images, labels):
    settings = settings_of(("apgd", "margin", 10, 0), repeats=8, checked=0)
    everything = outcome(predict, images, labels, settings)
    assert everything.attacks == 8
    attacks = []
    for quiet in (0.01, 0.5, 2):
        found = outcome(predict, images, labels, replace(settings, strength=replace(settings.strength, quiet=quiet)))
        assert np.all(found.robust >= everything.robust)
        attacks.append(found.attacks)
    assert 1 < attacks[0] < attacks[1] <= attacks[2] <= 8


def test_more_is_tried_the_nearer_an_image_is_to_the_boundary(monkeypatch):
    # Both at their best from the first attack on: of the clean margin of 1, shares of 0.1 and 0.8 are missing.
    def slopes(images):
        x = images[:, 0, 0, 0]
        return jnp.stack([jnp.ones_like(x), x, x - 9, x - 9], axis=1)

    counts = np.zeros(2, int)
    by_apgd = evaluation._Attempts.by_apgd

    def counted(self, rows, *arguments, **named):
        counts[rows] += 1
        return by_apgd(self, rows, *arguments, **named)

    monkeypatch.setattr(evaluation._Attempts, "by_apgd", counted)
    # Whatever x is, its clean margin is x − 1 and the best one x + ε − 1.
    images = np.array([0.0, 0.5], np.float32).reshape(2, 1, 1, 1)
    settings = settings_of(("apgd", "margin", 10, 0), epsilon=0.4, repeats=50, checked=0, quiet=1)
    found = outcome(Partial(slopes), images, np.zeros(2, int), settings)
    assert found.robust.tolist() == [True, True]
    # Shares missing: 0.6 / 1 and 0.1 / 0.5, so that 2 and 5 attacks in vain are enough. The first is not in vain, and
    # a last one probes the whole box.
    assert counts.tolist() == [1 + 2 + 1, 1 + 5 + 1]


def chequered(images):
    """Class 1 only near a chequered pattern of amplitude 0.1 in which four neighbours are bright all the same.

    Gradients lead to the pattern but see no step; squares of two by two make the step but not the pattern.
    """
    offset = (images[..., 0] - 0.5) / 0.1
    pattern = jnp.mean(offset * (-1.0) ** jnp.add.outer(jnp.arange(8), jnp.arange(8)), axis=(1, 2))
    bright = offset > 0.9
    four = bright[:, 1:, 1:] & bright[:, 1:, :-1] & bright[:, :-1, 1:] & bright[:, :-1, :-1]
    value = pattern + jnp.any(four, axis=(1, 2)) - 1.9
    return jnp.stack([jnp.zeros_like(value), value, value - 50, value - 50], axis=1)


def test_polishing_begins_where_attacks_have_come_and_takes_what_gradients_cannot():
    images, labels = np.full((6, 8, 8, 1), 0.5, np.float32), np.zeros(6, int)
    gradient, polish = ("apgd", "margin", 30, 0), ("polish", "margin", 90, 0)
    for alone in (gradient, polish):
        settings = settings_of(alone, epsilon=0.1, checked=0, repeats=3)
        assert np.all(outcome(Partial(chequered), images, labels, settings).robust)
    both = outcome(Partial(chequered), images, labels, settings_of(gradient, polish, epsilon=0.1, checked=0))
    assert not np.any(both.robust)
    outside = settings_of(gradient, polish, epsilon=0.09, checked=0, repeats=3)
    assert np.all(outcome(Partial(chequered), images, labels, outside).robust)


def test_survivors_so_few_that_they_cannot_count_are_not_checked():
    images = np.linspace(0, 1, 200, dtype=np.float32).reshape(200, 1, 1, 1)

    def line(images):
        x = images[:, 0, 0, 0]
        return jnp.stack([0.15 - x, x * 0 + 0.1, x - 9, x - 9], axis=1)

    for epsilon, left in ((0.046, 0.005), (0.03, 0.02)):
        record = robustness(Partial(line), images, np.zeros(200, int), KEY, settings_of(epsilon=epsilon), COMPILED, 64)
        assert record["robust_accuracy"] == pytest.approx(left, abs=0.0051)
        assert record["checked_images"] == (0 if left < 0.01 else round(200 * record["robust_accuracy"]))


def test_logits_that_are_not_numbers_are_not_correct(images):
    def broken(threshold, images):
        first = images[:, 0, 0, 0]
        far = jnp.full_like(first, -1)
        return jnp.stack([jnp.where(first > threshold, jnp.nan, 1.0), far, far, far], axis=1)

    found = outcome(Partial(broken, jnp.float32(0.5)), images, np.zeros(COUNT, int), settings_of(checked=0))
    first = images[:, 0, 0, 0]
    np.testing.assert_array_equal(found.correct, first <= 0.5)
    assert not np.any(found.robust[first > 0.5])
    assert np.all(found.robust[first < 0.42])


# Order, batches and other images


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_outcome_for_an_image_depends_on_no_other_and_not_on_the_batches(predict, images, labels, norm):
    stages = [("apgd", "cross_entropy", 4, 0), ("square", "margin", 30, 0)][: 1 + (norm == "linf")]
    settings = settings_of(*stages, repeats=2, norm=norm, checked=0, quiet=2)
    whole = outcome(predict, images, labels, settings)
    assert 0.2 < whole.robust.mean() < 0.8
    order = np.random.default_rng(1).permutation(COUNT)
    part = order[:13]
    for rows in (order, part):
        for batch_size in (7, 32, 100) if norm == "linf" else (32,):
            other = outcome(predict, images[rows], labels[rows], settings, batch_size, indices=rows)
            for name in ("correct", "robust", "first"):
                np.testing.assert_array_equal(getattr(other, name), getattr(whole, name)[rows], err_msg=name)
            standing = whole.robust[rows]
            np.testing.assert_allclose(other.margin[standing], whole.margin[rows][standing], rtol=1e-4, atol=1e-5)


def test_attacks_of_a_few_images_at_a_time_are_those_of_all(monkeypatch, predict, images, labels):
    stages = [
        ("apgd", "margin", 4, 0),
        ("fab", "margin", 3, 1),
        ("polish", "margin", 30, 0),
        ("square", "margin", 9, 0),
    ]
    settings = settings_of(*stages, epsilon=0.1, repeats=2)
    whole = outcome(predict, images, labels, settings)
    monkeypatch.setattr(evaluation, "_AT_ONCE", 5)
    parts = outcome(predict, images, labels, settings)
    np.testing.assert_array_equal(parts.robust, whole.robust)
    np.testing.assert_allclose(parts.margin[whole.robust], whole.margin[whole.robust], rtol=1e-4, atol=1e-5)
    assert parts.check == pytest.approx(whole.check)


def test_the_check_makes_five_turns_of_five_times_the_steps_on_a_balanced_part(monkeypatch):
    """Of what begins at the best point so far, one turn; FAB has random starts, or its turns would be one."""
    made = []

    def spy(name):
        attack = getattr(evaluation._Attempts, name)

        def spied(self, rows, numbers, *arguments, **named):
            if np.min(numbers) >= evaluation._OF_CHECK and np.max(numbers) < evaluation._OF_WITNESS:
                length = next(value for value in arguments if isinstance(value, int))
                made.append((name, length, len(rows), sorted(set(rows)), named.get("start")))
            return attack(self, rows, numbers, *arguments, **named)

        monkeypatch.setattr(evaluation._Attempts, name, spied)

    for name in ("by_apgd", "by_fab", "by_square"):
        spy(name)
    images = np.zeros((35, 1, 1, 1), np.float32)
    labels = np.repeat([0, 1], [30, 5])

    def settled(labels, images):  # every image is far from any boundary
        return 100 * jax.nn.one_hot(labels[jnp.round(images[:, 0, 0, 0] * 100).astype(int) * 0], 4)

    stages = [("apgd", "margin", 2, 0), ("fab", "margin", 3, 2), ("square", "margin", 4, 0), ("polish", "margin", 6, 0)]
    settings = settings_of(*stages, epsilon=0.01, repeats=2, checked=6)
    for label in (0, 1):
        made.clear()
        outcome(Partial(settled, jnp.full(35, label)), images[labels == label], labels[labels == label], settings)
        number = min(6, np.sum(labels == label))
        expected = [("by_apgd", 10, 5), ("by_fab", 15, 10), ("by_square", 20, 5), ("by_square", 30, 1)]
        assert [(name, length, count) for name, length, count, *_ in made] == [
            (name, length, times * number) for name, length, times in expected
        ]
        assert all(len(rows) == number for *_, rows, _ in made)
        assert [start for name, *_, start in made if name == "by_fab"] == [True]
    job = evaluation._Attempts(
        Partial(settled, jnp.zeros(35, int)), images, labels, np.arange(35), KEY, settings.ball, COMPILED, 32
    )
    for number, of_classes in ((6, [3, 3]), (10, [5, 5]), (12, [7, 5])):
        chosen = evaluation._balanced(job, np.arange(35), number)
        assert np.bincount(labels[chosen]).tolist() == of_classes
    assert evaluation._balanced(job, np.arange(35), 6).tolist() != list(range(6))


def test_random_numbers_belong_to_an_images_index(predict, images, labels):
    weak = settings_of(("apgd", "margin", 0, 0), epsilon=0.2, checked=0)
    here, there = (outcome(predict, images, labels, weak, indices=np.arange(COUNT) + shift) for shift in (0, 1000))
    assert np.any(here.robust != there.robust)


def test_stepped_and_compiled_evaluations_agree(predict, images, labels):
    settings = settings_of(("apgd", "cross_entropy", 4, 0))
    found = [robustness(predict, images, labels, KEY, settings, execution, 32) for execution in (STEPPED, COMPILED)]
    assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize("count", [1, 11, 25, 60])
@pytest.mark.parametrize("batch_size", [4, 7, 100])
def test_batches_hold_every_image_once(count, batch_size):
    batches = list(spread(count, batch_size))
    assert {len(rows) for rows, _ in batches} == {min(batch_size, count)}
    assert sorted(np.concatenate([rows[:kept] for rows, kept in batches])) == list(range(count))


# Stronger attacks


def test_no_more_is_left_where_more_is_tried(predict, images, labels):
    weak = settings_of(("apgd", "margin", 1, 0), epsilon=0.15, checked=0)
    previous = outcome(predict, images, labels, weak).robust
    for repeats in (2, 6):
        strength = replace(weak.strength, repeats=repeats)
        robust = outcome(predict, images, labels, replace(weak, strength=strength)).robust
        assert np.all(robust <= previous)
        previous = robust
    values = [
        outcome(
            predict, images, labels, settings_of(("apgd", "margin", steps, 0), epsilon=0.15, checked=0)
        ).robust.mean()
        for steps in (0, 2, 20)
    ]
    assert values[0] > values[1] >= values[2]
    values = [
        outcome(predict, images, labels, settings_of(epsilon=epsilon, checked=0)).robust.mean()
        for epsilon in (1e-6, 0.03, 0.08, 0.2)
    ]
    assert values[0] == outcome(predict, images, labels, settings_of(checked=0)).correct.mean()
    assert values[0] > values[1] > values[2] > values[3]


def test_the_attacks_of_autoattack_run_and_are_believed(predict, images, labels):
    stages = [
        ("apgd", "cross_entropy", 20, 0),
        ("apgd", "dlr", 20, 9),
        ("fab", "margin", 10, 9),
        ("square", "margin", 50, 0),
    ]
    record = robustness(predict, images, labels, KEY, settings_of(*stages), COMPILED, 32)
    assert record["attacks"] == 1 + 3 + 3 + 1
    assert record["accuracy"] == pytest.approx(27 / 32)
    assert 0.2 < record["robust_accuracy"] <= record["first_accuracy"] < record["accuracy"]
    assert record["checked_images"] == 10
    assert record["more_budget_takes"] == record["gradient_free_takes"] == 0
    assert {name: record[name] for name in ("more_budget_lowers", "gradient_free_stronger")} == {
        "more_budget_lowers": 0,
        "gradient_free_stronger": 0,
    }


def test_a_masked_network_is_found_out_and_no_more_robust(predict, images, labels):
    settings = settings_of(("apgd", "cross_entropy", 20, 0), ("apgd", "margin", 20, 0))
    plain, masked = (
        robustness(scaled(predict, factor), images, labels, KEY, settings, COMPILED, 32) for factor in (1, 1e4)
    )
    assert plain["zero_gradient"] == plain["masked_gradients"] == 0
    assert masked["zero_gradient"] > 0.5
    assert masked["masked_gradients"] == 1
    assert masked["no_gradient"] == 0
    assert set(CHECKS) <= set(masked)
    for name in ("accuracy", "robust_accuracy"):
        assert masked[name] == pytest.approx(plain[name], abs=1.1 / COUNT)


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_are_enough(images, classes):
    predict = network_of(classes)
    labels = np.asarray(jnp.argmax(predict(images), axis=1))
    stages = [("apgd", "cross_entropy", 5, 0), ("apgd", "margin", 5, 9), ("apgd", "margin", 3, 2)]
    found = outcome(predict, images, labels, settings_of(*stages, checked=0))
    assert found.attacks == 1 + 2 * (classes - 1)
    assert 0.1 < found.robust.mean() < 1


# Images


def test_eight_bit_images_are_taken(predict, images, labels):
    eight_bit = np.round(images * 255).astype(np.uint8)
    settings = settings_of(("apgd", "cross_entropy", 4, 0), ("square", "margin", 20, 0), checked=3)
    as_floats = robustness(predict, eight_bit.astype(np.float32) / 255, labels, KEY, settings, COMPILED, 32)
    assert robustness(predict, eight_bit, labels, KEY, settings, COMPILED, 32) == as_floats
    attack = Attack(0.1, 0.05, 2, True)
    np.testing.assert_array_equal(
        attacked(predict, eight_bit, labels, KEY, attack, COMPILED, COUNT),
        attacked(predict, eight_bit.astype(np.float32) / 255, labels, KEY, attack, COMPILED, COUNT),
    )


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-1, 1)])
def test_eight_bit_images_are_refused_in_another_box(predict, images, labels, low, high):
    settings = replace(settings_of(), ball=Ball(0.1, low=low, high=high))
    with pytest.raises(InputError, match=r"8-bit images are divided by 255, but the box is \["):
        evaluate(predict, (255 * images).astype(np.uint8), labels, KEY, settings, COMPILED, 32)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_gradients_that_are_no_numbers_take_no_image(norm):
    """Their points would not be in the ball, and no classification of them counts."""

    def undefined(bias, images):
        zero = jnp.sqrt(0 * images[:, 0, 0, 0])  # the derivative is 0 · ∞
        return jnp.stack([zero + bias, zero, zero - 1, zero - 1], axis=1)

    images, labels = np.full((9, 2, 2, 1), 0.5, np.float32), np.zeros(9, int)
    stages = [("apgd", "cross_entropy", 5, 0), ("fab", "margin", 5, 2)]
    record = robustness(
        Partial(undefined, jnp.float32(1)), images, labels, KEY, settings_of(*stages, norm=norm), COMPILED, 32
    )
    assert record["robust_accuracy"] == record["accuracy"] == 1
    assert record["unavailable_gradients"] == record["no_gradient"] == 1
    assert record["silent_success"] == 0


def test_images_outside_of_the_box_are_refused(predict, images, labels):
    for run in (evaluate, robustness):
        with pytest.raises(InputError, match=r"from -?\d.* to .*, outside the box \[0, 1\]") as caught:
            run(predict, 255 * images, labels, KEY, settings_of(), COMPILED, 32)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"outside the box \[0, 1\]"):
        attacked(predict, 2 * images - 1, labels, KEY, Attack(0.1, 0.05, 2, True), COMPILED, COUNT)


# Transfer


def test_attacked_images_depend_on_their_own_index_alone(predict, images, labels):
    attack = Attack(0.15, 0.05, 3, True)
    whole = attacked(predict, images, labels, KEY, attack, COMPILED, COUNT)
    assert whole.dtype == np.float32
    assert np.abs(whole - images).max() <= 0.15 + 1e-6
    for batch_size in (7, 25):
        np.testing.assert_allclose(
            attacked(predict, images, labels, KEY, attack, COMPILED, batch_size), whole, atol=1e-5
        )
    np.testing.assert_allclose(
        attacked(predict, images[:25], labels[:25], KEY, attack, COMPILED, 25), whole[:25], atol=1e-5
    )
    moved = attacked(predict, images[5:30], labels[5:30], KEY, attack, COMPILED, 25)
    assert np.abs(moved - whole[5:30]).max() > 1e-3


def test_the_transfer_matrix_is_made_of_attacked_images(predict, images, labels):
    other = Partial(layers, jax.tree.map(lambda leaf: leaf[::-1], predict.args[0]))
    for attack in (Attack(0.15, 0.05, 5, False), Attack(0.15, 0.05, 5, True)):
        matrix = transfer_matrix([predict, other], images, labels, KEY, attack, COMPILED, COUNT)
        for source, one in enumerate((predict, other)):
            made = attacked(one, images, labels, KEY, attack, COMPILED, COUNT)
            if not attack.random_start:
                np.testing.assert_allclose(made, pgd(one, images, labels, KEY, attack, STEPPED), atol=1e-5)
            for target, two in enumerate((predict, other)):
                by_hand = np.mean(np.asarray(jnp.argmax(two(jnp.asarray(made)), axis=1)) == labels)
                assert matrix[source, target] == pytest.approx(by_hand)
                assert accuracy(two, made, labels, 7) == pytest.approx(by_hand)
        assert matrix[0, 0] < matrix[1, 0]


# Surrogates


@pytest.fixture(scope="module")
def expansion(images):
    model = Expansion(models.build({"architecture": "fully_connected", "widths": [12]}, 4, COMPILED))
    params, _ = model.network.init(jax.random.key(1), images[:1])
    rng = np.random.default_rng(8)
    params, displacement = (
        jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params) for _ in range(2)
    )
    return model, params, displacement


@pytest.mark.parametrize("centered", [False, True])
def test_smoothed_logits_have_the_values_of_the_expansion_and_the_slopes_of_a_difference(expansion, images, centered):
    model, params, displacement = expansion
    _, point = model.start(params, {}, centered=centered)
    few = jnp.asarray(images[:12])
    exact = model.logits(displacement, point, few)
    plain = jax.vjp(lambda x: model.logits(displacement, point, x), few)[1](jnp.cos(exact))[0]
    for h in (0.3, 0.1):

        def difference(x, h=h):
            def at(share):
                return model.network.logits(jax.tree.map(lambda p, d: p + share * d, params, displacement), {}, x)

            return (at(h) - at(-h)) / (2 * h) + (0 if centered else (at(h) + at(-h)) / 2)

        smoothed, pull = jax.vjp(lambda x, h=h: model.smoothed_logits(displacement, point, jnp.float32(h), x), few)
        np.testing.assert_allclose(smoothed, exact, atol=1e-5)
        [gradient] = pull(jnp.cos(exact))
        [expected] = jax.vjp(difference, few)[1](jnp.cos(exact))
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-3)
        assert np.abs(gradient - plain).max() > 0.1


def test_an_expansion_has_surrogates_if_it_is_linear(expansion, images):
    model, params, displacement = expansion
    _, point = model.start(params, {}, centered=True)
    surrogates = model.surrogates(displacement, point)
    assert len(surrogates) == 2
    for surrogate in surrogates:
        np.testing.assert_allclose(surrogate(images), model.logits(displacement, point, images), atol=1e-5)
    assert replace(model, linear=False).surrogates(displacement, point) == ()


def test_surrogates_take_at_least_as_much_from_an_expansion(expansion, images):
    model, params, displacement = expansion
    _, point = model.start(params, {}, centered=True)
    predict = Partial(model.logits, displacement, point)
    labels = np.asarray(jnp.argmax(predict(images), axis=1))
    settings = settings_of(("apgd", "cross_entropy", 10, 0), epsilon=0.06, repeats=3, checked=0)
    alone = outcome(predict, images, labels, settings)
    helped = outcome(predict, images, labels, settings, surrogates=model.surrogates(displacement, point))
    assert 0.1 < alone.robust.mean() < 0.95
    assert helped.robust.mean() <= alone.robust.mean()
    np.testing.assert_array_equal(helped.correct, alone.correct)
    assert helped.attacks == 3 * alone.attacks == 9
