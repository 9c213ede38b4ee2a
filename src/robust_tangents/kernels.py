"""Empirical neural tangent kernels of a network at a checkpoint."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from robust_tangents.models import BatchStats, Network, Params

Kind = Literal["trace", "class", "full"]


@partial(jax.jit, static_argnames="network")
def _gradients(network: Network, params: Params, batch_stats: BatchStats, images: jax.Array, c: jax.Array) -> Any:
    """Gradients of logit ``c`` at every image with respect to all parameters; leaves (n, size of the leaf)."""

    def logit(params: Params, image: jax.Array) -> jax.Array:
        return network.logits(params, batch_stats, image[None])[0, c]

    gradients = jax.vmap(jax.grad(logit), (None, 0))(params, images)
    return [leaf.reshape(len(images), -1) for leaf in jax.tree.leaves(gradients)]


@jax.jit
def _inner_products(left: Any, right: Any) -> jax.Array:
    return sum(a @ b.T for a, b in zip(left, right, strict=True))


class _Rows:
    """Gradients of rows (class, image), made block by block."""

    def __init__(self, network: Network, params: Params, batch_stats: BatchStats, images: jax.Array, budget: int):
        self.make = partial(_gradients, network, params, batch_stats)
        self.images = images
        bytes_per_row = 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
        # Half of the budget, because making a block needs about as much again for the backward pass.
        rows = max(2, budget // 2 // bytes_per_row)
        self.block = min(len(images), max(1, rows // 2))
        self.resident = max(1, rows // self.block - 1)

    def blocks(self, classes: Sequence[int]) -> list[tuple[int, int]]:
        """(class, first image) of every block."""
        return [(c, begin) for c in classes for begin in range(0, len(self.images), self.block)]

    def gradients(self, block: tuple[int, int]) -> Any:
        c, begin = block
        return self.make(self.images[begin : begin + self.block], c)

    def tiles(self, blocks: Sequence[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], tuple[int, int], np.ndarray]]:
        """Inner products of every pair of blocks, once; blocks are made again only if they do not all fit in memory."""
        for first in range(0, len(blocks), self.resident):
            panel = blocks[first : first + self.resident]
            held = [self.gradients(block) for block in panel]
            for i, block in enumerate(panel):
                for j in range(i):
                    yield block, panel[j], np.asarray(_inner_products(held[i], held[j]))
                square = np.asarray(_inner_products(held[i], held[i]))
                yield block, block, (square + square.T) / 2
            for block in blocks[first + self.resident :]:
                streamed = self.gradients(block)
                for other, kept in zip(panel, held, strict=True):
                    yield block, other, np.asarray(_inner_products(streamed, kept))


def empirical_kernels(
    network: Network,
    params: Params,
    batch_stats: BatchStats,
    images: jax.Array,
    kinds: Sequence[Kind],
    budget: int = 2 << 30,
) -> dict[Kind, np.ndarray]:
    """Empirical NTK K[c,c'][i,j] = ∇_θ f_c(x_i) · ∇_θ f_c'(x_j), batch norm in evaluation mode.

    All parameters count, batch-norm scale and offset included; batch-norm statistics are constants. Inner products are
    accumulated over parameter arrays in float32 at full matrix precision. Time grows as C·N gradients plus C·N²·P
    (class, trace) or (C·N)²·P (full) multiply-adds, half of them saved by symmetry.

    Args:
        images: (N, H, W, channels) in [0, 1].
        kinds: "class": the C kernels K[c,c], (C, N, N); "trace": their mean over classes, (N, N), the kernel of
            Loo et al. 2022 and of neural-tangents' ``trace_axes=(-1,)``; "full": all pairs, (N·C, N·C), with row
            i·C + c for image i and class c.
        budget: bytes that gradients may take; rows are processed in blocks that fit.

    Returns:
        The kernels asked for, exactly symmetric.
    """
    count, classes = len(images), network.classes
    with jax.default_matmul_precision("highest"):
        rows = _Rows(network, params, batch_stats, images, budget)
        if "full" in kinds:
            full = np.zeros((count, classes, count, classes), np.float32)
            for (c, i), (d, j), tile in rows.tiles(rows.blocks(range(classes))):
                full[i : i + len(tile), c, j : j + tile.shape[1], d] = tile
                full[j : j + tile.shape[1], d, i : i + len(tile), c] = tile.T
            by_class = np.stack([full[:, c, :, c] for c in range(classes)])
        else:
            by_class = np.zeros((classes, count, count), np.float32)
            for c in range(classes):
                for (_, i), (_, j), tile in rows.tiles(rows.blocks([c])):
                    by_class[c, i : i + len(tile), j : j + tile.shape[1]] = tile
                    by_class[c, j : j + tile.shape[1], i : i + len(tile)] = tile.T
    result: dict[Kind, np.ndarray] = {}
    if "trace" in kinds:
        result["trace"] = by_class.mean(axis=0)
    if "class" in kinds:
        result["class"] = by_class
    if "full" in kinds:
        result["full"] = full.reshape(count * classes, count * classes)
    return result
