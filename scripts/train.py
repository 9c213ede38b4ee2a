"""Train one segment of a run: from epoch 0 or the end of another segment, keeping the checkpoints on the way."""

import _job

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from robust_tangents import checkpoints, execution, models, randomness, storage, subsets
from robust_tangents.attacks import Attack
from robust_tangents.evaluation import accuracies
from robust_tangents.training import State, Trainer, as_float


def train_seed(seed: int, spec: dict, data: storage.Artefact, previous: storage.Artefact | None) -> dict:
    """Checkpoints, momentum and metrics of one seed over the segment."""
    images, labels = jnp.asarray(data["train/images"]), jnp.asarray(data["train/labels"])
    network = models.build(spec["model"], len(data["class_names"]), execution.choose(images.shape[1:]))
    trainer = Trainer(network, images, labels, spec["training"], (spec["study_seed"], seed))
    evaluate = evaluator(network, spec, seed, data)
    start, stop = spec["epochs"]
    kept, metrics = {}, []

    def keep(epoch: float, state: State) -> None:
        if epoch in spec["checkpoints"]:
            kept[f"{epoch:g}"] = jax.device_get({"params": state.params, "batch_stats": state.batch_stats})

    if previous is None:
        first = as_float(images[trainer.order(0)[: spec["training"]["batch_size"]]])
        state = State.start(*network.init(randomness.key(spec["study_seed"], seed, "initialisation"), first))
        metrics.append({"epoch": start, "loss": np.nan, **evaluate(start, state)})
        keep(start, state)
    else:
        state = checkpoints.load_state(previous, seed, start)

    for epoch in _job.progress(range(start, stop), f"seed {seed}, epochs {start} to {stop}"):
        cuts = [point for point in spec["checkpoints"] if epoch < point < epoch + 1]
        points = list(trainer.epoch(state, epoch, cuts))
        for point, reached, _ in points:
            keep(point, reached)
        _, state, loss = points[-1]
        if (epoch + 1) % spec["evaluation"]["every"] == 0 or epoch + 1 == stop:
            metrics.append({"epoch": epoch + 1, "loss": loss, **evaluate(epoch + 1, state)})
            _job.log.info(", ".join(f"{name} {value:.4g}" for name, value in metrics[-1].items()))
    return {
        "checkpoints": kept,
        "momentum": jax.device_get(state.momentum),
        "metrics": {name: np.array([row[name] for row in metrics]) for name in metrics[0]},
    }


def evaluator(network: models.Network, spec: dict, seed: int, data: storage.Artefact):
    """Function of (epoch, state) that gives clean and robust accuracy on training and test images."""
    attack = Attack.of(spec["evaluation"]["attack"])
    parts = {}
    for part in ("train", "test"):
        images, labels = data[f"{part}/images"], data[f"{part}/labels"]
        if points := spec["evaluation"]["points"]:
            rng = randomness.generator(spec["study_seed"], seed, "evaluation")
            chosen = subsets.class_balanced(labels, points // network.classes, rng)
            images, labels = images[chosen], labels[chosen]
        parts[part] = jnp.asarray(images), jnp.asarray(labels)

    def evaluate(epoch: int, state: State) -> dict[str, float]:
        predict = Partial(network.logits, state.params, state.batch_stats)
        key = randomness.key(spec["study_seed"], seed, "evaluation", epoch)
        result: dict[str, float] = {}
        for part, (images, labels) in parts.items():
            batch_size = min(len(labels), spec["training"]["batch_size"])
            clean, robust = accuracies(predict, images, labels, key, attack, network.execution, batch_size)
            result |= {f"{part}_accuracy": clean, f"{part}_robust_accuracy": robust}
        return result

    return evaluate


def main(options) -> None:
    spec, inputs = options.spec, {}
    with storage.read(options.data, "data") as data:
        inputs["data"] = data.checksum
        if options.previous:
            with storage.read(options.previous, "segment") as previous:
                inputs["previous"] = previous.checksum
                result = {f"seed{seed}": train_seed(seed, spec, data, previous) for seed in spec["seeds"]}
        else:
            result = {f"seed{seed}": train_seed(seed, spec, data, None) for seed in spec["seeds"]}
    storage.write(options.out, kind="segment", data=result, spec=spec, inputs=inputs)


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--data", required=True, help="data artefact")
    parser.add_argument("--previous", nargs="?", help="segment to continue; from the beginning without")
    parser.add_argument("--out", required=True, help="segment artefact to write")
    _job.run(main, parser)
