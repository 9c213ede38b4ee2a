"""Our attacks break what AutoAttack of other packages breaks, on networks and verdicts that were kept.

tests/data/autoattack.npz is made by benchmarks/freeze_autoattack.py.
"""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from jax.tree_util import Partial

from robust_tangents import execution, models
from robust_tangents.attacks.ball import Ball
from robust_tangents.configuration import Study
from robust_tangents.evaluation import Robustness, Strength, evaluate

ROOT = Path(__file__).parents[1]
FILE = ROOT / "tests" / "data" / "autoattack.npz"
LEVELS = 16  # of pixels
CASES = json.loads(str(np.load(FILE)["cases"]))
STRENGTHS = {  # without the check on a part of the survivors, whose outcome plays no part here
    name: replace(Strength.of(spec), checked=0)
    for name, spec in Study(yaml.safe_load((ROOT / "config.yaml").read_text())).config["strengths"].items()
}
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


@pytest.mark.parametrize("strength", ["standard", "autoattack"])
@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: "{network}, {norm}".format(**CASES[number]))
def test_robust_accuracy_is_that_of_autoattack(number, strength):
    case = CASES[number]
    built = network(json.dumps(case["model"]))
    predict = Partial(built.logits, tree(f"{case['network']}/params/"), tree(f"{case['network']}/batch_stats/"))
    images, labels = kept()["images"].astype(np.float32) / LEVELS, kept()["labels"]
    settings = Robustness(Ball(case["epsilon"], case["norm"]), STRENGTHS[strength])
    found = evaluate(predict, images, labels, jax.random.key(0), settings, built.execution, len(labels))
    # At the published strength, torchattacks' AutoAttack and the original.
    theirs = [value.mean() for name, value in kept().items() if re.fullmatch(rf"survivors/\w+/{number}", name)]
    assert len(theirs) == 2
    assert found.robust.mean() <= min(theirs) + MAY_DIFFER
    assert found.robust.mean() >= min(theirs) - MAY_BE_STRONGER
    # Image by image: what both of theirs take, but for a few at the boundary.
    taken = [~value for name, value in kept().items() if re.fullmatch(rf"survivors/\w+/{number}", name)]
    assert np.mean(np.logical_and(*taken) & found.robust) <= 2 * MAY_DIFFER
