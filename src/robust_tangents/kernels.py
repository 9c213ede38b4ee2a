"""Empirical neural tangent kernels of a network at a checkpoint.

The gradient of a logit with respect to a layer's weights is a sum over positions t of products of what the layer reads
there and how the logit depends on what it writes there, Σ_t r_t ⊗ d_t. So one pass back through the activations gives
the gradients of all images at once in factored form. With p values read and f written at each of T positions, a layer's
part of the kernel costs p·f multiply-adds per pair of images from the products, or T² (p + f) from the factors,
Σ_ts (r_it · r_js)(d_it · d_js): far less at the end of a network, where positions are few and channels many.
"""

from collections.abc import Iterator, Sequence
from functools import cache, partial, reduce
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from robust_tangents.models import BatchStats, Network, Params
from robust_tangents.models.layers import BatchNorm, Conv, patches

Kind = Literal["trace", "class", "full"]


class _Factors(NamedTuple):
    """Gradients Σ_t read_t ⊗ dependence_t of n images: (n, T, p) and (n, T, f)."""

    read: jax.Array
    dependence: jax.Array


@partial(jax.jit, static_argnames="network")
def _observe(network: Network, params: Params, batch_stats: BatchStats, images: jax.Array, added: Any) -> Any:
    """Logits, and what every layer reads and writes, by its path; ``added`` is added to what layers write.

    What batch norm reads is given as its weights see it, after normalising.
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
        if isinstance(layer, BatchNorm):
            neutral = {"scale": jnp.ones(read.shape[-1]), "offset": jnp.zeros(read.shape[-1])}
            variables = {"params": neutral, "batch_stats": layer.variables["batch_stats"]}
            read = layer.clone(parent=None).apply(variables, *args, **kwargs)
        seen[layer.path] = read, written
        return written + added[layer.path] if added else written

    with nn.intercept_methods(observe):
        return network.logits(params, batch_stats, images), seen


@partial(jax.jit, static_argnames="network")
def _forward(network: Network, params: Params, batch_stats: BatchStats, images: jax.Array) -> tuple[Any, Any]:
    """What every layer reads at n images, by its path, and the function that takes ∂/∂logits back to all layers."""
    _, shapes = jax.eval_shape(partial(_observe, network), params, batch_stats, images, None)
    if missing := {path[:-1] for path in flatten_dict(params)} - shapes.keys():
        raise NotImplementedError(f"{'/'.join(min(missing))}: a layer of this kind has no kernel here yet")
    zeros = {path: jnp.zeros(written.shape) for path, (_, written) in shapes.items()}
    _, pull_back, seen = jax.vjp(
        lambda added: _observe(network, params, batch_stats, images, added), zeros, has_aux=True
    )
    return {path: read for path, (read, _) in seen.items()}, pull_back


@cache
def _convolutions(network: Network, shape: tuple[int, ...]) -> tuple[tuple[Any, tuple[int, int]], ...]:
    """(path, (size, stride)) of every convolution of a network for images of a shape."""
    found: dict[Any, tuple[int, int]] = {}

    def note(call, args, kwargs, context):
        if isinstance(layer := context.module, Conv):
            found[layer.path] = layer.size, layer.stride
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(partial(network.module.init, train=True), jax.random.key(0), jnp.zeros((1, *shape)))
    return tuple(found.items())


# On its own, because within `_gradients` XLA would make patches anew for each of their uses.
@partial(jax.jit, static_argnames="convolutions")
def _as_weights_see(reads: Any, convolutions: tuple[tuple[Any, tuple[int, int]], ...]) -> Any:
    """Patches of what convolutions read, (n, T, p); other reads as they are."""
    return reads | {path: patches(reads[path], size, stride) for path, (size, stride) in convolutions}


@jax.jit
def _gradients(params: Params, reads: Any, pull_back: Any, direction: jax.Array) -> list[Any]:
    """Gradients of direction · logits at every image with respect to all parameters: rows (n, size), or `_Factors`."""
    count = len(next(iter(reads.values())))
    [dependences] = pull_back(jnp.broadcast_to(direction, (count, len(direction))))
    gradients: list[Any] = []
    for *path, name in flatten_dict(params):
        dependence = dependences[tuple(path)]
        dependence = dependence.reshape(count, -1, dependence.shape[-1])
        read = reads[tuple(path)].reshape(*dependence.shape[:2], -1)
        (positions, width), features = read.shape[1:], dependence.shape[-1]
        if name in ("offset", "bias"):
            gradients.append(jnp.sum(dependence, axis=1))
        elif name == "scale":
            gradients.append(jnp.sum(read * dependence, axis=1))
        elif positions**2 * (width + features) < width * features:
            gradients.append(_Factors(read, dependence))
        else:
            gradients.append(jnp.einsum("ntp,ntf->npf", read, dependence).reshape(count, -1))
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

    def __init__(
        self, network: Network, params: Params, batch_stats: BatchStats, images: jax.Array, budget: int, classes: int
    ):
        """``classes``: how many are compared with each other."""
        self.network, self.params, self.batch_stats, self.images = network, params, batch_stats, images
        self.directions = jnp.eye(network.classes)
        self.convolutions = _convolutions(network, images.shape[1:])
        self.kept: dict[int, Any] = {}

        def shapes(count: int) -> tuple[Any, Any]:
            some = jax.ShapeDtypeStruct((count, *images.shape[1:]), images.dtype)
            reads, pull_back = jax.eval_shape(partial(_forward, network), params, batch_stats, some)
            patches = jax.eval_shape(partial(_as_weights_see, convolutions=self.convolutions), reads)
            row = jax.eval_shape(_gradients, params, patches, pull_back, self.directions[0])
            return (reads, pull_back), row

        (one, row), (two, _) = shapes(1), shapes(2)
        bytes_of_pass, bytes_of_row = 4 * (_numbers(two) - _numbers(one)), 4 * _numbers(row)
        positions = max((part.read.shape[1] for part in row if isinstance(part, _Factors)), default=1)
        # Up to half of the budget for forward passes (all of them, if they fit, serve all classes), a sixth for making
        # a block and for comparing all positions of two blocks, the rest for finished rows.
        count, passes = len(images), budget // 2 // bytes_of_pass
        rows = max(2, (budget * 5 // 6 - min(passes, count) * bytes_of_pass) // bytes_of_row)
        comparable = int((budget // 8 // 8) ** 0.5) // positions
        useful = network.execution.pass_bytes // bytes_of_pass
        all_fit = rows >= count * classes
        largest = max(1, min(count if all_fit else rows // 2, passes, comparable, useful))
        self.block = -(-count // -(-count // largest))
        self.resident = max(1, rows // self.block - (not all_fit))
        self.keep = passes >= count

    def forward(self, begin: int) -> tuple[Any, Any]:
        """What `_forward` gives for the block that begins with an image."""
        if begin in self.kept:
            return self.kept[begin]
        block = self.images[begin : begin + self.block]
        made = _forward(self.network, self.params, self.batch_stats, block)
        if self.keep:
            self.kept[begin] = made
        return made

    def blocks(self, classes: Sequence[int]) -> list[tuple[int, int]]:
        """(class, first image) of every block."""
        return [(c, begin) for c in classes for begin in range(0, len(self.images), self.block)]

    def gradients(self, block: tuple[int, int]) -> Any:
        c, begin = block
        reads, pull_back = self.forward(begin)
        return _gradients(self.params, _as_weights_see(reads, self.convolutions), pull_back, self.directions[c])

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
        compared = classes if "full" in kinds else 1
        rows = _Rows(network, params, batch_stats, images, budget, compared)
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
