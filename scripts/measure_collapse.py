"""Measure neural collapse at the checkpoints of a segment, on clean, attacked and noisy images."""

import _job

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import _network
from robust_tangents import checkpoints, collapse, randomness, storage, subsets
from robust_tangents.attacks.pgd import Attack
from robust_tangents.collapse import Centres
from robust_tangents.evaluation import attacked, has_gradient
from robust_tangents.training import as_float

# What is measured of images: the array, and the labels they count for.
Condition = tuple[np.ndarray, np.ndarray]


def classify(kernel: jax.Array, bias: jax.Array, features: jax.Array) -> dict[str, jax.Array]:
    """The last layer alone, for features that were kept."""
    return {"penultimate": features, "logits": features @ kernel + bias}


class Collapse:
    """Measurements of one seed after the other (which share compiled programs)."""

    def __init__(self, spec: dict, data: storage.Artefact, segment: storage.Artefact):
        self.spec, self.data, self.segment = spec, data, segment
        self.classes = len(data["class_names"])
        self.network = _network.build(spec["model"], self.classes, data["train/images"].shape[1:])
        self.attack = Attack.of(spec["attack"])
        self.names: list[str] = []

    def take(self, seed: int) -> None:
        """Turn to a seed: its images, with noise that stays the same over epochs."""
        self.seed, seeds = seed, (self.spec["study_seed"], seed)
        self.key = randomness.key(*seeds, "evaluation")
        labels = self.data["train/labels"]
        self.chosen = np.arange(len(labels))
        if points := self.spec["points"]:
            rng = randomness.generator(*seeds, "subset")
            self.chosen = subsets.class_balanced(labels, points // self.classes, rng)
        images = as_float(jnp.asarray(self.data["train/images"][self.chosen]))
        self.train = np.asarray(images), labels[self.chosen]
        self.test = np.asarray(as_float(jnp.asarray(self.data["test/images"]))), self.data["test/labels"]
        noise = jax.random.normal(randomness.key(*seeds, "noise"), images.shape) * self.spec["noise"]
        self.gaussian = np.asarray(jnp.clip(images + noise, 0, 1))
        self.signs = np.asarray(jnp.clip(images + jnp.sign(noise) * self.spec["noise"], 0, 1))

    def conditions(self, predict: Partial) -> Iterator[tuple[str, str, Condition]]:
        """Part, name, images and labels of every condition that is made of images; the clean training images first."""

        def perturbed(images: np.ndarray, labels: np.ndarray, attack: Attack) -> Condition:
            batch_size = min(self.spec["batch_size"], len(labels))
            execution = self.network.execution
            return attacked(predict, images, labels, self.key, attack, execution, batch_size), labels

        images, labels = self.train
        # Before training, logits may all be zero: attacks have no gradient to follow there, and nothing is attacked.
        attackable = has_gradient(predict, *self.test, min(self.spec["batch_size"], len(self.test[1])))
        yield "train", "clean", self.train
        if attackable:
            yield "train", "perturbed", perturbed(images, labels, self.attack)
        if attackable and self.spec["targeted"]:
            targets = (labels + 1) % self.classes
            yield "train", "targeted", perturbed(images, targets, replace(self.attack, targeted=True))
        yield "train", "gaussian", (self.gaussian, labels)
        yield "train", "sign_noise", (self.signs, labels)
        yield "test", "clean", self.test
        if attackable:
            yield "test", "perturbed", perturbed(*self.test, self.attack)

    def measure(self, epoch: float) -> dict[str, dict[str, dict[str, np.ndarray]]]:
        """Measures by part and condition at one checkpoint."""
        params, batch_stats = checkpoints.load(self.segment, self.seed, epoch)
        stages = Partial(self.network.features, params, batch_stats)
        self.names = self.names or self.network.stages(params, batch_stats, jnp.asarray(self.train[0][:1]))[:-1]
        head = params["logits"]
        weights = np.asarray(head["kernel"], np.float64).T
        result: dict[str, dict] = {"train": {}, "test": {}}
        clean: dict[str, Centres] | None = None

        def add(part: str, condition: str, of: collapse.Stages, images: np.ndarray, labels: np.ndarray) -> None:
            nonlocal clean
            batch_size = min(self.spec["batch_size"], len(labels))
            found, own = collapse.measures(of, self.names, weights, images, labels, clean, batch_size)
            if clean is None:
                clean = own
            elif part == "train":
                before, after = clean["penultimate"], own["penultimate"]
                found |= collapse.displacement(before, after)
                if condition == "targeted":
                    # Images with label c were made from class c − 1.
                    source = Centres(np.roll(before.means, 1, axis=0), np.roll(before.counts, 1))
                    moved = collapse.displacement(source, after)
                    found |= {f"source_{name}": moved[name] for name in ("centred_distance", "centred_angle")}
            result[part][condition] = found

        for part, condition, (images, labels) in self.conditions(Partial(self.network.logits, params, batch_stats)):
            add(part, condition, stages, images, labels)
        if (kept := f"seed{self.seed}/attacked/{epoch:g}") in self.segment:
            indices, features = self.segment[f"{kept}/indices"], self.segment[f"{kept}/features"]
            rows = np.isin(indices, self.chosen)
            last = Partial(classify, jnp.asarray(head["kernel"]), jnp.asarray(head["bias"]))
            add("train", "stale", last, features[rows], self.data["train/labels"][indices[rows]])
        return result


def over_epochs(records: list[dict]) -> dict:
    """Every value as an array over checkpoints, undefined where a checkpoint lacks the condition."""
    largest = max(records, key=lambda record: len(record["train"]))
    missing = jax.tree.map(lambda value: np.full_like(value, np.nan), largest)
    full = [{part: {**missing[part], **record[part]} for part in ("train", "test")} for record in records]
    return jax.tree.map(lambda *values: np.stack(values), *full)


def main(options) -> None:
    spec = options.spec
    result: dict[str, Any] = {}
    with storage.read(options.data, "data") as data, storage.read(options.segment, "segment") as segment:
        job = Collapse(spec, data, segment)
        for seed in spec["seeds"]:
            job.take(seed)
            records = [job.measure(epoch) for epoch in _job.progress(spec["epochs"], f"seed {seed}, checkpoints")]
            result[f"seed{seed}"] = {"epochs": np.array(spec["epochs"], np.float64), **over_epochs(records)}
        result["stages"] = np.array(job.names)
        inputs = {"data": data.checksum, "segment": segment.checksum}
    storage.write(options.out, kind="collapse", data=result, spec=spec, inputs=inputs)


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--data", required=True, help="data artefact")
    parser.add_argument("--segment", required=True, help="segment artefact with the checkpoints")
    parser.add_argument("--out", required=True, help="collapse artefact to write")
    _job.run(main, parser)
