"""Finite fully connected networks in NTK parametrisation, trained by gradient descent alongside their kernel.

With σ_w² and σ_b² of `robust_tangents.infinite_kernels` their kernel is `fully_connected` in the limit of width, and
in that limit they are trained as that kernel's predictor: the lazy regime.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

from robust_tangents.infinite_kernels import BIAS_VARIANCE, WEIGHT_VARIANCE

Params = list[tuple[jax.Array, jax.Array]]


def init(key: jax.Array, inputs: int, width: int, depth: int, outputs: int) -> Params:
    """Weights and biases of ``depth`` hidden layers and a linear one, all standard normal, float32."""
    sizes = [inputs, *[width] * depth, outputs]
    params = []
    for layer, shape in enumerate(pairwise(sizes)):
        of_weights, of_biases = jax.random.split(jax.random.fold_in(key, layer))
        weights = jax.random.normal(of_weights, shape, jnp.float32)
        params.append((weights, jax.random.normal(of_biases, shape[1:], jnp.float32)))
    return params


def outputs(params: Params, images: jax.Array) -> jax.Array:
    """Outputs (B, C): hˡ = relu(√(σ_w² / n) hˡ⁻¹ W + σ_b b) with n inputs of each layer, the last without relu."""
    hidden = images.reshape(len(images), -1).astype(jnp.float32)
    for layer, (weights, biases) in enumerate(params):
        scale = (WEIGHT_VARIANCE / len(weights)) ** 0.5
        before = scale * (hidden @ weights) + BIAS_VARIANCE**0.5 * biases
        hidden = jax.nn.relu(before) if layer < len(params) - 1 else before
    return hidden


def centered(params: Params, start: Params, images: jax.Array) -> jax.Array:
    """f_θ(x) − f_θ₀(x), (B, C): the function that starts at zero, as the kernel's predictor does."""
    return outputs(params, images) - outputs(start, images)


@partial(jax.jit, static_argnames="count")
def _descend(params: Params, start: Params, images: jax.Array, targets: jax.Array, rate: float, count: int) -> Params:
    goal = targets + outputs(start, images)

    def loss(params: Params) -> jax.Array:
        return jnp.sum((outputs(params, images) - goal) ** 2) / 2

    def step(_: int, params: Params) -> Params:
        return jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(loss)(params))

    return jax.lax.fori_loop(0, count, step, params)


def train(
    start: Params, images: jax.Array, targets: jax.Array, rate: float, steps: Sequence[int]
) -> Iterator[tuple[int, Any]]:
    """Full-batch gradient descent on ½‖f_θ(X) − f_θ₀(X) − Y‖²; (steps, parameters) at each of the given numbers.

    After k steps this is at time t = k · rate of the gradient flow, up to the error of finite steps.

    Args:
        images: (n, H, W, C); targets: (n, outputs).
        rate: step size, below 2 over the kernel's largest eigenvalue.
        steps: increasing numbers of steps at which the network is wanted.

    Source: Tsilivis & Kempe 2022, section 3 (the settings are ours).
    """
    targets, params, done = targets.astype(jnp.float32), start, 0
    for wanted in steps:
        params = _descend(params, start, images, targets, jnp.float32(rate), wanted - done)
        done = wanted
        yield done, params
