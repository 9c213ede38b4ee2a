"""Train models around checkpoints of a run, first-order ones above all, and evaluate them and their parents."""

import _job

from contextlib import ExitStack
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import _network
from robust_tangents import checkpoints, models, randomness, storage
from robust_tangents.evaluation import Robustness, at_once, robustness
from robust_tangents.finite import require_finite
from robust_tangents.linearization import Expansion, is_centered
from robust_tangents.training import State, Trainer, as_float


class Stage2:
    """Second-stage trainings and evaluations, one seed after the other (which share compiled programs).

    In errors, they are called those of the second stage ``name`` and the run ``parent``.
    """

    def __init__(self, name: str, parent: str, spec: dict, data: storage.Artefact):
        self.name, self.parent, self.spec = name, parent, spec
        self.network = _network.build(spec["model"], len(data["class_names"]), data["train/images"].shape[1:])
        self.images, self.labels = jnp.asarray(data["train/images"]), jnp.asarray(data["train/labels"])
        self.test_images, self.test_labels = data["test/images"], data["test/labels"]
        self.batch_size = at_once(len(self.test_labels), spec["training"]["batch_size"])
        self.models = {v: Expansion.of(self.network, v, spec["batch_norm"]) for v in spec["variants"]}

    def take(self, seed: int) -> None:
        """Turn to a seed."""
        self.seed = seed
        seeds = (self.spec["study_seed"], seed)
        roles: tuple[randomness.Role, randomness.Role] = ("stage2 order", "stage2 attack")
        self.trainers = {
            variant: Trainer(model, self.images, self.labels, self.spec["training"], seeds, roles)
            for variant, model in self.models.items()
        }
        self.key = randomness.key(*seeds, "evaluation")

    def evaluate(self, model: models.Network | Expansion, params, batch_stats) -> dict[str, dict[str, float]]:
        """Robustness on the test set under each of the attacks, by the attack's name."""
        predict = Partial(model.logits, params, batch_stats)
        surrogates = model.surrogates(params, batch_stats) if isinstance(model, Expansion) else ()
        return {
            name: robustness(
                predict, self.test_images, self.test_labels, self.key, Robustness.of(measured), model.execution,
                self.batch_size, surrogates=surrogates,
            )
            for name, measured in self.spec["robustness"].items()
        }  # fmt: skip

    def spawn(self, spawn_epoch: float, parent: tuple) -> dict[str, dict]:
        """Results of the parent itself ("standard") and of each variant trained from it.

        Raises:
            InputError: a training diverged.
        """
        result: dict[str, dict] = {"standard": self.evaluate(self.network, *parent)}
        for variant, model in self.models.items():
            state = State.start(*model.start(*parent, centered=is_centered(variant)))
            history = []
            for epoch in range(self.spec["epochs"]):
                [(_, state, loss)] = self.trainers[variant].epoch(state, epoch)
                require_finite(
                    f"{self.name}, {variant} from epoch {spawn_epoch:g} of {self.parent}, seed {self.seed}: training "
                    f"diverged in epoch {epoch + 1}",
                    f"lower stage2.{self.name}.learning_rate",
                    displacement=state.params,
                    batch_stats=state.batch_stats["batch_stats"],
                )
                if self.spec["evaluate_every"] and (epoch + 1) % self.spec["evaluate_every"] == 0:
                    history.append(self.evaluate(model, state.params, state.batch_stats))
            # The last evaluation on the way is the one at the end, if it was made there.
            at_end = bool(history) and self.spec["epochs"] % self.spec["evaluate_every"] == 0
            last = history[-1] if at_end else self.evaluate(model, state.params, state.batch_stats)
            result[variant] = {"loss": loss, **last}
            if history:
                result[variant]["history"] = jax.tree.map(lambda *values: np.stack(values), *history)
            if variant == "linearized":
                result[variant]["relative_magnitude"] = self.relative_magnitude(model, state)
            if self.spec["keep_networks"]:
                kept = {"displacement": state.params, "batch_stats": state.batch_stats["batch_stats"]}
                result[variant]["network"] = jax.device_get(kept)
        return result

    def relative_magnitude(self, model: Expansion, state: State) -> float:
        """Mean over the test set; not finite where the parent's output is zero."""
        begins = range(0, len(self.test_images), self.batch_size)
        batches = [as_float(self.test_images[begin : begin + self.batch_size]) for begin in begins]
        ratios = [model.relative_magnitude(state.params, state.batch_stats, batch) for batch in batches]
        return float(jnp.concatenate(ratios).mean())


def main(options) -> None:
    spec = options.spec
    result: dict[str, dict] = {}
    # Names, which settings leave out, are in the place of the output: …/<second stage>/<parent>/<seeds>/part<i>.h5.
    folder = Path(options.out).absolute().parent.parent
    with ExitStack() as stack:
        data = stack.enter_context(storage.read(options.data, "data"))
        segments = [stack.enter_context(storage.read(path, "segment")) for path in options.segments]
        stage2 = Stage2(folder.parent.name, folder.name, spec, data)
        for seed in spec["seeds"]:
            stage2.take(seed)
            rows = []
            for epoch in _job.progress(spec["spawn_epochs"], f"seed {seed}, spawn epochs"):
                rows.append(stage2.spawn(epoch, checkpoints.load_from(segments, seed, epoch)))
            # Every value becomes an array over spawn epochs.
            result[f"seed{seed}"] = {
                "spawn_epochs": np.array(spec["spawn_epochs"], np.float64),
                **jax.tree.map(lambda *values: np.stack(values), *rows),
            }
        inputs = {"data": data.checksum} | {
            "/".join(segment.path.parts[-3:-1]): segment.checksum for segment in segments
        }
    storage.write(options.out, kind="stage 2", data=result, spec=spec, inputs=inputs)


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--data", required=True, help="data artefact")
    parser.add_argument("--segments", nargs="+", required=True, help="segment artefacts that hold the spawn epochs")
    parser.add_argument("--out", required=True, help="stage-2 artefact to write")
    _job.run(main, parser)
