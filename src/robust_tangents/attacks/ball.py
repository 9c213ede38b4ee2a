"""Where attacked images may be: a ball around the image, inside the box of pixel values."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from robust_tangents.errors import InputError

Predictor = Callable[[jax.Array], jax.Array]
"""Images (B, H, W, C) to logits (B, classes). A `jax.tree_util.Partial`, so that parameters are not compiled in."""

Norm = Literal["linf", "l2"]

# Rounding of images that were scaled or moved in float32.
_ROUNDING = 1e-5
# Steps towards the length of a projection; what is missing shrinks by a constant factor in each.
_SCALINGS = 4


@partial(jax.tree_util.register_dataclass, data_fields=("epsilon", "low", "high"), meta_fields=("norm",))
@dataclass(frozen=True)
class Ball:
    """Images within ``epsilon`` of an image, in ℓ∞ ("linf") or ℓ2 over all its values ("l2"), in the box [low, high].

    All lengths are in the units of the images. A pytree of numbers, so that balls of one norm share compiled programs.
    """

    epsilon: float | jax.Array
    norm: Norm = "linf"
    low: float | jax.Array = 0.0
    high: float | jax.Array = 1.0

    def check(self, images: jax.Array | np.ndarray) -> None:
        """Refuse images that lie outside the box, from which no attack would stay in the ball. Traced ones pass.

        Raises:
            InputError: an image has a value outside [low, high], or one that is not finite; 8-bit images, which are
                taken to [0, 1], in another box.
        """
        if isinstance(images, jax.core.Tracer) or not images.size:
            return
        if images.dtype == np.uint8:
            if (float(self.low), float(self.high)) != (0, 1):
                raise InputError(
                    f"attack: 8-bit images are divided by 255, but the box is [{float(self.low):.4g}, "
                    f"{float(self.high):.4g}]; give them as floating-point numbers in the units of the box"
                )
            return
        least, most = float(images.min()), float(images.max())
        if not (least >= float(self.low) - _ROUNDING and most <= float(self.high) + _ROUNDING):
            raise InputError(
                f"attack: images have values from {least:.4g} to {most:.4g}, outside the box [{float(self.low):.4g}, "
                f"{float(self.high):.4g}]; scale them to it, or give the attack their box (low, high) and a radius in "
                "the same units"
            )

    def clip(self, x: jax.Array) -> jax.Array:
        """The nearest images inside the box."""
        return jnp.clip(x, self.low, self.high)

    def project(self, x: jax.Array, images: jax.Array) -> jax.Array:
        """The nearest points that are in the ball around ``images`` and in the box.

        In ℓ2 they are clip(x₀ + s (x − x₀)), with the largest s ≤ 1 that keeps them in the ball; s ← s ε / length comes
        near it from below, since the length of what is clipped is concave in s.
        """
        offset = x - images
        if self.norm == "linf":
            return self.clip(images + jnp.clip(offset, -self.epsilon, self.epsilon))
        scale = jnp.ones_like(offset[:, :1, :1, :1])
        scale = jnp.minimum(scale, self.epsilon / jnp.maximum(length(offset), 1e-12))
        for _ in range(_SCALINGS):
            inside = self.clip(images + scale * offset) - images
            scale = jnp.minimum(1, scale * self.epsilon / jnp.maximum(length(inside), 1e-12))
        return self.clip(images + scale * offset)

    def direction(self, gradient: jax.Array, x: jax.Array) -> jax.Array:
        """Steepest ascent of unit length in the norm: the sign in ℓ∞, the unit vector in ℓ2; zero where all is zero.

        In ℓ2, coordinates of x on a face of the box that could only leave it take no part, since they would use up
        length for nothing.
        """
        if self.norm == "linf":
            return jnp.sign(gradient)
        leaves = ((x <= self.low) & (gradient < 0)) | ((x >= self.high) & (gradient > 0))
        return unit(jnp.where(leaves, 0, gradient))

    def distance(self, x: jax.Array, images: jax.Array) -> jax.Array:
        """Length of x − images in the norm, image by image, (B,)."""
        offset = x - images
        if self.norm == "linf":
            return jnp.max(jnp.abs(offset), axis=(1, 2, 3))
        return length(offset)[:, 0, 0, 0]

    def random(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """A random image of the ball for each image, from a key of its own; clipped to the box.

        ℓ∞: uniform in the ball. ℓ2: a uniformly random direction, by a uniform share of the radius.
        """

        def draw(key: jax.Array) -> jax.Array:
            if self.norm == "linf":
                return jax.random.uniform(key, images.shape[1:], images.dtype, -1, 1)
            of_direction, of_length = jax.random.split(key)
            direction = unit(jax.random.normal(of_direction, (1, *images.shape[1:]), images.dtype))[0]
            return direction * jax.random.uniform(of_length, (), images.dtype)

        return self.clip(images + self.epsilon * jax.vmap(draw)(keys))


def length(x: jax.Array) -> jax.Array:
    """ℓ2 norm of each image of a batch, (B, 1, 1, 1)."""
    return jnp.sqrt(jnp.sum(x**2, axis=(1, 2, 3), keepdims=True))


def unit(x: jax.Array) -> jax.Array:
    """Images of a batch over their ℓ2 norms, without underflow; what is zero stays zero."""
    largest = jnp.max(jnp.abs(x), axis=(1, 2, 3), keepdims=True)
    x = x / jnp.where(largest > 0, largest, 1)
    return x / jnp.maximum(length(x), 1)
