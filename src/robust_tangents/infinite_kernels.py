"""Neural tangent kernels of infinitely wide networks as functions of images, with gradients in the images.

Runs in both environments: fully connected networks have a closed form here, the others come from neural-tangents in
its own environment (`robust_tangents.neural_tangents_kernels`). Numbers are as wide as JAX is told to use; eigenvalues
of these kernels span many orders of magnitude, so callers set ``jax_enable_x64``.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from robust_tangents.errors import InputError

WEIGHT_VARIANCE, BIAS_VARIANCE = 2.0, 0.01
"""Prior variances of all layers. Source: Tsilivis & Kempe 2022, authors' notebook (W_std = √2, b_std = 0.1)."""

FAMILIES = {"fc": "fully_connected", "conv": "convolutional", "myrtle": "myrtle"}
"""Family of networks by the letters of an architecture's name; its digits are the depth, as in fc1 or myrtle5."""


@jax.custom_jvp
def _derivative_of_overlap(cosine: jax.Array) -> jax.Array:
    """κ₀(u) = (π − arccos u) / π, the normalised 2 E[step(a) step(b)] of Gaussians with correlation u."""
    return 1 - jnp.arccos(cosine) / jnp.pi


@_derivative_of_overlap.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # Infinite at |u| = 1, where the kernel has a cusp; u is stationary there, and bounded the product is zero.
    [cosine], [change] = primals, tangents
    slope = 1 / (jnp.pi * jnp.sqrt(jnp.maximum(1 - cosine**2, jnp.finfo(cosine.dtype).eps ** 2)))
    return _derivative_of_overlap(cosine), slope * change


@jax.custom_jvp
def _overlap(cosine: jax.Array) -> jax.Array:
    """κ₁(u) = (√(1 − u²) + u (π − arccos u)) / π, the normalised 2 E[relu(a) relu(b)]; its derivative is κ₀."""
    return jnp.sqrt(jnp.maximum(1 - cosine**2, 0)) / jnp.pi + cosine * _derivative_of_overlap(cosine)


@_overlap.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    [cosine], [change] = primals, tangents
    return _overlap(cosine), _derivative_of_overlap(cosine) * change


def fully_connected(x: jax.Array, points: jax.Array, depth: int) -> jax.Array:
    """NTK of an infinitely wide ReLU network with ``depth`` hidden layers and a linear output, NTK parametrisation.

    With K⁰ = Θ⁰ = σ_w² x·x'/d + σ_b², u = K(x,x') / √(K(x,x) K(x',x')) and κ₀, κ₁ of the arc-cosine kernels:
    Kˡ = σ_w² √(K(x,x) K(x',x')) κ₁(u) / 2 + σ_b² and Θˡ = Kˡ + σ_w² κ₀(u) Θˡ⁻¹ / 2.

    Args:
        x: (A, ...), points: (B, ...): images, flattened here to d values.
        depth: number of hidden layers, at least 1.

    Returns:
        Θ (A, B). Its gradient in x is taken as 0 across the cusp at x = x'.

    Source: Jacot et al. 2018; constants of Tsilivis & Kempe 2022, authors' notebook.
    """
    x, points = x.reshape(len(x), -1), points.reshape(len(points), -1)
    prior = WEIGHT_VARIANCE / x.shape[1]
    kernel = tangent = prior * (x @ points.T) + BIAS_VARIANCE
    left = prior * jnp.sum(x**2, axis=1) + BIAS_VARIANCE
    right = prior * jnp.sum(points**2, axis=1) + BIAS_VARIANCE
    for _ in range(depth):
        length = jnp.sqrt(left)[:, None] * jnp.sqrt(right)
        cosine = jnp.clip(kernel / length, -1, 1)
        kernel = WEIGHT_VARIANCE / 2 * length * _overlap(cosine) + BIAS_VARIANCE
        tangent = kernel + WEIGHT_VARIANCE / 2 * _derivative_of_overlap(cosine) * tangent
        left, right = (WEIGHT_VARIANCE / 2 * side + BIAS_VARIANCE for side in (left, right))
    return tangent


def as_double(images: np.ndarray) -> jax.Array:
    """Images in [0, 1], float64: 8-bit ones are divided by 255, others are taken as they are."""
    return jnp.asarray(images / 255 if images.dtype == np.uint8 else images, jnp.float64)


