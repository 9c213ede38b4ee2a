"""Robust accuracy: what is left when attacks that have converged take nothing more, and whether to believe it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robust_tangents.attack_checks import ALLOWED, failed_checks
from robust_tangents.attacks import CLASSES_OF_DLR, apgd, fab, square
from robust_tangents.attacks.apgd import APGD, Found, Items
from robust_tangents.attacks.ball import Ball, Predictor
from robust_tangents.attacks.fab import FAB
from robust_tangents.attacks.losses import LOSSES, Loss, correct, losses, margins
from robust_tangents.attacks.pgd import Attack, pgd
from robust_tangents.attacks.square import Search, Square
from robust_tangents.errors import InputError
from robust_tangents.execution import Execution
from robust_tangents.training import as_float

Method = Literal["apgd", "fab", "square", "polish"]

MORE = 5
"""How many times the steps of its attacks an evaluation's check takes, and how often it goes through their list."""

# Share of what is missing to the boundary that an attack has to gain to count as having brought an image closer.
_CLOSER = 0.1
# Queries of the gradient-free witness in a check, and images at which gradients are probed.
_WITNESS, _PROBED = 500, 10
# Queries of Square after which its squares are small, from a twentieth of the image on.
_SMALL = 900
# Points of a gradient attack, and queries of Square, after which images that have fallen leave it.
_STEPS = (6, 60)
_QUERIES = (20, 100, 300, 1000, 2500, 5000, 10_000, 20_000, 40_000)
# Images of which an attack keeps a state, several times their size, at a time.
_AT_ONCE = 1024


@dataclass(frozen=True)
class Stage:
    """One attack of a strength: `apgd` on a loss, `fab`, `square` (whose steps are queries), or `polish`.

    To polish is to search at random, as Square does once its squares are small, from the point of the largest margin
    that attacks have reached: where predictors jump, that takes images which gradients only bring near the boundary.

    Attributes:
        targets: number of most likely other classes to aim at one after the other (no more than there are); 0 for an
            untargeted attack.
    """

    method: Method
    loss: Loss
    steps: int
    targets: int


@dataclass(frozen=True)
class Strength:
    """How hard robust accuracy is attacked.

    Attributes:
        stages: attacks one after the other on what still stands, each from random starts.
        repeats: how often the list is gone through. In later turns, targets are the next most likely classes.
        quiet: an image is left alone when the attacks in a row that brought it no closer to the boundary, that is,
            raised its margin by less than a tenth of what was missing, times the share of its clean margin that is
            still missing, reach this number: the nearer the boundary, the more is tried. Where it is None, all
            attacks are tried on every image.
        checked: images still standing on which ``MORE`` times the budget is tried.
    """

    stages: tuple[Stage, ...]
    repeats: int = 1
    quiet: float | None = None
    checked: int = 10

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> "Strength":
        """From resolved settings."""
        stages = tuple(Stage(one["method"], one["loss"], one["steps"], one["targets"]) for one in spec["attacks"])
        return cls(stages, spec["repeats"], spec["quiet"], spec["checked"])

    def rounds(self, classes: int, surrogates: int = 0) -> list["Round"]:
        """Every attack in its order.

        Of a predictor with surrogates, APGD follows these in turn and, after every two of their turns, itself; where no
        image is left alone (``quiet`` is None), all of them in every attack.

        Raises:
            InputError: fewer classes than two, or than the difference-of-logits ratio needs.
        """
        if classes < 2:
            raise InputError(f"attack: robust accuracy needs two classes or more, not {classes}")
        result: list[Round] = []
        in_turn, climbs = [*range(surrogates), *range(surrogates), surrogates], 0
        for turn in range(self.repeats):
            for stage in self.stages:
                if stage.loss == "dlr" and stage.method == "apgd" and classes < CLASSES_OF_DLR[stage.targets > 0]:
                    raise InputError(
                        f"attack: the difference-of-logits ratio needs {CLASSES_OF_DLR[stage.targets > 0]} classes "
                        f"{'with targets' if stage.targets else 'without targets'}, not {classes}; use the loss margin"
                    )
                number = min(stage.targets, classes - 1)
                for place in range(max(number, 1)):
                    followed = range(surrogates + 1) if self.quiet is None else [in_turn[climbs % len(in_turn)]]
                    if stage.method != "apgd":
                        followed = [surrogates]
                    climbs += stage.method == "apgd"
                    aim = (turn * number + place) % (classes - 1)
                    result += [Round(stage, aim, source) for source in followed]
        return result


