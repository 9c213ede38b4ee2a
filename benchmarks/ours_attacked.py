"""Our side in robust accuracies: of every network and strength, whether each image survives."""

import json
import os
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "src"))

import jax
import jax.numpy as jnp
import numpy as np
import yaml
from jax.tree_util import Partial
from side import STRENGTHS, converse, problem

from robust_tangents import execution, models
from robust_tangents.attacks.ball import Ball, Predictor
from robust_tangents.configuration import Study
from robust_tangents.evaluation import Robustness, Strength, at_once, evaluate
from robust_tangents.linearization import Expansion
from robust_tangents.memory import keep_memory

CONFIGURATION = Path(__file__).resolve().parents[1] / "config.yaml"


def _scaled(predict: Predictor, scale: jax.Array, images: jax.Array) -> jax.Array:
    return scale * predict(images)


@cache
def expansion(model: str, classes: int, image_shape: tuple[int, ...]) -> Expansion:
    """The expansion of a network, and the network; the same object for all, so that they share compiled programs."""
    settings = json.loads(model)
    return Expansion(models.build(settings, classes, execution.choose(image_shape, settings)))


class Given:
    """A predictor as `mirrors.predictor` builds it, with its images and the ball."""

    def __init__(self, given: dict[str, Any]):
        self.images, self.labels = given["images"], given["labels"]
        self.ball = Ball(float(given["epsilon"]), given["norm"].decode())
        model = expansion(given["model"].decode(), int(given["classes"]), self.images.shape[1:])
        self.execution = model.execution
        self.surrogates: tuple[Predictor, ...] = ()
        at = jax.tree.map(jnp.asarray, (given["params"], given.get("batch_stats", {})))
        if "displacement" in given:
            _, point = model.start(*at, centered=not given["zeroth"])
            displacement = jax.tree.map(jnp.asarray, given["displacement"])
            self.predict: Predictor = Partial(model.logits, displacement, point)
            self.surrogates = model.surrogates(displacement, point)
        else:
            self.predict = Partial(model.network.logits, *at)
        if "scale" in given:
            self.predict = Partial(_scaled, self.predict, jnp.asarray(given["scale"]))


def logits(given: dict[str, Any]):
    ready = Given(given)
    return lambda: np.asarray(jax.jit(lambda predict, images: predict(images))(ready.predict, ready.images))


def ours(given: dict[str, Any], strength: Strength):
    """Whether each image survives all attacks of a strength, in batches as the workflow's."""
    ready = Given(given)
    settings, key = Robustness(ready.ball, strength), jax.random.key(0)
    count = at_once(len(ready.labels), 100)

    def run() -> np.ndarray:
        found = evaluate(
            ready.predict,
            ready.images,
            ready.labels,
            key,
            settings,
            ready.execution,
            count,
            surrogates=ready.surrogates,
        )
        return found.robust

    return run


if __name__ == "__main__":
    keep_memory(one_heap=True)
    study = Study(yaml.safe_load(CONFIGURATION.read_text()))
    # Without the check on a part of the survivors, which the peers do not make either.
    strengths = {name: replace(Strength.of(study.config["strengths"][name]), checked=0) for name in STRENGTHS}
    tasks = {}
    for name, given in problem(Path(sys.argv[1])).items():
        tasks[f"logits {name}"] = partial(logits, given)
        tasks |= {f"{name_of} {name}": partial(ours, given, strength) for name_of, strength in strengths.items()}
    converse(tasks)
