"""Train one segment of a run: from epoch 0 or the end of another segment, keeping the checkpoints on the way."""

import _job

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import _network
from robust_tangents import checkpoints, models, randomness, storage, subsets
from robust_tangents.evaluation import Robustness, at_once, robustness
from robust_tangents.finite import require_finite
from robust_tangents.training import State, Trainer, as_float


def train_seed(
    network: models.Network,
    trained: models.Network,
    run: str,
    seed: int,
    spec: dict,
    data: storage.Artefact,
    previous: storage.Artefact | None,
) -> dict:
    """Checkpoints, momentum and metrics of a seed over the segment; ``trained`` is the network as steps take it.

    Raises:
        InputError: training diverged; it is called that of ``run``.
    """
    images, labels = jnp.asarray(data["train/images"]), jnp.asarray(data["train/labels"])
    seeds = spec["study_seed"], seed
    trainer = Trainer(trained, images, labels, spec["training"], seeds, keep_attacked=spec["keep_attacked"])
    evaluate = evaluator(network, spec, seed, data)
    start, stop = spec["epochs"]
    kept, attacked, metrics = {}, {}, []

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
            failure = f"{run}, seed {seed}: training diverged in epoch {epoch + 1}"
            remedy = f"lower runs.{run}.learning_rate"
            require_finite(failure, remedy, params=reached.params, batch_stats=reached.batch_stats)
            keep(point, reached)
        _, state, loss = points[-1]
        if state.attacked is not None and epoch + 1 in spec["checkpoints"]:
            batches = np.array_split(state.attacked, trainer.steps_per_epoch)
            attacked[f"{epoch + 1}"] = {
                "indices": np.asarray(trainer.order(epoch)),
                "features": np.concatenate([penultimate(network, state, batch) for batch in batches]),
            }
        if (epoch + 1) % spec["evaluation"]["every"] == 0 or epoch + 1 == stop:
            metrics.append({"epoch": epoch + 1, "loss": loss, **evaluate(epoch + 1, state)})
            shown = ("loss", "train_accuracy", "train_robust_accuracy", "test_accuracy", "test_robust_accuracy")
            _job.log.info("epoch %d: %s", epoch + 1, ", ".join(f"{name} {metrics[-1][name]:.4g}" for name in shown))
    return {
        "checkpoints": kept,
        "attacked": attacked,
        "momentum": jax.device_get(state.momentum),
        "metrics": {name: np.array([row[name] for row in metrics]) for name in metrics[0]},
    }


@partial(jax.jit, static_argnames="network")
def penultimate(network: models.Network, state: State, images: jax.Array) -> jax.Array:
    """Features in evaluation mode."""
    return network.features(state.params, state.batch_stats, images)["penultimate"]


def evaluator(network: models.Network, spec: dict, seed: int, data: storage.Artefact):
    """Function of (epoch, state) that gives `robustness` on training and test images, prefixed train_ and test_."""
    settings = Robustness.of(spec["evaluation"]["robustness"])
    parts = {}
    for part in ("train", "test"):
        images, labels = data[f"{part}/images"], data[f"{part}/labels"]
        chosen = np.arange(len(labels))
        if points := spec["evaluation"]["points"]:
            rng = randomness.generator(spec["study_seed"], seed, "evaluation")
            chosen = subsets.class_balanced(labels, points // network.classes, rng)
        parts[part] = images[chosen], labels[chosen], chosen

    def evaluate(epoch: int, state: State) -> dict[str, float]:
        predict = Partial(network.logits, state.params, state.batch_stats)
        key = randomness.key(spec["study_seed"], seed, "evaluation", epoch)
        result: dict[str, float] = {}
        for number, (part, (images, labels, indices)) in enumerate(parts.items()):
            batch_size = at_once(len(labels), spec["training"]["batch_size"])
            own = jax.random.fold_in(key, number)  # images of one index in both parts share no random numbers
            found = robustness(predict, images, labels, own, settings, network.execution, batch_size, indices)
            result |= {f"{part}_{name}": value for name, value in found.items()}
        return result

    return evaluate


def main(options) -> None:
    spec, inputs = options.spec, {}
    # Settings leave out names, so that equal work in another study is an equal job; the place of its output has them.
    run = Path(options.out).absolute().parent.parent.name
    with ExitStack() as stack:
        data = stack.enter_context(storage.read(options.data, "data"))
        inputs["data"] = data.checksum
        previous = None
        if options.previous:
            previous = stack.enter_context(storage.read(options.previous, "segment"))
            inputs["previous"] = previous.checksum
        # The same networks for all seeds, so that they share compiled programs.
        network = _network.build(spec["model"], len(data["class_names"]), data["train/images"].shape[1:])
        trained = replace(network, mixed_precision=spec["precision"] == "mixed")
        result = {
            f"seed{seed}": train_seed(network, trained, run, seed, spec, data, previous) for seed in spec["seeds"]
        }
    storage.write(options.out, kind="segment", data=result, spec=spec, inputs=inputs)


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--data", required=True, help="data artefact")
    parser.add_argument("--previous", nargs="?", help="segment to continue; from the beginning without")
    parser.add_argument("--out", required=True, help="segment artefact to write")
    _job.run(main, parser)
