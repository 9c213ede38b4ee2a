"""Empirical neural tangent kernels of a network at a checkpoint.

The gradient of a logit with respect to a layer's weights is a sum over positions t of products of what the layer reads
there and how the logit depends on what it writes there, Σ_t r_t ⊗ d_t. So one pass back through the activations gives
the gradients of all images at once in factored form. With p values read and f written at each of T positions, a layer's
part of the kernel costs p·f multiply-adds per pair of images from the products, or T² (p + f) from the factors,
Σ_ts (r_it · r_js)(d_it · d_js): far less at the end of a network, where positions are few and channels many.
"""

from collections.abc import Iterator, Sequence
from functools import partial, reduce
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax import lax

from robust_tangents.models import BatchStats, Network, Params
from robust_tangents.models.layers import BatchNorm, Conv

Kind = Literal["trace", "class", "full"]


class _Factors(NamedTuple):
    """Gradients Σ_t read_t ⊗ dependence_t of n images: (n, T, p) and (n, T, f)."""

    read: jax.Array
    dependence: jax.Array


def _patches(x: jax.Array, size: int, stride: int) -> jax.Array:
    """What a SAME convolution reads at each of its T positions, (n, T, size·size·C)."""
    count, height, width, channels = x.shape
    pads = lax.padtype_to_pads((height, width), (size, size), (stride, stride), "SAME")
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows, columns = ((length - 1) // stride * stride + 1 for length in (height, width))
    windows = [x[:, i : i + rows : stride, j : j + columns : stride] for i in range(size) for j in range(size)]
    return jnp.concatenate(windows, axis=-1).reshape(count, -1, size * size * channels)


@partial(jax.jit, static_argnames="network")
def _observe(network: Network, params: Params, batch_stats: BatchStats, images: jax.Array, added: Any) -> Any:
    """Logits, and what every layer reads and writes, by its path; ``added`` is added to what layers write.

    Reading is meant as the weights see it: patches of images for a convolution, normalised values for batch norm.
    """
    seen: dict[Any, tuple[jax.Array, jax.Array]] = {}

    def observe(call, args, kwargs, context):
        layer, written = context.module, call(*args, **kwargs)
        # Without a parent: the copy of a batch norm that is made below.
        if context.method_name != "__call__" or not isinstance(layer, Conv | BatchNorm | nn.Dense) or not layer.path:
            return written
        if layer.path in seen:
            raise NotImplementedError(f"{'/'.join(layer.path)}: a layer that is used twice has no kernel here yet")
        read = args[0]
        if isinstance(layer, Conv):
            read = _patches(read, layer.size, layer.stride)
        elif isinstance(layer, BatchNorm):
            neutral = {"scale": jnp.ones(read.shape[-1]), "offset": jnp.zeros(read.shape[-1])}
            variables = {"params": neutral, "batch_stats": layer.variables["batch_stats"]}
            read = layer.clone(parent=None).apply(variables, *args, **kwargs)
        seen[layer.path] = read, written
        return written + added[layer.path] if added else written

    with nn.intercept_methods(observe):
        return network.logits(params, batch_stats, images), seen


@partial(jax.jit, static_argnames="network")
def _gradients(network: Network, params: Params, batch_stats: BatchStats, images: jax.Array, c: jax.Array) -> list[Any]:
    """Gradients of logit ``c`` at every image with respect to all parameters: rows (n, size), or `_Factors`."""
    _, shapes = jax.eval_shape(partial(_observe, network), params, batch_stats, images, None)
    layers: dict[Any, dict[str, Any]] = {}
    for (*path, name), value in flatten_dict(params).items():
        layers.setdefault(tuple(path), {})[name] = value
    if missing := layers.keys() - shapes.keys():
        raise NotImplementedError(f"{'/'.join(min(missing))}: a layer of this kind has no kernel here yet")
    zeros = {path: jnp.zeros(written.shape) for path, (_, written) in shapes.items()}
    logits, pull_back, seen = jax.vjp(
        lambda added: _observe(network, params, batch_stats, images, added), zeros, has_aux=True
    )
    [dependences] = pull_back(jnp.broadcast_to(jax.nn.one_hot(c, logits.shape[-1]), logits.shape))
    gradients: list[Any] = []
    for path, weights in layers.items():
        dependence = dependences[path].reshape(len(images), -1, dependences[path].shape[-1])
        read = seen[path][0].reshape(*dependence.shape[:2], -1)
        if "scale" in weights:
            gradients.append(jnp.sum(read * dependence, axis=1))
        if "offset" in weights or "bias" in weights:
            gradients.append(jnp.sum(dependence, axis=1))
        if "kernel" in weights:
            (positions, width), features = read.shape[1:], dependence.shape[-1]
            if positions**2 * (width + features) < width * features:
                gradients.append(_Factors(read, dependence))
            else:
                products = jnp.einsum("ntp,ntf->npf", read, dependence)
                gradients.append(products.reshape(len(images), -1))
    return gradients


def _part(left: Any, right: Any) -> jax.Array:
    if isinstance(left, _Factors):
        alike = [jnp.einsum("ntp,msp->ntms", *pair) for pair in zip(left, right, strict=True)]
        return jnp.einsum("ntms,ntms->nm", *alike)
    return left @ right.T


@jax.jit
def _inner_products(left: list[Any], right: list[Any]) -> jax.Array:
    return reduce(jnp.add, map(_part, left, right))


def _numbers(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


class _Rows:
    """Gradients of rows (class, image), made block by block."""

    def __init__(self, network: Network, params: Params, batch_stats: BatchStats, images: jax.Array, budget: int):
        self.make = partial(_gradients, network, params, batch_stats)
        self.images = images
        row = jax.eval_shape(partial(_gradients, network), params, batch_stats, images[:1], 0)
        positions = max((part.read.shape[1] for part in row if isinstance(part, _Factors)), default=1)
        on_the_way = jax.eval_shape(partial(_observe, network), params, batch_stats, images[:1], None)
        # Half of the budget for finished rows; the other half for making a block, and for comparing all positions of
        # two blocks.
        rows = max(2, budget // 2 // (4 * _numbers(row)))
        makeable = budget // 2 // (4 * _numbers(on_the_way))
        comparable = int((budget // 4 // 8) ** 0.5) // positions
        self.block = max(1, min(len(images), rows // 2, makeable, comparable))
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
    accumulated over layers in float32 at full matrix precision. Time grows as C·N gradients plus, for class and trace,
    C·N²·Σ_layers min(p·f, T²(p + f)) multiply-adds (see above), half of them saved by symmetry; for full, C times that.

    Args:
        images: (N, H, W, channels) in [0, 1].
        kinds: "class": the C kernels K[c,c], (C, N, N); "trace": their mean over classes, (N, N), the kernel of
            Loo et al. 2022 and of neural-tangents' ``trace_axes=(-1,)``; "full": all pairs, (N·C, N·C), with row
            i·C + c for image i and class c.
        budget: bytes that gradients may take; rows are processed in blocks that fit.

    Returns:
        The kernels asked for, exactly symmetric.

    Raises:
        NotImplementedError: the network has parameters outside of `Conv`, `BatchNorm` and ``nn.Dense``, or uses a layer
            twice.
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
