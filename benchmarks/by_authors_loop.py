"""The peer in adversarial training: the loop of the authors' releases around our network, in JAX.

Python dispatches every attack step, and noise comes from NumPy on the host.
"""

import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "src"))

import jax
import jax.numpy as jnp
import numpy as np
import optax
from side import converse, problem, resnet

from robust_tangents import models
from robust_tangents.execution import Execution


def epoch(given, steps):
    width = given["params"]["stem_conv"]["kernel"].shape[-1]
    network = models.build(resnet(width), 10, Execution("xla", compiled_loops=False))
    optimiser = optax.sgd(0.01, momentum=0.9)
    rng = np.random.default_rng(0)

    def loss(logits, y):
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def attack_step(params, batch_stats, x, clean, y):
        gradient = jax.grad(lambda x: loss(network.logits(params, batch_stats, x), y))(x)
        x = jnp.clip(x + 2 / 255 * jnp.sign(gradient), 0, 1)
        return clean + jnp.clip(x - clean, -8 / 255, 8 / 255)

    @jax.jit
    def step(params, batch_stats, memory, x, y):
        def objective(params):
            logits, new = network.train(params, batch_stats, x)
            return loss(logits, y), new

        gradient, batch_stats = jax.grad(objective, has_aux=True)(params)
        update, memory = optimiser.update(gradient, memory)
        return optax.apply_updates(params, update), batch_stats, memory

    def run():
        params, batch_stats = jax.tree.map(jnp.asarray, (given["params"], given["batch_stats"]))
        memory = optimiser.init(params)
        for begin in range(0, len(given["order"]), 128):
            rows = given["order"][begin : begin + 128]
            clean, y = jnp.asarray(given["images"][rows]), jnp.asarray(given["labels"][rows])
            noise = jnp.asarray(rng.uniform(-8 / 255, 8 / 255, clean.shape).astype(np.float32))
            x = clean + 0 * noise  # drawn and sent as there, and then left out: every side is to start at the images
            for _ in range(steps):
                x = attack_step(params, batch_stats, x, clean, y)
            params, batch_stats, memory = step(params, batch_stats, memory, x, y)
        return np.asarray(params["stem_conv"]["kernel"])

    return run


if __name__ == "__main__":
    converse({"epoch": partial(epoch, problem(Path(sys.argv[1]))["32x32"], 10)})