@dataclass(frozen=True)
class Round:
    """One attack of an evaluation.

    Attributes:
        place: of its target among the other classes of an image, the most likely first.
        source: of its gradient, the place among the surrogates; behind the last one, the predictor itself.
    """

    stage: Stage
    place: int
    source: int


@dataclass(frozen=True)
class Robustness:
    """What robust accuracy is: what an image may be changed to, and how hard that is tried."""

    ball: Ball
    strength: Strength

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> "Robustness":
        """From the resolved settings of an evaluation: ``norm``, ``epsilon`` and ``strength``."""
        return cls(Ball(spec["epsilon"], spec["norm"]), Strength.of(spec["strength"]))


@dataclass
class Evaluation:
    """The outcome for each image, (N,).

    Attributes:
        correct: classified correctly as it is.
        robust: still correct after every attack.
        first: still correct after the first attack.
        zero_gradient: whether the plain cross-entropy's input gradient is exactly zero in float32.
        no_gradient: whether the gradient that attacks follow is zero or not finite there.
        margin: the largest margin that attacks reached (see `attacks.apgd.Found`); −∞ where none was tried.
        risen: by how much that attack still raised it in the last quarter of its steps.
        silent: fallen on the way of an attack that ended at a point that is classified correctly.
        attacks: number of attacks made.
        check: what the check on a part of the survivors found, by name (see `robustness`).
    """

    correct: np.ndarray
    robust: np.ndarray
    first: np.ndarray
    zero_gradient: np.ndarray
    no_gradient: np.ndarray
    margin: np.ndarray
    risen: np.ndarray
    silent: np.ndarray
    attacks: int = 0
    check: dict[str, float] = field(default_factory=dict)


