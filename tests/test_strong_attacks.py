"""Attacks of the evaluation reach closed-form optima, stay in ball and box, and follow the published algorithms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from robust_tangents.attacks import apgd as ascent
from robust_tangents.attacks.apgd import APGD, Items, apgd, periods
from robust_tangents.attacks.ball import Ball
from robust_tangents.attacks.fab import FAB, fab, to_hyperplane
from robust_tangents.attacks.losses import LOSSES, Loss, correct, losses, margins
from robust_tangents.attacks.square import Square, go_on, square
from robust_tangents.errors import InputError
from robust_tangents.execution import Execution

STEPPED, COMPILED = Execution("xla", compiled_loops=False), Execution("xla", compiled_loops=True)
NORMS = ("linf", "l2")
SHAPE, COUNT = (2, 3, 2), 24
PIXELS = int(np.prod(SHAPE))


def affine(weights, bias, images):
    return images.reshape(len(images), -1) @ weights + bias


def curved(weights, bias, images):
    """One hidden layer with fixed output weights."""
    hidden = jnp.maximum(affine(weights, bias, images), 0)
    return hidden @ jnp.cos(jnp.arange(hidden.shape[1])[:, None] * (1.7 + jnp.arange(4)))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def items_of(images, labels, targets=None) -> Items:
    images, labels = jnp.asarray(images, jnp.float32), jnp.asarray(labels)
    targets = labels if targets is None else jnp.asarray(targets)
    return Items(images, labels, targets, jax.random.split(jax.random.key(3), len(images)))


def at_borders(rng, count=COUNT):
    """Images of which a third of the values lie on the border of the box."""
    return np.clip(rng.uniform(-0.25, 1.25, size=(count, *SHAPE)), 0, 1).astype(np.float32)


def away_from_borders(rng, count=COUNT):
    return rng.uniform(0.4, 0.6, size=(count, *SHAPE)).astype(np.float32)


def numbers_of(predict):
    return (np.asarray(leaf, np.float64) for leaf in predict.args)


def best_gain(norm, epsilon, flat, direction):
    """Largest ⟨d, δ⟩ over ‖δ‖ ≤ ε with x + δ in [0, 1]: at the corner, or in ℓ2 along min(t d, room) by bisection.

    Row by row: ``epsilon`` (B,), ``flat`` and ``direction`` (B, pixels).
    """
    low, high, epsilon = -flat, 1 - flat, np.broadcast_to(epsilon, len(flat))[:, None]
    if norm == "linf":
        corner = np.where(direction > 0, np.minimum(high, epsilon), np.maximum(low, -epsilon))
        return (corner * direction).sum(axis=1)
    inside, outside = np.zeros((len(flat), 1)), np.full((len(flat), 1), 1e3)
    for _ in range(60):
        middle = (inside + outside) / 2
        delta = np.clip(middle * direction, low, high)
        fits = np.linalg.norm(delta, axis=1, keepdims=True) <= epsilon
        inside, outside = np.where(fits, middle, inside), np.where(fits, outside, middle)
    return (np.clip(inside * direction, low, high) * direction).sum(axis=1)


def worst_gaps(predict, norm, epsilon, images, labels):
    """Largest f_t − f_y in ball and box of an affine predictor, (B, classes); −∞ for the label itself."""
    weights, bias = numbers_of(predict)
    flat = np.asarray(images, np.float64).reshape(len(images), -1)
    result = np.full((len(images), len(bias)), -np.inf)
    for target in range(len(bias)):
        direction = weights[:, [target]].T - weights[:, labels].T
        gap = (flat * direction).sum(axis=1) + bias[target] - bias[labels]
        result[:, target] = gap + best_gain(norm, epsilon, flat, direction)
    result[np.arange(len(images)), labels] = -np.inf
    return result


def two_classes(rng):
    """An affine predictor of four classes, the last two of which are out of reach."""
    weights = np.zeros((PIXELS, 4), np.float32)
    weights[:, 1] = rng.choice([-1, 1], size=PIXELS) * rng.uniform(0.1, 1, size=PIXELS)
    bias = np.array([0, -weights[:, 1].sum() / 2, -40, -50], np.float32)
    return Partial(affine, jnp.asarray(weights), jnp.asarray(bias))


def four_classes(rng):
    weights = rng.normal(size=(PIXELS, 4)).astype(np.float32)
    return Partial(affine, jnp.asarray(weights), jnp.asarray(-weights.sum(axis=0) / 2))


def expect(fallen, worst, away=5e-3):
    """Fallen if and only if the worst margin is positive, but for images that are on the edge."""
    clear = np.abs(worst) > away
    assert clear.mean() > 0.8
    assert 0.15 < (worst > 0).mean() < 0.85
    np.testing.assert_array_equal(np.asarray(fallen)[clear], (worst > 0)[clear])


def case(rng, norm, make, images):
    """Predictor, images, their predicted labels, and the radius at which about half of the images can be taken."""
    predict = make(rng)
    labels = np.asarray(jnp.argmax(predict(jnp.asarray(images)), axis=1))
    radii = np.linspace(0.005, 0.38, 30)
    share = [(worst_gaps(predict, norm, r, images, labels).max(axis=1) > 0).mean() for r in radii]
    epsilon = float(radii[int(np.argmin(np.abs(np.array(share) - 0.5)))])
    return predict, labels, epsilon


# Losses


def test_losses_are_those_worked_out_by_hand():
    logits = jnp.array([[3.0, 1.0, 0.0, -2.0], [3.0, 1.0, 0.0, -2.0]])
    labels, targets = jnp.array([0, 1]), jnp.array([1, 3])
    untargeted: dict[Loss, list[float]] = {
        "cross_entropy": [np.log(np.e + 1 + np.exp(-2)) - 3, np.log(np.exp(3) + 1 + np.exp(-2)) - 1],
        "margin": [-2, 2],
        "dlr": [-2 / 3, 2 / 3],
    }
    targeted: dict[Loss, list[float]] = {"cross_entropy": [-2, -3], "margin": [-2, -3], "dlr": [-2 / 4, -3 / 4]}
    for is_targeted, values in ((False, untargeted), (True, targeted)):
        for kind, expected in values.items():
            found = losses(logits, labels, targets, LOSSES.index(kind), is_targeted)
            np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(margins(logits, labels), [-2, 2])
    assert correct(logits, labels).tolist() == [True, False]


def test_the_cross_entropy_orders_points_as_the_plain_one_does(rng):
    logits, labels = rng.normal(size=(50, 4)) * 5, rng.integers(4, size=50)
    plain = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(50), labels]
    found = losses(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(labels), LOSSES.index("cross_entropy"), False)
    np.testing.assert_allclose(np.log1p(np.exp(np.asarray(found, np.float64))), plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("targeted", [False, True])
def test_the_difference_of_logits_ratio_is_blind_to_scale_and_shift(rng, targeted):
    logits, labels = jnp.asarray(rng.normal(size=(20, 5)), jnp.float32), jnp.asarray(rng.integers(5, size=20))
    values = [
        losses(scale * logits + shift, labels, (labels + 1) % 5, LOSSES.index("dlr"), targeted)
        for scale, shift in ((1, 0), (1e4, 0), (1e-4, 0), (1, 3))
    ]
    for other in values[1:]:
        np.testing.assert_allclose(other, values[0], rtol=2e-4, atol=1e-5)


def test_logits_that_are_not_finite_are_never_correct():
    logits = jnp.array([[5.0, 0.0], [jnp.nan, 0.0], [5.0, jnp.nan], [jnp.inf, 0.0], [5.0, -jnp.inf]])
    assert correct(logits, jnp.zeros(5, int)).tolist() == [True, False, False, False, False]


# Optima


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("random_start", [False, True])
def test_auto_pgd_takes_from_a_linear_predictor_what_can_be_taken(rng, norm, loss, random_start):
    images = at_borders(rng)
    predict, labels, epsilon = case(rng, norm, two_classes, images)
    worst = worst_gaps(predict, norm, epsilon, images, labels).max(axis=1)
    attack = APGD(Ball(epsilon, norm), LOSSES.index(loss), False, 30, random_start)
    found = apgd(predict, items_of(images, labels), attack, COMPILED)
    expect(found.fallen, worst)
    np.testing.assert_array_equal(found.fallen, np.asarray(found.margin) > 0)
    standing = ~np.asarray(found.fallen)
    np.testing.assert_allclose(np.asarray(found.margin)[standing], worst[standing], atol=3e-3)
    np.testing.assert_array_equal(np.asarray(found.at_x) > 0, found.fallen)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", LOSSES)
def test_targeted_auto_pgd_reaches_every_class_of_a_linear_predictor_within_reach(rng, norm, loss):
    images = at_borders(rng)
    predict, labels, epsilon = case(rng, norm, four_classes, images)
    gaps = worst_gaps(predict, norm, epsilon, images, labels)
    any_fallen = np.zeros(COUNT, bool)
    for away in (1, 2, 3):
        targets = (labels + away) % 4
        attack = APGD(Ball(epsilon, norm), LOSSES.index(loss), True, 50, True)
        fallen = np.asarray(apgd(predict, items_of(images, labels, targets), attack, COMPILED).fallen)
        assert np.all(fallen[gaps[np.arange(COUNT), targets] > 5e-3])
        any_fallen |= fallen
    expect(any_fallen, gaps.max(axis=1))


def test_an_attack_towards_a_class_moves_to_that_class_and_no_other():
    # The label is at 0; class 1 lies to the right, class 2 to the left and nearer.
    predict = Partial(affine, jnp.array([[0.0, 1, -1, 0]]), jnp.array([0.0, -0.7, 0.4, -9]))
    image = np.full((1, 1, 1, 1), 0.5, np.float32)
    for target, expected in ((1, 0.6), (2, 0.4)):
        for loss in LOSSES:
            attack = APGD(Ball(0.1), LOSSES.index(loss), True, 10, False)
            found = apgd(predict, items_of(image, [0], [target]), attack, STEPPED)
            assert float(found.x[0, 0, 0, 0]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_confidence_does_not_deceive_auto_pgd(rng, loss):
    images = at_borders(rng)
    predict, labels, epsilon = case(rng, "linf", two_classes, images)
    worst = worst_gaps(predict, "linf", epsilon, images, labels).max(axis=1)
    confident = jax.tree.map(lambda leaf: 1e4 * leaf, predict)
    attack = APGD(Ball(epsilon), LOSSES.index(loss), False, 30, True)
    expect(apgd(confident, items_of(images, labels), attack, COMPILED).fallen, worst)


@pytest.mark.parametrize("norm", NORMS)
def test_fab_takes_from_a_linear_predictor_what_can_be_taken(rng, norm):
    images = at_borders(rng)
    predict, labels, epsilon = case(rng, norm, four_classes, images)
    gaps = worst_gaps(predict, norm, epsilon, images, labels)
    # FAB ends within a hundredth of the smallest length.
    reachable = worst_gaps(predict, norm, epsilon / 1.01, images, labels) > 0
    fallen = np.zeros(COUNT, bool)
    for away in (1, 2, 3):
        targets = (labels + away) % 4
        for random_start in (False, True):
            found = fab(
                predict, items_of(images, labels, targets), FAB(Ball(epsilon, norm), 30, random_start), COMPILED
            )
            assert np.all(np.asarray(found)[reachable[np.arange(COUNT), targets]])
            fallen |= np.asarray(found)
    assert 0.15 < fallen.mean() < 0.85
    assert not np.any(fallen & (gaps.max(axis=1) < -1e-4))


def search(predict, items, ball, queries, execution=COMPILED):
    return square(predict, items, Square(ball), queries, execution)


def test_the_square_attack_takes_from_a_linear_predictor_what_can_be_taken(rng):
    images = at_borders(rng)
    predict, labels, epsilon = case(rng, "linf", two_classes, images)
    worst = worst_gaps(predict, "linf", epsilon, images, labels).max(axis=1)
    found = search(predict, items_of(images, labels), Ball(epsilon), 600)
    expect(found.fallen, worst)
    standing = ~np.asarray(found.fallen)
    np.testing.assert_allclose(np.asarray(found.margin)[standing], worst[standing], atol=1e-4)


def test_the_square_attack_in_l2_takes_most_of_what_can_be_taken_and_nothing_else():
    rng = np.random.default_rng(2)
    images = rng.uniform(0.3, 0.7, size=(COUNT, 7, 7, 1)).astype(np.float32)
    smooth = np.outer(np.hanning(9)[1:-1], np.hanning(9)[1:-1]).ravel()
    weights = np.zeros((49, 2), np.float32)
    weights[:, 1] = smooth
    predict = Partial(affine, jnp.asarray(weights), jnp.array([0.0, -smooth.sum() / 2]))
    labels = np.asarray(jnp.argmax(predict(jnp.asarray(images)), axis=1))
    epsilon = 0.1
    worst = worst_gaps(predict, "l2", epsilon, images, labels).max(axis=1)
    easy = worst_gaps(predict, "l2", 0.6 * epsilon, images, labels).max(axis=1) > 0
    found = search(predict, items_of(images, labels), Ball(epsilon, "l2"), 600)
    fallen = np.asarray(found.fallen)
    assert 0.2 < easy.mean() < 0.9
    assert np.any(worst < 0)
    assert np.all(fallen[easy])
    assert not np.any(fallen[worst < -1e-4])


def stairs(images):
    """Class 1 from 0.6 on, in stairs of a twentieth: no gradient anywhere."""
    stair = jnp.floor(20 * images.mean(axis=(1, 2, 3)))
    return jnp.stack([jnp.zeros_like(stair), stair - 11.5], axis=1)


def test_the_square_attack_needs_no_gradient():
    items = items_of(np.full((4, *SHAPE), 0.5), np.zeros(4, int))
    predict, ball = Partial(stairs), Ball(0.12)
    blind = apgd(predict, items, APGD(ball, 0, False, 20, False), STEPPED)
    assert not np.any(blind.fallen)
    np.testing.assert_array_equal(blind.x, items.images)
    assert np.all(search(predict, items, ball, 300).fallen)
    assert not np.any(search(predict, items, Ball(0.09), 300).fallen)


def test_a_search_in_parts_is_the_search_at_once(rng):
    images, labels = at_borders(rng), rng.integers(4, size=COUNT)
    items, predict = items_of(images, labels), Partial(curved, *four_classes(rng).args)
    ball = Ball(0.02)
    whole = search(predict, items, ball, 40)
    part = search(predict, items, ball, 15)
    rest = go_on(predict, part, items, Square(ball), (15, 40), COMPILED)
    assert not np.all(whole.fallen)
    for one, other in zip(whole, rest, strict=True):
        np.testing.assert_array_equal(one, other)
    standing = ~np.asarray(whole.fallen)
    assert np.all(np.asarray(whole.margin)[standing] >= np.asarray(part.margin)[standing])


# Hyperplanes


@pytest.mark.parametrize("norm", NORMS)
def test_the_step_to_a_hyperplane_is_the_shortest_in_the_box(rng, norm):
    count = 200
    x = np.clip(rng.uniform(-0.5, 1.5, size=(count, *SHAPE)), 0, 1)
    w = rng.normal(size=(count, *SHAPE)) * rng.choice([0, 1], p=[0.2, 0.8], size=(count, *SHAPE))
    flat, normal = x.reshape(count, -1), w.reshape(count, -1)
    farthest = np.where(normal > 0, (1 - flat) * normal, -flat * normal).sum(axis=1)
    nearest = np.where(normal > 0, -flat * normal, (1 - flat) * normal).sum(axis=1)
    share = rng.uniform(-1.3, 1.3, size=count)
    share[0] = 0
    b = np.where(share > 0, share * farthest, -share * nearest)
    step = np.asarray(to_hyperplane(Ball(0.1, norm), *(jnp.asarray(v, jnp.float32) for v in (x, w, b)))).reshape(
        count, -1
    )
    in_reach, held = np.abs(share) <= 1, 0
    assert np.all(flat + step >= -1e-5)
    assert np.all(flat + step <= 1 + 1e-5)
    gained = (step * normal).sum(axis=1)
    np.testing.assert_allclose(gained[in_reach], b[in_reach], atol=2e-4)
    for i in range(count):
        direction = normal[i] * np.sign(b[i])
        if not in_reach[i]:
            # All that moves towards the plane has gone to its border.
            border = np.where(direction > 0, 1 - flat[i], np.where(direction < 0, -flat[i], 0))
            np.testing.assert_allclose(step[i], border, atol=1e-4)
            continue
        # No ball that is a little smaller reaches the plane.
        size = np.abs(step[i]).max() if norm == "linf" else np.linalg.norm(step[i])
        [gain] = best_gain(norm, max(size * 0.995 - 1e-5, 0), flat[i : i + 1], direction[None])
        assert gain < abs(b[i]) or size < 1e-4
        held += bool(np.any((direction != 0) & (np.abs(flat[i] + step[i] - (direction > 0)) < 1e-6)))
    assert held > 30
    assert not np.any(step[0])


# Ball and box


@pytest.mark.parametrize("norm", NORMS)
def test_all_attacks_stay_in_the_ball_and_in_the_box(rng, norm):
    images, labels = at_borders(rng), rng.integers(4, size=COUNT)
    predict = Partial(curved, *four_classes(rng).args)
    items = items_of(images, labels, (labels + 1) % 4)
    for low, high, epsilon in ((0.0, 1.0, 0.05), (0.0, 1.0, 0.6), (-1.0, 1.0, 0.3)):
        ball = Ball(epsilon, norm, low, high)
        points = [
            apgd(predict, items, APGD(ball, kind, targeted, steps, True), STEPPED).x
            for kind, targeted, steps in ((0, False, 0), (0, False, 1), (1, True, 2), (2, False, 3), (0, True, 12))
        ]
        points += [search(predict, items, ball, queries).x for queries in (1, 2, 30)]
        points.append(ball.random(items.images, items.keys))
        for x in points:
            assert jnp.min(x) >= low
            assert jnp.max(x) <= high
            assert ball.distance(x, items.images).max() <= epsilon * (1 + 1e-5) + 1e-6
            assert ball.distance(x, items.images).max() > 0.1 * epsilon


def test_projections_in_l2_are_the_nearest_points(rng):
    ball, images = Ball(0.4, "l2"), at_borders(rng)
    x = images + rng.normal(size=images.shape).astype(np.float32)
    found = np.asarray(ball.project(jnp.asarray(x), jnp.asarray(images))).reshape(COUNT, -1)
    # clip(x₀ + s (x − x₀)) with the largest s ≤ 1 in the ball, by bisection.
    flat, offset = images.reshape(COUNT, -1), (x - images).reshape(COUNT, -1)
    inside, outside = np.zeros((COUNT, 1)), np.ones((COUNT, 1))
    for _ in range(50):
        middle = (inside + outside) / 2
        fits = np.linalg.norm(np.clip(flat + middle * offset, 0, 1) - flat, axis=1, keepdims=True) <= 0.4
        inside, outside = np.where(fits, middle, inside), np.where(fits, outside, middle)
    np.testing.assert_allclose(found, np.clip(flat + inside * offset, 0, 1), atol=2e-2)
    lengths = np.linalg.norm(found - flat, axis=1)
    assert np.all(lengths <= 0.4 + 1e-6)
    assert np.all(lengths > 0.39)
    # Scaling first and clipping after would lose more.
    scaled = flat + offset * 0.4 / np.linalg.norm(offset, axis=1, keepdims=True)
    assert np.mean(np.linalg.norm(np.clip(scaled, 0, 1) - flat, axis=1)) < 0.35


def test_directions_in_l2_do_not_leave_the_box():
    x = jnp.array([0.0, 1.0, 0.5, 0.0]).reshape(1, 2, 2, 1)
    gradient = jnp.array([-3.0, 2.0, 4.0, 3.0]).reshape(1, 2, 2, 1)
    found = Ball(0.1, "l2").direction(gradient, x)
    np.testing.assert_allclose(found.ravel(), [0, 0, 0.8, 0.6], atol=1e-6)
    np.testing.assert_array_equal(Ball(0.1).direction(gradient, x).ravel(), [-1, 1, 1, 1])


@pytest.mark.parametrize("norm", NORMS)
def test_another_box_changes_no_verdict(rng, norm):
    images = at_borders(rng)
    predict, labels, epsilon = case(rng, norm, four_classes, images)
    weights, bias = (np.asarray(leaf) for leaf in predict.args)
    # The same predictor of images 2 x − 1.
    moved = Partial(affine, jnp.asarray(weights / 2), jnp.asarray(bias + weights.sum(axis=0) / 2))
    targets = (labels + 1) % 4
    here, there = items_of(images, labels, targets), items_of(2 * images - 1, labels, targets)
    ball, twice = Ball(epsilon, norm), Ball(2 * epsilon, norm, -1.0, 1.0)
    verdicts = []
    for kind, targeted in ((0, False), (1, True), (2, False)):
        one = apgd(predict, here, APGD(ball, kind, targeted, 15, True), COMPILED)
        other = apgd(moved, there, APGD(twice, kind, targeted, 15, True), COMPILED)
        verdicts.append((one.fallen, other.fallen))
    verdicts.append(
        (fab(predict, here, FAB(ball, 10, True), COMPILED), fab(moved, there, FAB(twice, 10, True), COMPILED))
    )
    verdicts.append((search(predict, here, ball, 50).fallen, search(moved, there, twice, 50).fallen))
    for before, after in verdicts:
        assert 0 < np.mean(before) < 1
        np.testing.assert_array_equal(before, after)


def test_images_outside_of_the_box_are_refused_in_one_line():
    with pytest.raises(InputError, match=r"from -1 to 0\.5, outside the box \[0, 1\]") as caught:
        Ball(0.1).check(np.array([-1.0, 0.5]))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="nan"):
        Ball(0.1).check(np.array([0.1, np.nan]))
    with pytest.raises(InputError, match=r"\[-1, 1\]"):
        Ball(0.1, "l2", -1.0, 1.0).check(np.array([0.0, 1.1]))
    Ball(0.1, "l2", -1.0, 1.0).check(np.array([-1.0, 1.0]))
    Ball(0.1).check(np.array([0.0, 1.000001]))
    Ball(0.1).check(np.array([0, 255], np.uint8))


# The schedule and the steps of Auto-PGD


def test_checkpoints_are_those_of_the_paper():
    schedule = periods(100)
    at = np.flatnonzero(schedule)
    assert at.tolist() == [22, 41, 57, 70, 80, 87, 93, 99]
    assert schedule[at].tolist() == [22, 19, 16, 13, 10, 7, 6, 6]
    assert len(schedule) == 101
    assert np.flatnonzero(periods(5)).tolist() == [1, 2, 3, 4, 5]
    assert periods(0).tolist() == [0]


def ridge(slopes, top, images):
    """Four logits, of which the first is the largest by the distance to a kink."""
    below = -1 - jnp.abs(images.reshape(len(images), -1) - top) @ slopes
    low = jnp.full_like(below, -50)
    return jnp.stack([jnp.zeros_like(below), below, low, low], axis=1)


def by_hand(image, slopes, top, norm, epsilon, steps):
    """Algorithm 1 of Croce & Hein on the margin of `ridge`, in float64: best points, step sizes, and restarts."""

    def project(x):
        offset = x - image
        if norm == "linf":
            offset = np.clip(offset, -epsilon, epsilon)
        else:
            offset = offset * min(1, epsilon / max(np.linalg.norm(offset), 1e-12))
        return np.clip(image + offset, 0, 1)

    def loss(x):
        return -1 - np.abs(x - top) @ slopes

    def uphill(x):
        gradient = -np.sign(x - top) * slopes
        return np.sign(gradient) if norm == "linf" else gradient / np.linalg.norm(gradient)

    checkpoints, lengths = np.flatnonzero(periods(steps)), periods(steps)
    size, xs, values = 2 * epsilon, [image], [loss(image)]
    current, previous, best = image, image, image
    best_at_checkpoint, halved_before, sizes, restarts = -np.inf, True, [], 0
    for step in range(1, steps + 1):
        z = project(current + size * uphill(current))
        weight = 0.75 if step > 1 else 1.0
        following = project(current + weight * (z - current) + (1 - weight) * (current - previous))
        previous, current = current, following
        xs.append(current)
        values.append(loss(current))
        best = current if values[-1] > loss(best) else best
        if step in checkpoints:
            since = range(step - lengths[step] + 1, step + 1)
            rises = sum(values[i] > values[i - 1] for i in since)
            stuck = rises <= 0.75 * lengths[step] or (not halved_before and loss(best) <= best_at_checkpoint)
            best_at_checkpoint, halved_before = loss(best), stuck
            if stuck:
                restarts += not np.array_equal(current, best)
                size, current = size / 2, best
        sizes.append(size)
    return best, sizes, restarts


@pytest.mark.parametrize("norm", NORMS)
def test_steps_halve_and_start_again_from_the_best_point_as_in_the_paper(rng, norm):
    epsilon, count = 0.3, 8
    images = rng.uniform(0.35, 0.65, size=(count, 1, 1, 3)).astype(np.float32)
    top = np.array([0.41, 0.53, 0.62], np.float32)
    slopes = np.array([1.0, 2.3, 0.4], np.float32)
    predict = Partial(ridge, jnp.asarray(slopes), jnp.asarray(top))
    restarts = 0
    for steps in (3, 10, 23, 50):
        attack = APGD(Ball(epsilon, norm), LOSSES.index("margin"), False, steps, False)
        found = apgd(predict, items_of(images, np.zeros(count, int)), attack, STEPPED)
        for i, image in enumerate(images):
            image, slope, kink = (np.asarray(v, np.float64).ravel() for v in (image, slopes, top))
            best, sizes, again = by_hand(image, slope, kink, norm, epsilon, steps)
            restarts += again
            np.testing.assert_allclose(np.asarray(found.x[i]).ravel(), best, atol=2e-5)
            expected = -1 - np.abs(best - kink) @ slope
            assert float(found.margin[i]) == pytest.approx(expected, abs=1e-4)
    assert restarts > 10
    assert sizes[-1] < epsilon / 15
    # Steps that do not halve would jump across the kink for ever.
    assert np.all(np.asarray(found.margin) > -1.1)


def test_progress_at_the_end_is_what_the_last_quarter_gained():
    # Up the slope by half a step of a large ball in each step: the margin rises to the last step.
    def slope(images):
        x = images[:, 0, 0, 0]
        return jnp.stack([jnp.zeros_like(x), -5 + x, x - 40, x - 50], axis=1)

    image = np.zeros((1, 1, 1, 1), np.float32)
    found = apgd(Partial(slope), items_of(image, [0]), APGD(Ball(0.5), 1, False, 8, False), STEPPED)
    assert float(found.margin[0]) == pytest.approx(-4.5, abs=1e-6)
    # At the border of the ball from the first step on.
    assert float(found.risen[0]) == 0
    # One step: it brings all, and it is in the last quarter.
    found = apgd(Partial(slope), items_of(image, [0]), APGD(Ball(0.5), 1, False, 0, False), STEPPED)
    assert float(found.margin[0]) == pytest.approx(-5, abs=1e-6)


def test_a_point_passed_on_the_way_counts_though_the_attack_ends_elsewhere():
    # Misclassified between 0.55 and 0.65 only, while the cross-entropy of the other classes together rises on.
    def passing(images):
        x = images[:, 0, 0, 0]
        rival = 0.05 - jnp.abs(x - 0.6)
        many = jnp.stack([x - 0.85] * 8, axis=1)
        return jnp.concatenate([jnp.zeros((len(x), 1)), rival[:, None], 3 * many], axis=1)

    image = np.full((1, 1, 1, 1), 0.4, np.float32)
    found = apgd(Partial(passing), items_of(image, [0]), APGD(Ball(0.1), 0, False, 20, False), STEPPED)
    assert not np.any(found.fallen)
    images = np.array([0.57, 0.1], np.float32).reshape(2, 1, 1, 1)
    found = apgd(Partial(passing), items_of(images, [0, 0]), APGD(Ball(0.25), 0, False, 20, False), STEPPED)
    assert found.fallen.tolist() == [True, False]
    assert (np.asarray(found.at_x) > 0).tolist() == [False, False]
    assert float(found.x[0, 0, 0, 0]) == pytest.approx(0.82, abs=1e-6)


# How the work is laid out


@pytest.mark.parametrize("execution", [STEPPED, COMPILED], ids=["stepped", "compiled"])
def test_attacks_in_parts_are_those_at_once(rng, execution):
    images = at_borders(rng)
    predict = Partial(curved, *four_classes(rng).args)
    items = items_of(images, rng.integers(4, size=COUNT), rng.integers(4, size=COUNT))
    for steps in (9, 40):
        attack = APGD(Ball(0.05), LOSSES.index("margin"), False, steps, True)
        state = ascent.begin(items, attack)
        for leg in ((0, 3), (3, 4), (4, steps + 1)):
            state = ascent.ascend(predict, state, items, attack, leg, execution)
        for name, one, other in zip(
            ascent.Found._fields, ascent.found(state), apgd(predict, items, attack, execution), strict=True
        ):
            np.testing.assert_allclose(one, other, atol=1e-5, err_msg=name)


def test_stepped_and_compiled_attacks_of_the_evaluation_agree(rng):
    images = at_borders(rng)
    predict = four_classes(rng)
    labels = np.asarray(jnp.argmax(predict(jnp.asarray(images)), axis=1))
    items, ball = items_of(images, labels, (labels + 1) % 4), Ball(0.1)
    for kind, targeted, steps in ((0, False, 12), (2, True, 30)):
        stepped, compiled = (
            apgd(predict, items, APGD(ball, kind, targeted, steps, True), execution)
            for execution in (STEPPED, COMPILED)
        )
        for name, one, other in zip(stepped._fields, stepped, compiled, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4, err_msg=name)
    fallen = [np.asarray(fab(predict, items, FAB(ball, 10, True), execution)) for execution in (STEPPED, COMPILED)]
    np.testing.assert_array_equal(fallen[0], fallen[1])
    searches = [search(predict, items, ball, 30, execution) for execution in (STEPPED, COMPILED)]
    for one, other in zip(*searches, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_losses_steps_and_radii_share_a_program(rng, caplog):
    images, labels = at_borders(rng), rng.integers(4, size=COUNT)
    items, predict = items_of(images, labels, (labels + 1) % 4), four_classes(rng)
    apgd(predict, items, APGD(Ball(0.1), 0, False, 10, True), COMPILED)
    with jax.log_compiles():
        apgd(predict, items, APGD(Ball(0.05, "linf", -1.0, 2.0), 2, True, 20, False), COMPILED)
    assert not [line for line in caplog.messages if "Finished XLA compilation" in line and "_compiled" in line]
