"""Measure how far attacks on single features of empirical kernels fool trained networks."""

import _job

import operator
from contextlib import ExitStack
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import _network
from robust_tangents import checkpoints, eigenattacks, kernel_features, models, randomness, storage
from robust_tangents.attacks.pgd import Attack
from robust_tangents.evaluation import accuracy, at_once, attacked, has_gradient
from robust_tangents.linearization import Expansion
from robust_tangents.training import as_float


class Networks:
    """The networks of one seed, by label, and the test images that they are measured on."""

    def __init__(
        self, network: models.Network, states: dict[str, tuple], data: storage.Artefact, spec: dict, seed: int
    ):
        self.network, self.states, self.spec = network, states, spec
        self.images, self.labels = as_float(data["test/images"]), data["test/labels"]
        self.batch_size = at_once(len(self.labels), spec["batch_size"])
        self.key = randomness.key(spec["study_seed"], seed, "evaluation")
        self.attack = Attack.of(spec["attack"])

    def accuracy(self, images: np.ndarray) -> np.ndarray:
        """Of every target on test images as they are or attacked, (targets,)."""
        predictors = [Partial(self.network.logits, *self.states[target]) for target in self.spec["targets"]]
        return np.array([accuracy(predict, images, self.labels, self.batch_size) for predict in predictors])

    def attacked(self, predict: Partial) -> np.ndarray:
        """Test images under the attack on a predictor."""
        execution = self.network.execution
        return attacked(predict, self.images, self.labels, self.key, self.attack, execution, self.batch_size)

    def baselines(self) -> dict[str, np.ndarray]:
        """Accuracy of every target on clean images, under random signs of the attack's size, and its own attack.

        The last is not a number where the attack has no gradient to follow, as at zero logits.
        """
        signs = jax.random.rademacher(self.key, self.images.shape, jnp.float32)
        own = []
        for place, target in enumerate(self.spec["targets"]):
            predict = Partial(self.network.logits, *self.states[target])
            attackable = has_gradient(predict, self.images, self.labels, self.batch_size)
            own.append(self.accuracy(self.attacked(predict))[place] if attackable else np.nan)
        return {
            "clean": self.accuracy(self.images),
            "random": self.accuracy(np.clip(self.images + self.attack.epsilon * np.asarray(signs), 0, 1)),
            "own": np.array(own),
        }


def main(options) -> None:
    spec, inputs = options.spec, dict[str, str]()
    result: dict[str, Any] = {}
    jax.config.update("jax_default_matmul_precision", "highest")
    with ExitStack() as files:
        data = files.enter_context(storage.read(options.data, "data"))
        subset = files.enter_context(storage.read(options.subset, "subset"))
        of_networks = _job.open_networks(options.network, files)
        inputs |= {"data": data.checksum, "subset": subset.checksum}
        classes = len(data["class_names"])
        network = _network.build(spec["model"], classes, data["test/images"].shape[1:])
        model = Expansion(network)
        for seed in _job.progress(spec["seeds"], "seeds"):
            states = {}
            for label, epoch, segment, kernels in of_networks:
                states[label] = checkpoints.load(segment, seed, epoch)
                inputs |= {f"{label}/segment": segment.checksum, f"{label}/kernels": kernels.checksum}
            networks = Networks(network, states, data, spec, seed)
            result[f"seed{seed}"] = networks.baselines()
            points = as_float(jnp.asarray(subset[f"seed{seed}/images"]))
            targets = np.eye(classes)[subset[f"seed{seed}/labels"]]
            for label, epoch, _, kernels in of_networks:
                full = kernels[f"seed{seed}/{epoch:g}/full"]
                chosen = kernel_features.spread(spec["largest"], 3, spec["number"])
                eigenvalues, weights = eigenattacks.feature_weights(full, targets, range(spec["largest"]))
                # The chosen features one by one, then all of them as one predictor.
                attacked = np.concatenate([weights[chosen], weights.sum(axis=0, keepdims=True)])
                found = eigenattacks.directions(network, *states[label], points, attacked)
                _, point = model.start(*states[label], centered=True)
                accuracies = []
                for i in range(len(attacked)):
                    feature = Partial(model.logits, jax.tree.map(operator.itemgetter(i), found), point)
                    accuracies.append(networks.accuracy(networks.attacked(feature)))
                result[f"seed{seed}"][label] = {
                    "features": chosen,
                    "eigenvalues": eigenvalues,
                    "accuracy": np.stack(accuracies[:-1]),
                    "accuracy_all": accuracies[-1],
                }
    spec["networks"] = [label for label, *_ in options.network]
    storage.write(options.out, kind="eigenattacks", data=result, spec=spec, inputs=inputs)


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--data", required=True, help="data artefact")
    _job.add_networks(parser)
    parser.add_argument("--out", required=True, help="eigenattacks artefact to write")
    _job.run(main, parser)
