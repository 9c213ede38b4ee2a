"""Measure how useful and how robust the top features of empirical kernels are, and their networks, along runs."""

import _job

import operator
from contextlib import ExitStack
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import _network
from robust_tangents import checkpoints, eigenattacks, evaluation, randomness, storage, subsets
from robust_tangents.attacks.pgd import Attack
from robust_tangents.linearization import Expansion
from robust_tangents.training import as_float


def evaluated(data: storage.Artefact, points: int | None, study_seed: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """All test images and their labels, or a class-balanced part."""
    images, labels = data["test/images"], data["test/labels"]
    if points is None:
        return images, labels
    rng = randomness.generator(study_seed, seed, "evaluation")
    rows = subsets.class_balanced(labels, points // len(np.unique(labels)), rng)
    return images[rows], labels[rows]


def main(options) -> None:
    spec, inputs = options.spec, dict[str, str]()
    result: dict[str, Any] = {}
    jax.config.update("jax_default_matmul_precision", "highest")
    attack, settings = Attack.of(spec["attack"]), evaluation.Robustness.of(spec["robustness"])
    with ExitStack() as files:
        data = files.enter_context(storage.read(options.data, "data"))
        subset = files.enter_context(storage.read(options.subset, "subset"))
        inputs |= {"data": data.checksum, "subset": subset.checksum}
        # Opening a file verifies its header, which takes as long as the work on one network: once for all of them.
        of_networks = _job.open_networks(options.network, files)
        classes = len(data["class_names"])
        network = _network.build(spec["model"], classes, data["test/images"].shape[1:])
        model = Expansion(network)

        for seed in spec["seeds"]:
            images, labels = evaluated(data, spec["points"], spec["study_seed"], seed)
            batch = evaluation.at_once(len(labels), spec["batch_size"])
            key = randomness.key(spec["study_seed"], seed, "evaluation")
            points = as_float(jnp.asarray(subset[f"seed{seed}/images"]))
            targets = np.eye(classes)[subset[f"seed{seed}/labels"]]
            measured: dict[str, dict[str, list]] = {}
            for label, epoch, segment, kernels in _job.progress(of_networks, f"seed {seed}, checkpoints"):
                state = checkpoints.load(segment, seed, epoch)
                full = kernels[f"seed{seed}/{epoch:g}/full"]
                inputs |= {
                    f"{label}/{epoch:g}/segment": segment.checksum,
                    f"{label}/{epoch:g}/kernels": kernels.checksum,
                }
                eigenvalues, weights = eigenattacks.feature_weights(full, targets, range(spec["largest"]))
                found = eigenattacks.directions(network, *state, points, weights)
                _, point = model.start(*state, centered=True)
                features = [
                    Partial(model.logits, jax.tree.map(operator.itemgetter(i), found), point)
                    for i in range(spec["largest"])
                ]
                attacked = [
                    evaluation.attacked(feature, images, labels, key, attack, network.execution, batch)
                    for feature in features
                ]
                robust = evaluation.robustness(
                    Partial(network.logits, *state), data["test/images"], data["test/labels"], key, settings,
                    network.execution, evaluation.at_once(len(data["test/labels"]), spec["batch_size"]),
                )  # fmt: skip
                of_run = measured.setdefault(label, {})
                for name, value in {
                    "epochs": epoch,
                    "eigenvalues": eigenvalues,
                    "usefulness": [evaluation.accuracy(feature, images, labels, batch) for feature in features],
                    "robustness": [
                        evaluation.accuracy(feature, moved, labels, batch)
                        for feature, moved in zip(features, attacked, strict=True)
                    ],
                    **{f"network_{name}": value for name, value in robust.items()},
                }.items():
                    of_run.setdefault(name, []).append(value)
            result[f"seed{seed}"] = {
                label: {name: np.array(values) for name, values in of_run.items()} for label, of_run in measured.items()
            }
    spec["networks"] = list(dict.fromkeys(label for label, *_ in options.network))
    storage.write(options.out, kind="eigenfeatures", data=result, spec=spec, inputs=inputs)


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--data", required=True, help="data artefact")
    _job.add_networks(parser)
    parser.add_argument("--out", required=True, help="eigenfeatures artefact to write")
    _job.run(main, parser)