def _even(count: int, most: int) -> int:
    """Size of equal blocks of ``count`` items, each of at most ``most``."""
    return -(-count // -(-count // max(1, min(count, most))))


def _repeated(array: jax.Array, count: int) -> jax.Array:
    """Filled up to a length with repetitions of the first row, so that all blocks share one compiled program."""
    missing = count - len(array)
    return jnp.concatenate([array, jnp.repeat(array[:1], missing, axis=0)]) if missing else array


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel Θ(x, x') with its gradients in x, evaluated in blocks that keep to a budget of memory.

    Attributes:
        function: images (A, H, W, C) and (B, H, W, C) to kernel values (A, B).
        value_bytes, gradient_bytes: memory for one pair of images, for its value alone and with its gradient.
        budget: bytes that a block may take.
    """

    function: Callable[[jax.Array, jax.Array], jax.Array]
    value_bytes: int
    gradient_bytes: int
    budget: int

    @partial(jax.jit, static_argnums=0)
    def _values(self, x: jax.Array, points: jax.Array) -> jax.Array:
        return self.function(x, points)

    @partial(jax.jit, static_argnums=0)
    def _shared(self, x: jax.Array, points: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        def pair(x: jax.Array, point: jax.Array) -> jax.Array:
            return self.function(x[None], point[None])[0, 0]

        values, gradients = jax.vmap(jax.value_and_grad(pair), (None, 0))(x, points)
        return values @ weights, jnp.tensordot(weights.T, gradients, 1)

    @partial(jax.jit, static_argnums=0)
    def _own(self, x: jax.Array, points: jax.Array, weights: jax.Array) -> jax.Array:
        return jax.grad(lambda x: jnp.sum(self.function(x, points) * weights.T))(x)

    def _blocks(self, points: jax.Array, weights: jax.Array, partners: int) -> Iterator[tuple[jax.Array, jax.Array]]:
        size = _even(len(points), self.budget // (self.gradient_bytes * partners))
        for begin in range(0, len(points), size):
            own = weights[begin : begin + size]
            yield _repeated(points[begin : begin + size], size), jnp.pad(own, ((0, size - len(own)), (0, 0)))

    def __call__(self, x: jax.Array, points: jax.Array | None = None) -> np.ndarray:
        """Θ (A, B); without ``points`` the symmetric Θ(x, x), of which only one half is computed."""
        pairs = max(1, self.budget // self.value_bytes)
        rows = _even(len(x), int(pairs**0.5))
        other, columns = (x, rows) if points is None else (points, _even(len(points), pairs // rows))
        result = np.empty((len(x), len(other)), x.dtype)
        for i in range(0, len(x), rows):
            left = _repeated(x[i : i + rows], rows)
            for j in range(0, i + 1 if points is None else len(other), columns):
                view = result[i : i + rows, j : j + columns]
                block = self._values(left, _repeated(other[j : j + columns], columns))
                view[:] = block[: view.shape[0], : view.shape[1]]
                if points is None:
                    result[j : j + columns, i : i + rows] = (view + view.T) / 2 if i == j else view.T
        return result

    def at(self, x: jax.Array, points: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Values Σ_j Θ(x, x_j) W[j, q] of all q at one image, (Q,), and their gradients in it, (Q, H, W, C).

        Costs one gradient per point whatever the number of functions: n gradients and a product of Q·n·d.
        """
        values, gradients = zip(*(self._shared(x, *block) for block in self._blocks(points, weights, 1)), strict=True)
        return sum(values[1:], values[0]), sum(gradients[1:], gradients[0])

    def gradient(self, x: jax.Array, points: jax.Array, weights: jax.Array) -> jax.Array:
        """Gradient of Σ_j Θ(x_f, x_j) W[j, f] in x_f, each function f at an image of its own, (F, H, W, C)."""
        parts = [self._own(x, *block) for block in self._blocks(points, weights, len(x))]
        return sum(parts[1:], parts[0])


def parsed(architecture: str) -> tuple[str, int]:
    """Family and depth of an architecture: fc1 … fc5, conv1 … conv3, myrtle5, myrtle7 or myrtle10."""
    letters = architecture.rstrip("0123456789")
    return FAMILIES[letters], int(architecture.removeprefix(letters))


def build(architecture: str, image_shape: Sequence[int], budget: int) -> Kernel:
    """Kernel of an architecture (see `parsed`) for images (H, W, C), in blocks of at most ``budget`` bytes.

    Raises:
        InputError: neural-tangents is needed and cannot be imported.
    """
    family, depth = parsed(architecture)
    if family == "fully_connected":
        numbers = 6 * (depth + 1)  # of a pair that XLA holds at once, at most
        function = partial(fully_connected, depth=depth)
        return Kernel(function, 8 * numbers, 8 * (numbers + int(np.prod(image_shape))), budget)
    try:
        from robust_tangents import neural_tangents_kernels
    except ImportError as error:
        raise InputError(
            f"neural-tangents cannot be imported ({error}); run `snakemake neural_tangents`, which needs a package "
            "index, and use .neural-tangents/bin/python; fully connected kernels work without it"
        ) from error
    return neural_tangents_kernels.build(family, depth, image_shape, budget)
