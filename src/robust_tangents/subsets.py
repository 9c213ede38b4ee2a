"""Class-balanced random subsets."""

import numpy as np

from robust_tangents import randomness
from robust_tangents.errors import InputError


def class_balanced(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Draw equally many items of every class, without replacement.

    Every class is permuted as a whole and its first ``per_class`` items are taken, so that with the same generator
    state a smaller subset is part of a larger one.

    Args:
        labels: class numbers, integer, shape (n,); the classes are the numbers that occur.
        per_class: items of each class, at least 1.
        rng: where the randomness comes from (see `robust_tangents.randomness.generator`).

    Returns:
        Positions in ``labels``, int64, shape (classes * per_class,): by ascending class, random within a class.

    Raises:
        InputError: there are no labels, ``per_class`` is below 1, or a class has too few items.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if not classes.size:
        raise InputError("there is nothing to draw a subset from; at least one image is needed")
    if per_class < 1:
        raise InputError(f"{per_class} images per class cannot be drawn; use 1 to {counts.min()}")
    if counts.min() < per_class:
        raise InputError(
            f"{per_class} images per class are wanted, but class {classes[counts.argmin()]} has {counts.min()}; "
            f"use at most {counts.min()}"
        )
    return np.concatenate([rng.permutation(np.flatnonzero(labels == number))[:per_class] for number in classes])


def kernel_points(labels: np.ndarray, points: int, study_seed: int, run_seed: int) -> np.ndarray:
    """Draw the points at which kernels are evaluated: class-balanced, one draw per run seed.

    Args:
        labels: class numbers of the training part, integer, shape (n,).
        points: number of points, a multiple of the number of classes that occur in ``labels``.
        study_seed: root of the seed tree.
        run_seed: seed of the run that the kernels belong to.

    Returns:
        Positions in ``labels``, int64, shape (points,): by ascending class, random within a class.

    Raises:
        InputError: ``points`` is no multiple of the number of classes, or too large for the smallest class.
    """
    classes, counts = np.unique(labels, return_counts=True)
    number = len(classes)
    if not number:
        raise InputError("kernels.points: there are no training images to draw from")
    most = number * int(counts.min())
    if points < 1 or points % number:
        below = max(points, 0) // number * number
        choices = [str(choice) for choice in (below, below + number) if 0 < choice <= most] or [str(most)]
        raise InputError(
            f"kernels.points: {points} is not a multiple of the {number} classes; use {' or '.join(choices)}"
        )
    if points > most:
        raise InputError(
            f"kernels.points: {points} are {points // number} of each class, but class {classes[counts.argmin()]} has "
            f"{counts.min()} training images; use at most {most}"
        )
    return class_balanced(labels, points // number, randomness.generator(study_seed, run_seed, "subset"))
