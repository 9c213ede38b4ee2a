"""Measure how PGD on each network of a second stage, and on its parents, fools all the others."""

import _job

import operator
from contextlib import ExitStack
from pathlib import Path

import jax
import numpy as np
from jax.tree_util import Partial

import _network
from robust_tangents import checkpoints, models, randomness, storage
from robust_tangents.attack_checks import RECORDED, stronger_than_white_box
from robust_tangents.attacks.pgd import Attack
from robust_tangents.errors import InputError
from robust_tangents.evaluation import at_once, transfer_matrix
from robust_tangents.finite import require_finite
from robust_tangents.linearization import Expansion, Variant, is_centered


def predictors(
    network: models.Network,
    variants: dict[Variant, Expansion],
    stage2: storage.Artefact,
    segments: list,
    seed: int,
    wanted: list[float],
    attack: str,
) -> dict[tuple[str, float], tuple[Partial, dict[str, float]]]:
    """A parent and the networks spawned from it, each with its robustness under an attack, by (variant, epoch)."""
    result = {}
    epochs = stage2[f"seed{seed}/spawn_epochs"].tolist()
    for row, epoch in enumerate(epochs):
        if epoch not in wanted:
            continue
        parent = checkpoints.load_from(segments, seed, epoch)

        def robust(name: str, row: int = row) -> dict[str, float]:
            record = stage2[f"seed{seed}/{name}/{attack}"]
            return {entry: float(record[entry][row]) for entry in ("robust_accuracy", *RECORDED)}

        result["standard", epoch] = Partial(network.logits, *parent), robust("standard")
        for variant, model in variants.items():
            name = f"seed{seed}/{variant}/network"
            if name not in stage2:
                raise InputError(f"{stage2.path}: holds no networks; set keep_networks for this second stage")
            kept = jax.tree.map(operator.itemgetter(row), stage2[name])
            failure = f"{stage2.path}: the {variant} network of seed {seed} from epoch {epoch:g} diverged in training"
            require_finite(failure, "lower the second stage's learning rate and train it again", **kept)
            _, point = model.start(parent[0], kept.get("batch_stats", {}), centered=is_centered(variant))
            result[variant, epoch] = Partial(model.logits, kept["displacement"], point), robust(variant)
    return result


def main(options) -> None:
    spec = options.spec
    result: dict[str, dict] = {}
    with ExitStack() as stack:
        opened: dict[str, storage.Artefact] = {}

        def read(path: str, kind: str) -> storage.Artefact:
            if path not in opened:
                opened[path] = stack.enter_context(storage.read(path, kind))
            return opened[path]

        data = read(options.data, "data")
        network = _network.build(spec["model"], len(data["class_names"]), data["test/images"].shape[1:])
        images, labels = data["test/images"], data["test/labels"]
        # Made once: predictors share compiled programs if they are methods of one object.
        variants = {name: Expansion.of(network, name, spec["batch_norm"]) for name in spec["variants"]}
        batch_size = at_once(len(labels), spec["batch_size"])
        for seed in _job.progress(spec["seeds"], "seeds"):
            networks: dict[tuple, tuple[Partial, dict[str, float]]] = {}
            for files in options.networks:
                segments = [read(path, "segment") for path in files["segments"]]
                for path in files["stage2"]:
                    stage2 = read(path, "stage 2")
                    found = predictors(network, variants, stage2, segments, seed, spec["spawn_epochs"], spec["name"])
                    networks |= {(files["label"], *name): one for name, one in found.items()}
            key = randomness.key(spec["study_seed"], seed, "evaluation")
            attack = Attack.of(spec["attack"])
            every, records = zip(*networks.values(), strict=True)
            recorded = {name: np.array([record[name] for record in records]) for name in records[0]}
            matrix = transfer_matrix(every, images, labels, key, attack, network.execution, batch_size)
            # Where attacks have no gradient to follow, as at zero logits, nothing is attacked.
            blind = recorded["no_gradient"] > 0.5
            matrix[blind], recorded["robust_accuracy"][blind] = np.nan, np.nan
            result[f"seed{seed}"] = {
                **recorded,
                "accuracy": matrix,
                "stronger_than_white_box": stronger_than_white_box(matrix, recorded["robust_accuracy"], len(labels)),
                "networks": np.array([f"{parent}|{variant}|{epoch:g}" for parent, variant, epoch in networks]),
            }
        # Without the folder of the study, so that equal work in another study gives equal files.
        inputs = {"/".join(Path(path).parts[2:]): artefact.checksum for path, artefact in opened.items()}
    storage.write(options.out, kind="transfer", data=result, spec=spec, inputs=inputs)


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--data", required=True, help="data artefact")
    parser.add_argument(
        "--networks", type=_job.json.loads, required=True, help="JSON list: label, segments, stage2 of each parent"
    )
    parser.add_argument("--out", required=True, help="transfer artefact to write")
    _job.run(main, parser)
