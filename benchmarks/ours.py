"""Our side: the engines as the workflow's jobs use them."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "src"))

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from side import CNN_MEGA, MATMUL, converse, problem, resnet

from robust_tangents import execution, kernel_measures, models
from robust_tangents.attacks.pgd import Attack, pgd
from robust_tangents.kernels import Kind, empirical_kernels
from robust_tangents.linearization import Expansion
from robust_tangents.memory import keep_memory
from robust_tangents.training import State, Trainer

SGD = {"batch_size": 128, "learning_rate": [[0, 0.01]], "momentum": 0.9, "weight_decay": 0}


class Given:
    """A network of one image size, with its parameters and images."""

    def __init__(self, given: dict[str, Any]):
        self.images, self.labels = jnp.asarray(given["images"]), jnp.asarray(given["labels"])
        stem = given["params"].get("stem_conv")
        model = resnet(stem["kernel"].shape[-1]) if stem else CNN_MEGA
        self.network = models.build(model, 10, execution.choose(self.images.shape[1:], model))
        self.params, self.batch_stats = jax.tree.map(jnp.asarray, (given["params"], given["batch_stats"]))


def kernel(given: Given, budget: int, count: int, kind: Kind = "trace"):
    images = given.images[:count]

    def run():
        return empirical_kernels(given.network, given.params, given.batch_stats, images, [kind], budget)[kind]

    return run


def attack(given: Given, steps: int, batch: int = 128):
    predict = Partial(given.network.logits, given.params, given.batch_stats)
    settings = Attack(8 / 255, 2 / 255, steps, random_start=False)
    execute = given.network.execution
    x, y = given.images[:batch], given.labels[:batch]
    return lambda: jax.block_until_ready(pgd(predict, x, y, jax.random.key(0), settings, execute))


def loss(model: Any, params: Any, batch_stats: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    logits, _ = model.train(params, batch_stats, images)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()


def gradient(given: Given, linearized: bool = False, batch: int = 128):
    model: Any = Expansion(given.network) if linearized else given.network
    at = (given.params, given.batch_stats)
    if linearized:
        at = model.start(*at, centered=False)
    options = given.network.execution.compiler_options
    compiled = jax.jit(jax.grad(partial(loss, model)), compiler_options=options)
    x, y = given.images[:batch], given.labels[:batch]
    return lambda: jax.block_until_ready(compiled(*at, x, y))["stem_conv"]["kernel"]


def epoch(given: Given, steps: int):
    """Adversarial training on pure adversarial batches of 128: all images once."""
    attack = {"norm": "linf", "epsilon": 8 / 255, "step_size": 2 / 255, "steps": steps, "random_start": False}
    adversarial = {"objective": "adversarial", "adversarial_steps": "pure", "attack_mode": "evaluation"}
    spec = {**SGD, **adversarial, "attack": attack}
    trainer = Trainer(given.network, given.images, given.labels, spec, (0, 0))
    start = State.start(given.params, given.batch_stats)

    def run():
        [(_, state, _)] = trainer.epoch(start, 0)
        return np.asarray(state.params["stem_conv"]["kernel"])

    return run


def matmul(size: int, precision: str | None = None):
    """A matrix product in the precision of kernels ("highest"), or in JAX's default, that of attacks and training."""
    a = jnp.asarray(np.random.default_rng(0).normal(size=(size, size)).astype(np.float32))
    product = jax.jit(partial(jnp.matmul, precision=precision))
    return lambda: jax.block_until_ready(product(a, a))


def measures(count: int = 500, checkpoints: int = 20):
    """What the workflow measures of the trace and class kernels of one run."""
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(checkpoints, 10, count, 600)).astype(np.float32)
    by_class = roots @ roots.swapaxes(2, 3)
    trace, labels = by_class.mean(axis=1), rng.integers(0, 10, count)

    def run():
        return (
            kernel_measures.velocity(list(trace), range(checkpoints)),
            [kernel_measures.distance(kernel, trace[-1]) for kernel in trace],
            [kernel_measures.effective_rank(kernel) for kernel in trace],
            [kernel_measures.specialization(kernels, labels) for kernels in by_class],
        )

    return run


if __name__ == "__main__":
    keep_memory()
    everything = problem(Path(sys.argv[1]))
    large, small, budget = Given(everything["32x32"]), Given(everything["8x8"]), int(everything["budget"])
    size = MATMUL[jax.default_backend()]
    tasks = {
        "pgd 32x32": lambda: attack(large, 20),
        "pgd 8x8": lambda: attack(small, 20),
        "gradient": lambda: gradient(large),
        "gradient 8x8": lambda: gradient(small),
        "linearized gradient": lambda: gradient(large, linearized=True),
        "linearized gradient 8x8": lambda: gradient(small, linearized=True),
        "epoch": lambda: epoch(large, 10),
        "pgd of an epoch's batch": lambda: attack(large, 10),
        "matmul": lambda: matmul(size, "highest"),
        "matmul by default": lambda: matmul(size),
        "measures": measures,
        "full kernel 100": lambda: kernel(Given(everything["CNN_mega"]), budget, 100, "full"),
    }
    for count in (100, 200, 400, 500, 800, 1600):
        tasks[f"kernel {count}"] = partial(kernel, large, budget, count)
    converse(tasks)
