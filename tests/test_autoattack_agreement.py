"""Our attacks break what AutoAttack of other packages breaks, on networks and verdicts that were kept.

tests/data/autoattack.npz is made by benchmarks/freeze_autoattack.py.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from robust_tangents import execution, models

FILE = Path(__file__).parent / "data" / "autoattack.npz"
LEVELS = 16  # of pixels
CASES = json.loads(str(np.load(FILE)["cases"]))
MAY_DIFFER = 0.005  # share of the images
# More would be no better attack, but one that leaves the ball.
MAY_BE_STRONGER = 0.02


@cache
def kept() -> dict[str, np.ndarray]:
    return dict(np.load(FILE))


def tree(prefix: str) -> dict[str, Any]:
    """The arrays under a name, as nested dictionaries, in single precision."""
    result: dict[str, Any] = {}
    for name, value in kept().items():
        if name.startswith(prefix):
            *groups, last = name.removeprefix(prefix).split("/")
            node = result
            for group in groups:
                node = node.setdefault(group, {})
            node[last] = jnp.asarray(value, jnp.float32 if value.dtype == np.float16 else value.dtype)
    return result


@cache
def network(model: str) -> models.Network:
    settings = json.loads(model)
    return models.build(settings, 10, execution.choose((8, 8, 1), settings))


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: "{network}, {norm}".format(**CASES[number]))
def test_robust_accuracy_is_that_of_autoattack(number):
    case = CASES[number]
    built = network(json.dumps(case["model"]))
    predict = Partial(built.logits, tree(f"{case['network']}/params/"), tree(f"{case['network']}/batch_stats/"))
    images, labels = jnp.asarray(kept()["images"], jnp.float32) / LEVELS, jnp.asarray(kept()["labels"])
    theirs = [value for name, value in kept().items() if name.startswith("survivors/") and name.endswith(f"/{number}")]
    assert len(theirs) == 2
