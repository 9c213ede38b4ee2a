"""Measure the features of infinite-width kernels: usefulness, robustness, gradients, and predictors of some of them.

Runs in the environment of neural-tangents if any of the architectures has no closed form.
"""

import _job

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robust_tangents import infinite_kernels, kernel_features, randomness, storage
from robust_tangents.attacks.pgd import Attack
from robust_tangents.errors import InputError
from robust_tangents.kernel_features import Predictors


class Features:
    """The features of one architecture's kernel, on one data set."""

    def __init__(self, name: str, spec: dict, data: storage.Artefact, kernels: storage.Artefact):
        self.spec, self.name = spec, name
        self.points, self.images = (infinite_kernels.as_double(data[f"{part}/images"]) for part in ("train", "test"))
        self.labels = data["test/labels"]
        classes = len(data["class_names"])
        self.majority = np.bincount(self.labels).max() / len(self.labels)
        self.targets = kernel_features.targets(data["train/labels"], classes)
        self.rows = jnp.asarray(kernels[f"{name}/test"])
        self.kernel = infinite_kernels.build(name, self.points.shape[1:], spec["budget_mb"] * 10**6)
        try:
            self.spectrum = kernel_features.spectrum(kernels[f"{name}/train"], spec["ridge"])
        except InputError as error:
            raise InputError(f"{kernels.path}: {name}: {error}") from error
        self.attacked = kernel_features.spread(len(self.points), spec["compared"], spec["attacked"].get(name))

    def correct(self, predictors: Predictors) -> np.ndarray:
        """Which test images each of the predictors gets right, (m, F)."""
        outputs = predictors.outputs_everywhere(self.rows)
        return np.asarray(kernel_features.correct(outputs, self.labels[:, None]))

    def attack(self, predictors: Predictors, image: int, attack: Attack) -> tuple[jax.Array, jax.Array, jax.Array]:
        """A test image under an attack on each predictor, the gradients of its parts, and whether each withstands."""
        key = jax.random.fold_in(randomness.key(self.spec["study_seed"], 0, "evaluation"), image)
        label = self.labels[image]
        moved, gradients = kernel_features.attacked(
            self.kernel, self.points, predictors, self.images[image], label, attack, key
        )
        return moved, gradients, kernel_features.withstands(self.kernel, self.points, predictors, moved, label)

    def measure(self) -> dict[str, Any]:
        """Usefulness of all features, robustness of the attacked ones, gradients of the largest at every image."""
        every = kernel_features.features(self.spectrum, self.targets)
        whole = kernel_features.predictor(self.spectrum, self.targets)
        family = kernel_features.joined(kernel_features.features(self.spectrum, self.targets, self.attacked), whole)
        attack = Attack.of(self.spec["attack"])
        withstood, gradients = [], []
        for image in _job.progress(range(len(self.images)), f"{self.name}, images"):
            _, of_parts, withstands = self.attack(family, image, attack)
            withstood.append(np.asarray(withstands))
            gradients.append(np.asarray(of_parts[: self.spec["compared"], 0], np.float32))
        correct, self.withstood = self.correct(every), np.stack(withstood)[:, :-1]
        return {
            "eigenvalues": self.spectrum.eigenvalues,
            "usefulness": correct.mean(axis=0),
            "attacked": self.attacked,
            "robustness": self.withstood.mean(axis=0),
            "gradients": np.stack(gradients),
            "accuracy": self.correct(whole).mean(),
            "robust_accuracy": np.stack(withstood)[:, -1].mean(),
            "majority": self.majority,
            "shown": self.decompose(every, whole, attack),
        }

    def decompose(self, every: Predictors, whole: Predictors, attack: Attack) -> dict[str, np.ndarray]:
        """The first image of each of the first two classes: its attack, and the gradients of all features there."""
        shown = [int(np.flatnonzero(self.labels == c)[0]) for c in (0, 1)]
        attacks = [self.attack(whole, image, attack) for image in shown]
        weights = every.weights[..., 0]
        gradients = [self.kernel.at(self.images[image], self.points, weights)[1] for image in shown]
        directions = np.asarray(every.loadings[:, 0, 0] if every.loadings.shape[2] == 1 else 1.0)
        return {
            "images": np.asarray(self.images[np.array(shown)], np.float32),
            "labels": self.labels[shown],
            "attacked": np.stack([np.asarray(moved[0], np.float32) for moved, _, _ in attacks]),
            "fooled": np.stack([not withstands[0] for _, _, withstands in attacks]),
            "correct": self.correct(whole)[shown, 0],
            "gradients": np.stack([np.asarray((of_image.T * directions).T, np.float32) for of_image in gradients]),
        }

    def subsets(self, spec: dict) -> dict[str, Any]:
        """Predictors of robust, useful but not robust, and all features: chosen on every second test image, measured
        on the others."""
        chosen, held_out = np.arange(len(self.labels))[::2], np.arange(len(self.labels))[1::2]
        every = kernel_features.features(self.spectrum, self.targets)
        sets = kernel_features.split_by_robustness(
            self.correct(every)[chosen].mean(axis=0),
            self.withstood[chosen].mean(axis=0),
            self.majority,
            spec["thresholds"],
        )
        # Neighbouring thresholds often part the features alike.
        members, which = np.unique(np.concatenate(list(sets.values())), axis=0, return_inverse=True)
        predictors = kernel_features.sums(self.spectrum, self.targets, members)

        def by_set(values: np.ndarray) -> dict[str, np.ndarray]:
            return dict(zip(sets, values[which.ravel()].reshape(len(sets), -1), strict=True))

        result: dict[str, Any] = {
            "thresholds": np.array(spec["thresholds"]),
            "size": by_set(members.sum(axis=1)),
            "accuracy": by_set(self.correct(predictors)[held_out].mean(axis=0)),
        }
        for name, settings in spec["attacks"].items():
            attack = Attack.of(settings)
            withstood = [
                np.asarray(self.attack(predictors, image, attack)[2])
                for image in _job.progress(held_out.tolist(), f"{self.name}, predictors under {name}")
            ]
            result[name] = by_set(np.mean(withstood, axis=0))
        return result


def main(options) -> None:
    spec = options.spec
    jax.config.update("jax_enable_x64", True)
    result: dict[str, Any] = {}
    with storage.read(options.data, "data") as data, storage.read(options.kernels, "infinite kernels") as kernels:
        for name in spec["architectures"]:
            features = Features(name, spec, data, kernels)
            result[name] = features.measure()
            if name in spec["subsets"]["architectures"]:
                result[name]["subsets"] = features.subsets(spec["subsets"])
        result["class_names"] = data["class_names"]
        inputs = {"data": data.checksum, "kernels": kernels.checksum}
    storage.write(options.out, kind="kernel features", data=result, spec=spec, inputs=inputs)


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--data", required=True, help="data artefact")
    parser.add_argument("--kernels", required=True, help="infinite kernels artefact of the same architectures and data")
    parser.add_argument("--out", required=True, help="kernel features artefact to write")
    _job.run(main, parser)