@jax.jit
def _look(predict: Predictor, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Of images: logits, margins, whether they are correct, the gradient that attacks follow, and which are zero."""
    logits, pull = jax.vjp(predict, images)

    def plain(logits: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()

    def followed(logits: jax.Array) -> jax.Array:
        return losses(logits, labels, labels, LOSSES.index("cross_entropy"), False).sum()

    [of_plain], [gradient] = pull(jax.grad(plain)(logits)), pull(jax.grad(followed)(logits))
    return {
        "logits": logits,
        "margin": margins(logits, labels),
        "correct": correct(logits, labels),
        "gradient": gradient,
        "zero_gradient": jnp.all(of_plain == 0, axis=(1, 2, 3)),
        "no_gradient": ~jnp.any(jnp.isfinite(gradient) & (gradient != 0), axis=(1, 2, 3)),
    }


@jax.jit
def _correct(predict: Predictor, images: jax.Array, labels: jax.Array) -> jax.Array:
    return correct(predict(images), labels)


@jax.jit
def _near(images: jax.Array, keys: jax.Array, ball: Ball) -> jax.Array:
    """Random points of a hundredth of the balls around images; from raw keys."""
    return replace(ball, epsilon=ball.epsilon / 100).random(images, jax.random.wrap_key_data(keys))


@jax.jit
def _keys(key: jax.Array, numbers: jax.Array, indices: jax.Array) -> jax.Array:
    """A key for each attempt (its number) at each image (its index), as raw data; no other image plays a part."""

    def one(number: jax.Array, index: jax.Array) -> jax.Array:
        return jax.random.key_data(jax.random.fold_in(jax.random.fold_in(key, index), number))

    return jax.vmap(one)(numbers, indices)


def _items(images: np.ndarray, labels: np.ndarray, targets: np.ndarray, keys: np.ndarray) -> Items:
    """What attacks take, from NumPy's arrays and raw keys."""
    x, key = as_float(jnp.asarray(images)), jax.random.wrap_key_data(jnp.asarray(keys))
    return Items(x, jnp.asarray(labels), jnp.asarray(targets), key)


def spread(count: int, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Rows of each batch, spread evenly over 0 … count − 1, and how many of them count.

    A smaller batch is filled up with repeated rows, so that one compiled program serves all.
    """
    batches = -(-count // batch_size)
    for batch in range(batches):
        rows = np.arange(batch, count, batches)
        yield np.resize(rows, min(batch_size, count)), len(rows)


def at_once(count: int, batch_size: int) -> int:
    """Images to evaluate at once: a training batch, but at least 100 of them, since small batches waste time."""
    return min(count, max(batch_size, 100))


@dataclass(frozen=True)
class _Attempts:
    """A predictor and the images that are attempted on it, by their row."""

    predict: Predictor
    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    key: jax.Array
    ball: Ball
    execution: Execution
    batch_size: int
    surrogates: Sequence[Predictor] = ()

    def keys(self, rows: np.ndarray, numbers: Any) -> np.ndarray:
        """Raw random keys of attempts, one for each row."""
        numbers = np.broadcast_to(np.asarray(numbers, np.uint32), rows.shape)
        # Filled up to a power of two, so that few programs serve all lengths.
        size = 1 << max(len(rows) - 1, 0).bit_length()
        made = _keys(self.key, np.resize(numbers, size), np.resize(self.indices[rows].astype(np.uint32), size))
        return np.asarray(made)[: len(rows)]

    def chunks(self, function: Any, rows: np.ndarray, *more: Any, predict: Predictor | None = None) -> Any:
        """A function of the predictor (or another), images, labels and ``more``, row by row."""
        batches = self.images[rows], self.labels[rows], *more
        run = partial(function, predict or self.predict)
        return self.execution.in_chunks(run, self.batch_size, *batches)

    def clean(self) -> dict[str, np.ndarray]:
        """What `_look` sees, without the gradients."""

        def look(predict, x, y):
            seen = _look(predict, as_float(x), y)
            del seen["gradient"]
            return seen

        return self.chunks(look, np.arange(len(self.labels)))

    def cosines(self, rows: np.ndarray, numbers: Any) -> np.ndarray:
        """Between the gradients that attacks follow at an image and at a random point of a hundredth of its ball."""

        def look(predict, x, y, key):
            x = as_float(jnp.asarray(x))
            return tuple(_look(predict, points, y)["gradient"] for points in (x, _near(x, key, self.ball)))

        first, second = (
            gradient.reshape(len(rows), -1).astype(np.float64)
            for gradient in self.chunks(look, rows, self.keys(rows, numbers))
        )
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        return np.sum(first * second, axis=1) / np.where(lengths > 0, lengths, np.inf)

    def search(
        self,
        begin: Callable[[Items], Any],
        go_on: Callable[[Predictor, Any, Items, tuple[int, int]], Any],
        ends: Sequence[int],
        rows: np.ndarray,
        targets: np.ndarray,
        numbers: Any,
        keep: Callable[[Any], Any],
        predict: Predictor | None = None,
        state: Any = None,
    ) -> Any:
        """What an attack leaves of some rows, by row; what has fallen leaves it at the next of its ``ends``.

        Args:
            begin: makes the state, which has a field ``fallen``.
            go_on: takes predictor, state, items and a leg, from one end to the next.
            targets: (rows,) classes to move to.
            numbers: of the attempts.
            keep: takes the last state and returns what is wanted of it.
            predict: another predictor to follow.
            state: where the attack begins, by row, in the place of what ``begin`` makes.
        """
        keys, parts = self.keys(rows, numbers), []
        for first in range(0, len(rows), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            here = None if state is None else _rows_of(state, part)
            left = np.arange(len(rows[part]))
            for leg in pairwise(ends):
                run = partial(_leg, begin, go_on, leg)
                before = () if here is None else (_rows_of(here, left),)
                after = self.chunks(
                    run, rows[part][left], targets[part][left], keys[part][left], *before, predict=predict
                )
                here = after if here is None else _with_rows(here, left, after)
                left = np.flatnonzero(~here.fallen)
                if not len(left):
                    break
            parts.append(keep(here))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def by_apgd(
        self,
        rows: np.ndarray,
        numbers: Any,
        loss: Loss,
        steps: int,
        targets: np.ndarray | None,
        *,
        start: bool = True,
        source: int = -1,
    ) -> Found:
        """APGD on some rows, each with the number of the attempt and, where targeted, its target."""
        attack = APGD(self.ball, LOSSES.index(loss), targets is not None, steps, start)
        predict = (*self.surrogates, self.predict)[source]
        return self.search(
            lambda items: apgd.begin(items, attack),
            lambda predict, state, items, leg: apgd.ascend(predict, state, items, attack, leg, self.execution),
            _ends(steps + 1, _STEPS),
            rows,
            self.labels[rows] if targets is None else targets,
            numbers,
            apgd.found,
            predict,
        )

    def by_fab(
        self, rows: np.ndarray, numbers: Any, steps: int, targets: np.ndarray, *, start: bool = False
    ) -> np.ndarray:
        """Whether targeted FAB takes a row, from the image or from a random start."""
        attack = FAB(self.ball, steps, start)
        return self.search(
            lambda items: fab.begin(items, attack),
            lambda predict, state, items, leg: fab.approach(predict, state, items, attack, leg, self.execution),
            _ends(steps + 1, _STEPS),
            rows,
            targets,
            numbers,
            lambda state: state.fallen,
        )

    def by_square(self, rows: np.ndarray, numbers: Any, queries: int, best: Any = None) -> Search:
        """The Square attack on some rows; from their points ``best``, where given, only with its small squares."""
        settings, before = Square(self.ball), 0 if best is None else _SMALL
        return self.search(
            lambda items: square.begin(items.images),
            lambda predict, state, items, leg: square.go_on(predict, state, items, settings, leg, self.execution),
            [before + end for end in _ends(queries, _QUERIES)],
            rows,
            self.labels[rows],
            numbers,
            lambda search: search,
            state=best,
        )


def _leg(begin, go_on, leg, predict, x, y, target, key, state=None) -> Any:
    """A part of an attack on a chunk, from its beginning where there is no state yet."""
    items = _items(x, y, target, key)
    return go_on(predict, begin(items) if state is None else jax.tree.map(jnp.asarray, state), items, leg)


def _rows_of(tree: Any, rows: np.ndarray | slice) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _with_rows(tree: Any, rows: np.ndarray, values: Any) -> Any:
    """The tree with some rows of its arrays replaced, in place."""
    for leaf, value in zip(jax.tree.leaves(tree), jax.tree.leaves(values), strict=True):
        leaf[rows] = value
    return tree


def _ends(last: int, before: Sequence[int]) -> list[int]:
    return [0, *(end for end in before if end < last), last]


# Attempts of the check have numbers of their own, behind those of any evaluation.
_OF_CHECK, _OF_WITNESS, _OF_PROBE = 1 << 20, 1 << 21, 1 << 22


def evaluate(
    predict: Predictor,
    images: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    key: jax.Array,
    settings: Robustness,
    execution: Execution,
    batch_size: int,
    indices: np.ndarray | None = None,
    surrogates: Sequence[Predictor] = (),
) -> Evaluation:
    """Attack image by image what still stands, and check on a part of the rest what more of it would take.

    An image that is misclassified, as it is or anywhere on the way of an attack, is attacked no more. Its random
    numbers depend on ``key``, on its index and on the number of the attack alone, so that whether it is robust depends
    neither on order and batches nor on which others still stand (but for the last digits of batched products).

    Args:
        predict: logits of the predictor, image by image.
        images: (N, H, W, channels), 8-bit or in the ball's box.
        labels: (N,).
        settings: ball and strength.
        batch_size: images at once, which bounds the memory.
        indices: (N,) the images' places in their data set; 0 … N − 1 unless given.
        surrogates: predictors of the same logits with other derivatives, such as `Expansion.surrogates`, which APGD
            follows in turn with the predictor itself; what counts is whether the logits are those of another class.

    Raises:
        InputError: images outside the box; a loss that needs more classes.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    indices = np.arange(len(labels)) if indices is None else np.asarray(indices)
    ball, strength = settings.ball, settings.strength
    ball.check(images)
    job = _Attempts(predict, images, labels, indices, key, ball, execution, batch_size, surrogates)
    clean = job.clean()
    count, classes = clean["logits"].shape
    rounds = strength.rounds(classes, len(surrogates))
    # Other classes of each image, the most likely first.
    likely = np.argsort(np.where(np.arange(classes) == labels[:, None], np.inf, -clean["logits"]), axis=1)
    # NumPy's, to write into, and not all on the device at once.
    start: Any = np.array(as_float(images), np.float32), clean["margin"].copy(), np.zeros(count, bool)
    best: Any = Search(*start)
    result = Evaluation(
        clean["correct"], clean["correct"].copy(), clean["correct"].copy(), clean["zero_gradient"],
        clean["no_gradient"], np.full(count, -np.inf), np.zeros(count), np.zeros(count, bool),
    )  # fmt: skip
    in_vain = np.zeros(count, int)  # attacks in a row that brought an image no closer
    goes_on = result.correct.copy()
    for number, of in enumerate(rounds):
        rows = np.flatnonzero(goes_on)
        if not len(rows):
            break
        fallen, found = _attempt(job, of.stage, rows, number, likely[rows, of.place], of.source, best)
        if found is not None:
            before = result.margin[rows]
            in_vain[rows] = np.where(found.margin > (1 - _CLOSER) * before, 0, in_vain[rows] + 1)
            higher = found.margin > before
            result.margin[rows[higher]], result.risen[rows[higher]] = found.margin[higher], found.risen[higher]
            result.silent[rows] |= fallen & ~(found.at_x > 0)
            higher = found.at_x > best.margin[rows]
            best.x[rows[higher]], best.margin[rows[higher]] = found.x[higher], found.at_x[higher]
        result.robust[rows[fallen]] = False
        goes_on = result.robust.copy()
        if strength.quiet is not None:
            known = goes_on & np.isfinite(result.margin) & (clean["margin"] < 0)
            missing = np.divide(result.margin, clean["margin"], out=np.ones(count), where=known)
            goes_on &= in_vain * missing < strength.quiet
        if number == 0:
            result.first = result.robust.copy()
        result.attacks += 1
    result.check = _check(job, result, strength, rounds, likely, best)
    return result


def _attempt(
    job: _Attempts,
    stage: Stage,
    rows: np.ndarray,
    numbers: Any,
    targets: np.ndarray,
    source: int,
    best: Any,
    more: int = 1,
) -> tuple[np.ndarray, Found | None]:
    """Which rows an attack takes with ``more`` times its steps, and all that is found where it climbs the margin.

    With more steps than its own it is made several times, for which FAB needs random starts.

    ``source``: of the gradient that APGD follows (see `Round`). ``best``: points of all images to polish.
    """
    if stage.method == "square":
        return np.asarray(job.by_square(rows, numbers, more * stage.steps).fallen), None
    if stage.method == "fab":
        return job.by_fab(rows, numbers, more * stage.steps, targets, start=more > 1), None
    if stage.method == "polish":
        after = job.by_square(rows, numbers, more * stage.steps, _rows_of(best, rows))
        risen: Any = np.zeros(len(rows))
        return np.asarray(after.fallen), Found(after.fallen, after.x, after.margin, risen, after.margin)
    aims = targets if stage.targets else None
    found = job.by_apgd(rows, numbers, stage.loss, more * stage.steps, aims, source=source)
    return np.asarray(found.fallen), found


def _balanced(job: _Attempts, rows: np.ndarray, number: int) -> np.ndarray:
    """Up to ``number`` of some rows, as many of each class as possible; the images' keys alone decide which."""
    draw = job.keys(rows, _OF_PROBE)[:, 0]
    order = np.lexsort((draw, job.labels[rows]))
    of_class = job.labels[rows][order]
    turn = np.arange(len(rows)) - np.searchsorted(of_class, of_class)
    return np.sort(rows[order[np.argsort(turn, kind="stable")[:number]]])


def _check(
    job: _Attempts, result: Evaluation, strength: Strength, rounds: list[Round], likely: np.ndarray, best: Any
) -> dict[str, float]:
    """What `robustness` says of the check."""
    # No share of so few survivors could lower the accuracy by what counts.
    few = result.robust.mean() <= ALLOWED
    chosen = _balanced(job, np.flatnonzero(result.robust), 0 if few else strength.checked)
    standing = np.ones(len(chosen), bool)
    # One turn of the list, five times, all at once; what begins at the best point so far has no restarts.
    turn = len(rounds) // strength.repeats
    in_turn = ((number, rounds[number % len(rounds)]) for number in range(MORE * turn))
    attempts = [(number, of) for number, of in in_turn if number < turn or of.stage.method != "polish"]
    for stage, source in dict.fromkeys((of.stage, of.source) for _, of in attempts):
        left = np.flatnonzero(standing)
        if not len(left):
            break
        own = [(number, of.place) for number, of in attempts if (of.stage, of.source) == (stage, source)]
        rows = np.tile(chosen[left], len(own))
        numbers = _OF_CHECK + np.repeat([number for number, _ in own], len(left))
        places = np.repeat([place for _, place in own], len(left))
        fallen, _ = _attempt(job, stage, rows, numbers, likely[rows, places], source, best, MORE)
        standing[left[fallen.reshape(len(own), -1).any(axis=0)]] = False
    witnessed = job.by_square(chosen, _OF_WITNESS, _WITNESS).fallen if len(chosen) else np.zeros(0, bool)
    probed = _balanced(job, np.flatnonzero(result.correct), _PROBED)
    bounded, cosines = np.ones(len(probed), bool), np.ones(len(probed))
    if len(probed):
        box = float(job.ball.high) - float(job.ball.low)
        across = box if job.ball.norm == "linf" else box * np.sqrt(job.images[0].size)
        everywhere = replace(job, ball=replace(job.ball, epsilon=across))
        bounded = ~np.asarray(everywhere.by_apgd(probed, _OF_PROBE, "cross_entropy", 20, None, start=False).fallen)
        cosines = job.cosines(probed, _OF_PROBE)
    return {
        "checked_images": float(len(chosen)),
        "more_budget_takes": float(np.mean(~standing)) if len(chosen) else 0.0,
        "gradient_free_takes": float(np.mean(witnessed)) if len(chosen) else 0.0,
        "probed_images": float(len(probed)),
        "unbounded_accuracy": float(np.mean(bounded)) if len(probed) else 0.0,
        "noisy_gradient": float(np.mean(cosines < 0.5)) if len(probed) else 0.0,
    }


def robustness(
    predict: Predictor,
    images: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    key: jax.Array,
    settings: Robustness,
    execution: Execution,
    batch_size: int,
    indices: np.ndarray | None = None,
    surrogates: Sequence[Predictor] = (),
) -> dict[str, float]:
    """Clean and robust accuracy with the figures that tell whether to believe the latter; arguments as `evaluate`.

    Returns:
        Fractions of all images: ``accuracy``; ``robust_accuracy``, correct after every attack; ``first_accuracy``,
        correct after the first attack; ``zero_gradient``, a cross-entropy whose input gradient is exactly zero in
        float32; ``no_gradient``, one of the loss that attacks follow that is zero or not finite; ``silent_success``,
        fallen on the way of an attack that ended at a correctly classified point; ``still_rising``, robust, but a
        quarter more steps would reach the boundary at the pace of the last quarter. And ``images`` and ``attacks``,
        their numbers.

        Of a class-balanced part of the survivors, ``checked_images`` in number (0 where no more than one image in a
        hundred survives): ``more_budget_takes``, the fraction that falls to five turns of the attacks with five times
        their steps (of what begins at the best point so far, one turn), and ``gradient_free_takes``, to the Square
        attack. Of ``probed_images`` correct ones: ``unbounded_accuracy``, in a ball as large as the box, and
        ``noisy_gradient``, the fraction whose gradient turns by more than 60° within a hundredth of the ball. And 0 or
        1 for each of `attack_checks.CHECKS`.
    """
    found = evaluate(predict, images, labels, key, settings, execution, batch_size, indices, surrogates)
    rising = found.robust & np.isfinite(found.margin) & (found.risen >= -found.margin)
    record = {
        "images": float(len(found.correct)),
        "attacks": float(found.attacks),
        "accuracy": float(found.correct.mean()),
        "robust_accuracy": float(found.robust.mean()),
        "first_accuracy": float(found.first.mean()),
        "zero_gradient": float(found.zero_gradient.mean()),
        "no_gradient": float(found.no_gradient.mean()),
        "silent_success": float(found.silent.mean()),
        "still_rising": float(rising.mean()),
        **found.check,
    }
    return record | failed_checks(record)


def accuracy(predict: Predictor, images: np.ndarray, labels: np.ndarray, batch_size: int) -> float:
    """Fraction of images (N, H, W, channels), 8-bit or in [0, 1], that are classified correctly."""
    batches = spread(len(labels), batch_size)
    found = [_correct(predict, as_float(images[rows]), labels[rows])[:kept].sum() for rows, kept in batches]
    return float(sum(found)) / len(labels)


def has_gradient(predict: Predictor, images: np.ndarray, labels: np.ndarray, batch_size: int) -> bool:
    """Whether the loss that attacks follow has a gradient at most of the images (judged by one batch of them)."""
    rows, kept = next(spread(len(labels), batch_size))
    return bool(_look(predict, as_float(images[rows]), labels[rows])["no_gradient"][:kept].mean() < 0.5)


def transfer_matrix(
    predictors: Sequence[Predictor],
    images: np.ndarray,
    labels: np.ndarray,
    key: jax.Array,
    attack: Attack,
    execution: Execution,
    batch_size: int,
) -> np.ndarray:
    """Accuracy of every predictor on attacks made on every predictor, (sources, targets), as fractions of images.

    Attacked images are those of `attacked`; they stay floating-point numbers.
    """
    matrix = np.zeros((len(predictors), len(predictors)))
    for source, predict in enumerate(predictors):
        made = attacked(predict, images, labels, key, attack, execution, batch_size)
        for target, other in enumerate(predictors):
            matrix[source, target] = accuracy(other, made, labels, batch_size)
    return matrix


def attacked(
    predict: Predictor,
    images: np.ndarray,
    labels: np.ndarray,
    key: jax.Array,
    attack: Attack,
    execution: Execution,
    batch_size: int,
) -> np.ndarray:
    """All images (N, H, W, channels) under `attacks.pgd.pgd`, as float32 in [0, 1], kept outside the device.

    The random start of an image depends on ``key`` and its index alone.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    result = np.zeros(images.shape, np.float32)
    for rows, kept in spread(len(labels), batch_size):
        keys = jax.random.wrap_key_data(_keys(key, np.zeros(len(rows), np.uint32), rows.astype(np.uint32)))
        made = pgd(predict, as_float(images[rows]), labels[rows], keys, attack, execution)
        result[rows[:kept]] = made[:kept]
    return result
