"""Train wide networks lazily and measure how attacks made on their infinite-width kernel alone fool them."""

import _job

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from robust_tangents import infinite_kernels, kernel_features, lazy_networks, randomness, storage
from robust_tangents.attacks.pgd import Attack, pgd
from robust_tangents.execution import Execution
from robust_tangents.finite import require_finite


@jax.jit
def function(params: Any, start: Any, images: jax.Array) -> jax.Array:
    """Outputs of a network that starts at zero."""
    return lazy_networks.centered(params, start, images)


@jax.jit
def network_logits(params: Any, start: Any, images: jax.Array) -> jax.Array:
    return kernel_features.logits(function(params, start, images))


@jax.jit
def loss_gradients(params: Any, start: Any, images: jax.Array, targets: jax.Array) -> jax.Array:
    """Input gradients of ½‖f − y‖², (m, d)."""

    def loss(images: jax.Array) -> jax.Array:
        return jnp.sum((function(params, start, images) - targets) ** 2) / 2

    return jax.grad(loss)(images).reshape(len(images), -1)


class Kernel:
    """The predictors of the kernel at all times, and the test images attacked on each."""

    def __init__(self, spec: dict, data: storage.Artefact):
        self.points, self.images = (infinite_kernels.as_double(data[f"{part}/images"]) for part in ("train", "test"))
        self.labels, classes = jnp.asarray(data["test/labels"]), len(data["class_names"])
        self.targets = kernel_features.targets(data["train/labels"], classes)
        self.test_targets = jnp.asarray(kernel_features.targets(data["test/labels"], classes))
        self.attack = Attack.of(spec["attack"])
        kernel = infinite_kernels.build(spec["architecture"], self.points.shape[1:], spec["budget_mb"] * 10**6)
        spectrum = kernel_features.spectrum(kernel(self.points))
        self.rate = spec["rate"] / float(spectrum.eigenvalues[0])
        predictors = kernel_features.joined(
            *(kernel_features.predictor(spectrum, self.targets, self.rate * steps) for steps in spec["steps"])
        )
        rows = jnp.asarray(kernel(self.images, self.points))
        outputs = predictors.outputs_everywhere(rows)  # (m, T, C)
        self.accuracy = np.asarray(kernel_features.correct(outputs, self.labels[:, None]).mean(axis=0))
        moved, withstood, gradients = [], [], []
        key = randomness.key(spec["study_seed"], 0, "evaluation")
        for i in _job.progress(range(len(self.images)), "images"):
            label = int(self.labels[i])
            x, of_parts = kernel_features.attacked(
                kernel, self.points, predictors, self.images[i], label, self.attack, jax.random.fold_in(key, i)
            )
            moved.append(x)
            withstood.append(kernel_features.withstands(kernel, self.points, predictors, x, label))
            # ∇ₓ ½‖f − y‖² = Σ_c (f_c − y_c) ∇ₓ f_c
            of_outputs = jnp.einsum("fq...,fqc->fc...", of_parts, predictors.loadings)
            gradients.append(jnp.einsum("fc,fc...->f...", outputs[i] - self.test_targets[i], of_outputs))
        self.attacked = jnp.stack(moved, axis=1).astype(jnp.float32)  # (T, m, H, W, C)
        self.robust_accuracy = np.mean(np.stack(withstood), axis=0)
        self.gradients = jnp.stack(gradients, axis=1).reshape(len(spec["steps"]), len(moved), -1)

    def measure(self, params: Any, start: Any, time: int, key: jax.Array) -> dict[str, float]:
        """A network at one time: accuracies on clean images, under its own and the kernel's attack, and the cosine."""
        images = self.images.astype(jnp.float32)
        predict = Partial(network_logits, params, start)
        own = pgd(predict, images, self.labels, key, self.attack, Execution("xla", compiled_loops=True))
        mine = loss_gradients(params, start, images, self.test_targets.astype(jnp.float32))
        theirs = self.gradients[time]
        lengths = jnp.linalg.norm(mine, axis=1) * jnp.linalg.norm(theirs, axis=1)

        def accuracy(images: jax.Array) -> float:
            return float((jnp.argmax(predict(images), axis=-1) == self.labels).mean())

        return {
            "clean": accuracy(images),
            "own": accuracy(own),
            "kernel": accuracy(self.attacked[time]),
            "cosine": float((jnp.sum(mine * theirs, axis=1) / lengths).mean()),
        }


def main(options) -> None:
    spec = options.spec
    result: dict[str, Any] = {}
    jax.config.update("jax_enable_x64", True)
    _, depth = infinite_kernels.parsed(spec["architecture"])
    with storage.read(options.data, "data") as data:
        kernel = Kernel(spec, data)
        inputs = {"data": data.checksum}
    result["predictor"] = {"clean": kernel.accuracy, "own": kernel.robust_accuracy}
    result["steps"] = np.array(spec["steps"])
    result["rate"] = np.float64(kernel.rate)
    points, targets = kernel.points.astype(jnp.float32), jnp.asarray(kernel.targets)
    values = int(np.prod(points.shape[1:]))
    for seed in spec["seeds"]:
        for width in _job.progress(spec["widths"], f"seed {seed}, widths"):
            key = randomness.key(spec["study_seed"], seed, "initialisation", width)
            start = lazy_networks.init(key, values, width, depth, targets.shape[1])
            noise = randomness.key(spec["study_seed"], seed, "evaluation", width)
            rows = []
            reached = enumerate(lazy_networks.train(start, points, targets, kernel.rate, spec["steps"]))
            for time, (steps, params) in reached:
                failure = f"tsilivis_fig2, width {width}, seed {seed}: training diverged within {steps} steps"
                require_finite(failure, "lower figures.tsilivis_fig2.rows.0.rate", params=params)
                rows.append(kernel.measure(params, start, time, noise))
            result.setdefault(f"seed{seed}", {})[f"width{width}"] = {
                name: np.array([row[name] for row in rows]) for name in rows[0]
            }
    storage.write(options.out, kind="lazy networks", data=result, spec=spec, inputs=inputs)


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--data", required=True, help="data artefact")
    parser.add_argument("--out", required=True, help="lazy networks artefact to write")
    _job.run(main, parser)
