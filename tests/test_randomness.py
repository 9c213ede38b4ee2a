"""The seed tree: values that must never change, and paths that do not touch each other."""

import itertools
from typing import get_args

import jax
import numpy as np
import pytest

from robust_tangents.randomness import Role, generator, key

PATHS = list(itertools.product((0, 1), (0, 1, 2), get_args(Role), (0, 1, 2)))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((0, 0, "initialisation", 0), [2299959030, 2006962715]),
        ((7, 3, "attack", 5), [1874174318, 2415938014]),
    ],
)
def test_keys_keep_their_values(path, expected):
    assert jax.random.key_data(key(*path)).tolist() == expected


def test_draws_from_a_key_keep_their_values():
    assert float(jax.random.uniform(key(0, 1, "order", 2))) == pytest.approx(0.8296991586685181, abs=1e-7)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((0, 0, "subset", 0), [1947634573, 1799897971, 2470018905]),
        ((7, 3, "split", 5), [1238330499, 4278990230, 2781083533]),
    ],
)
def test_generators_keep_their_values(path, expected):
    assert generator(*path).integers(1 << 32, size=3).tolist() == expected


def test_every_path_has_its_own_key():
    assert len({tuple(jax.random.key_data(key(*path)).tolist()) for path in PATHS}) == len(PATHS)


def test_every_path_has_its_own_generator():
    assert len({tuple(generator(*path).integers(1 << 32, size=2).tolist()) for path in PATHS}) == len(PATHS)


def test_more_runs_and_epochs_shift_nothing():
    def draws(runs: int, epochs: int) -> dict:
        return {
            (run, epoch): (
                jax.random.key_data(key(5, run, "order", epoch)).tolist(),
                generator(5, run, "order", epoch).permutation(20).tolist(),
            )
            for run in range(runs)
            for epoch in range(epochs)
        }

    few, many = draws(2, 2), draws(4, 5)
    assert {path: many[path] for path in few} == few


def test_draws_of_two_paths_are_uncorrelated():
    first, second = (generator(0, run, "order").standard_normal(10_000) for run in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.04  # 4 standard deviations
