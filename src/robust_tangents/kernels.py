"""Empirical neural tangent kernels of a network at a checkpoint.

The gradient of a logit with respect to a layer's weights is a sum over positions t of products of what the layer reads
there and how the logit depends on what it writes there, Σ_t r_t ⊗ d_t. So one pass back through the activations gives
the gradients of all images at once in factored form, which takes far less memory than the gradients do. With p values
read and f written at each of T positions, a layer's part of the kernel costs p·f multiply-adds per pair of images from
the gradients, made layer by layer, or T² (p / C + f) from the factors, Σ_ts (r_it · r_js)(d_it · d_js), where C classes
share what is read: less at the end of a network, where positions are few and channels many.
"""

from collections.abc import Sequence
from functools import cache, partial
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax import lax

from robust_tangents.execution import equal_blocks
from robust_tangents.models import BatchStats, Network, Params
from robust_tangents.models.layers import BatchNorm, Conv, patches

Kind = Literal["trace", "class", "full"]


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


class _Layer(NamedTuple):
    """A layer by what it reads and writes of every image."""

    path: tuple[str, ...]
    names: tuple[str, ...]  # of its parameters
    window: tuple[int, int] | None  # (size, stride) of a convolution
    read: int  # numbers
    positions: int
    width: int  # values that weights read at a position
    features: int  # values written at a position

    @property
    def has_weights(self) -> bool:
        return "kernel" in self.names

    def bytes(self, classes: int) -> int:
        """Of the factors of an image's gradients of so many classes."""
        if not self.has_weights:
            return 4 * classes * self.features * len(self.names)
        return 4 * (self.read + classes * self.features * (self.positions + len(self.names) - 1))

    def factored(self, classes: int) -> bool:
        """Whether products come cheaper from factors, of which classes share those of what is read."""
        return self.positions**2 * (self.width / classes + self.features) < self.width * self.features


def _layers(network: Network, params: Params, batch_stats: BatchStats, shape: tuple[int, ...]) -> list[_Layer]:
    """All layers, those of fewest positions first: in networks the last ones, to which the way back is short."""
    one = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    _, shapes = jax.eval_shape(partial(_observe, network), params, batch_stats, one, None)
    windows, arrays = dict(_convolutions(network, shape)), flatten_dict(params)
    layers = []
    for path in {path[:-1]: None for path in arrays}:
        if path not in shapes:
            raise NotImplementedError(f"{'/'.join(path)}: a layer of this kind has no kernel here yet")
        names = tuple(name for *parent, name in arrays if tuple(parent) == path)
        read, written = shapes[path]
        features = written.shape[-1]
        width = arrays[*path, "kernel"].size // features if "kernel" in names else 0
        layers.append(_Layer(path, names, windows.get(path), read.size, written.size // features, width, features))
    return sorted(layers, key=lambda layer: layer.positions)


@partial(jax.jit, static_argnames="layers")
def _dependences(
    layers: tuple[_Layer, ...], reads: Any, pull_back: Any, directions: jax.Array
) -> tuple[Any, jax.Array]:
    """How k sums directions · logits of n images depend on what weights write, (n, T, k, f) by path; (n, k, size).

    The second are gradients with respect to all parameters but weights: biases, and those of batch norm.
    """
    count = len(next(iter(reads.values())))

    def of_one(direction: jax.Array) -> tuple[Any, jax.Array]:
        [dependences] = pull_back(jnp.broadcast_to(direction, (count, len(direction))))
        of_weights, rest = {}, [jnp.zeros((count, 0))]
        for layer in layers:
            dependence = dependences[layer.path].reshape(count, -1, layer.features)
            for name in layer.names:
                if name == "kernel":
                    of_weights[layer.path] = dependence
                elif name == "scale":
                    rest.append(jnp.sum(reads[layer.path].reshape(dependence.shape) * dependence, axis=1))
                else:
                    rest.append(jnp.sum(dependence, axis=1))
        return of_weights, jnp.concatenate(rest, axis=1)

    return jax.vmap(of_one, out_axes=-2)(directions)


@partial(jax.jit, static_argnames="window")
def _as_weights_see(window: tuple[int, int] | None, read: jax.Array, dependence: jax.Array) -> jax.Array:
    """What weights read at every position, (n, T, p)."""
    return patches(read, *window) if window else read.reshape(*dependence.shape[:2], -1)


@partial(jax.jit, static_argnames="window")
def _gradients(window: tuple[int, int] | None, read: jax.Array, dependence: jax.Array) -> jax.Array:
    """Σ_t d_t ⊗ r_t of n images and k classes, (n, k, f, p), of what is read and (n, T, k, f)."""
    # Patches apart, because XLA would make them anew for each of their uses.
    seen = lax.optimization_barrier(_as_weights_see(window, read, dependence))
    return jnp.einsum("ntkf,ntp->nkfp", dependence, seen)


@partial(jax.jit, static_argnames="across")
def _by_positions(seen: jax.Array, dependence: jax.Array, across: bool) -> tuple[jax.Array, jax.Array]:
    """Positions first, (T, m, p) and (k, T, m, f); or (1, T, m·k, f), with which products are ``across`` classes."""
    by_class = jnp.transpose(dependence, (1, 0, 2, 3) if across else (2, 1, 0, 3))
    return jnp.swapaxes(seen, 0, 1), by_class.reshape(1, len(by_class), -1, by_class.shape[-1]) if across else by_class


@jax.jit
def _products_of_factors(others: tuple[jax.Array, jax.Array], seen: jax.Array, dependence: jax.Array) -> jax.Array:
    """Σ_ts (r_it · r_js)(d_it · d_js) of n images, given as (n, T, p) and (n, T, k, f), and others `_by_positions`.

    Within every class, (n, k, m), or across them, (n, k, m·k).
    """
    others_seen, others_dependence = others
    count = others_seen.shape[1]

    def products(left: jax.Array, right: jax.Array) -> jax.Array:
        made = left.reshape(-1, left.shape[-1]) @ right.reshape(-1, right.shape[-1]).T
        return lax.optimization_barrier(made).reshape(len(left), -1, count, right.shape[1] // count)

    of_seen = products(seen, others_seen)

    # Not in a compiled loop, within which products are half as fast on a CPU.
    made = [
        jnp.sum(of_seen * products(dependence[:, :, c], others_dependence[c % len(others_dependence)]), axis=1)
        for c in range(dependence.shape[2])
    ]
    return jnp.stack(made, axis=1).reshape(len(seen), len(made), -1)


@jax.jit
def _inner_products(rows: jax.Array) -> jax.Array:
    """Of rows (k, n, size) with each other, (k, n, n)."""
    return rows @ rows.mT


class _Kernels:
    """Kernels of all classes, (C, N, N), or one ``across`` classes, (1, N·C, N·C), added up layer by layer."""

    def __init__(
        self, network: Network, params: Params, batch_stats: BatchStats, images: jax.Array, budget: int, across: bool
    ):
        self.network, self.params, self.batch_stats, self.images = network, params, batch_stats, images
        self.budget, self.across = budget, across
        self.layers = _layers(network, params, batch_stats, images.shape[1:])
        matrices, self.rows = (1, network.classes) if across else (network.classes, 1)  # rows of every image
        shape = (matrices, len(images) * self.rows, len(images) * self.rows)
        self.sums: Any = np.zeros(shape, np.float32) if network.execution.on_cpu else jnp.zeros(shape)

        def kept_of(count: int) -> int:
            some = jax.ShapeDtypeStruct((count, *images.shape[1:]), images.dtype)
            kept = jax.eval_shape(partial(_forward, network), params, batch_stats, some)
            return sum(leaf.size for leaf in jax.tree.leaves(kept))

        self.bytes_of_pass = 4 * (kept_of(2) - kept_of(1))  # of an image

    def made(self) -> np.ndarray:
        for layers, together in self.groups():
            for first in range(0, self.network.classes, together):
                classes = range(first, min(first + together, self.network.classes))
                reads, dependences, rest = self.factors(layers, classes)
                part = slice(None) if self.across else slice(classes.start, classes.stop)
                self.add(part, rest)
                for layer in layers:
                    if layer.has_weights:
                        add = self.add_by_factors if layer.factored(len(classes)) else self.add_by_gradients
                        add(part, layer, reads.pop(layer.path), dependences.pop(layer.path))
        made = self.sums if self.network.execution.on_cpu else np.array(self.sums)
        for matrix in made:  # of which the lower half is complete
            np.copyto(matrix, matrix.T, where=~np.tri(len(matrix), dtype=bool))
        return made

    def groups(self) -> list[tuple[tuple[_Layer, ...], int]]:
        """Layers whose factors are kept at the same time, and for how many classes.

        The first group is of as many layers as fit with all classes, others of as many as fit with one: all but the
        first need the whole way back. No group is less than one layer (with all classes, if ``across`` them).
        """
        classes, layers = self.network.classes, self.layers
        groups: list[tuple[tuple[_Layer, ...], int]] = []
        room = self.budget * 2 // 3 // len(self.images)

        def fitting(layers: Sequence[_Layer], together: int) -> int:
            return sum(taken <= room for taken in accumulate(layer.bytes(together) for layer in layers))

        while layers:
            some = max(1, fitting(layers, classes if self.across or not groups else 1))
            group, layers = tuple(layers[:some]), layers[some:]
            most = next((k for k in range(classes, 1, -1) if self.across or fitting(group, k) == some), 1)
            groups.append((group, -(-classes // -(-classes // most))))  # in equal parts
        return groups

    def factors(self, layers: tuple[_Layer, ...], classes: range) -> tuple[Any, Any, Any]:
        """What weights read, by path, and what `_dependences` gives."""
        directions = jnp.eye(self.network.classes)[classes.start : classes.stop]

        def some(images: jax.Array) -> Any:
            reads, pull_back = _forward(self.network, self.params, self.batch_stats, images)
            dependences, rest = _dependences(layers, reads, pull_back, directions)
            return {path: reads[path] for path in dependences}, dependences, rest

        images = min(self.budget // 8, self.network.execution.pass_bytes) // (len(classes) * self.bytes_of_pass)
        return self.network.execution.in_blocks(some, images, self.images)

    def by_matrix(self, rows: Any) -> Any:
        """(n, k, size) as rows of every matrix, (k, n, size) or (1, n·k, size)."""
        return rows.reshape(1, -1, rows.shape[-1]) if self.across else rows.swapaxes(0, 1)

    def add(self, part: slice, gradients: Any) -> None:
        """Inner products of gradients (N, k, size) to a part of the matrices."""
        if not gradients.size:
            return
        rows = self.by_matrix(gradients)
        if self.network.execution.on_cpu:  # by BLAS, which makes only half of a matrix times its own transpose
            for sums, matrix in zip(self.sums[part], rows, strict=True):
                sums += matrix @ matrix.T
        else:
            self.sums = self.sums.at[part].add(_inner_products(rows))

    def add_by_gradients(self, part: slice, layer: _Layer, read: jax.Array, dependence: jax.Array) -> None:
        """Inner products of gradients with respect to weights, of as many features at a time as fit."""
        count, positions, classes, features = dependence.shape
        parts = -(-features // max(1, self.budget // 16 // (4 * count * classes * layer.width)))
        images = self.network.execution.cached_bytes // (4 * layer.width * (positions + classes * features // parts))
        for i in range(parts):
            some = dependence[..., features * i // parts : features * (i + 1) // parts]
            made = self.network.execution.in_blocks(partial(_gradients, layer.window), images, read, some)
            self.add(part, made.reshape(count, classes, -1))

    def add_by_factors(self, part: slice, layer: _Layer, read: jax.Array, dependence: jax.Array) -> None:
        """The same from factors, between strips of images and those up to them."""
        execution, factors = self.network.execution, (_as_weights_see(layer.window, read, dependence), dependence)
        count, positions, *_ = dependence.shape
        pairs = execution.cached_bytes // (8 * self.rows * positions**2)  # of images, whose products are held
        size, strips = equal_blocks(count, int((10 * pairs) ** 0.5))
        for j, (other, old) in enumerate(strips):
            others = _by_positions(*(factor[other : other + size] for factor in factors), across=self.across)
            for begin, repeated in strips[j:]:
                some = (factor[begin : begin + size] for factor in factors)
                made = execution.in_blocks(partial(_products_of_factors, others), pairs // size, *some)
                products = self.by_matrix(made)
                rows, columns = (
                    slice((start + done) * self.rows, (start + size) * self.rows)
                    for start, done in ((begin, repeated), (other, old))
                )
                new = products[:, repeated * self.rows :, old * self.rows :]
                if execution.on_cpu:
                    self.sums[part, rows, columns] += new
                else:
                    self.sums = self.sums.at[part, rows, columns].add(new)


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
    C·N²/2·Σ_layers min(p·f, T²(p/C + f)) multiply-adds (see above); for full, C times that.

    Args:
        images: (N, H, W, channels) in [0, 1].
        kinds: "class": the C kernels K[c,c], (C, N, N); "trace": their mean over classes, (N, N), the kernel of
            Loo et al. 2022 and of neural-tangents' ``trace_axes=(-1,)``; "full": all pairs, (N·C, N·C), with row
            i·C + c for image i and class c.
        budget: bytes that gradients may take, in whatever form; layers are processed in groups that fit, and of one
            layer and class (of all classes for full) no less than all images.

    Returns:
        The kernels asked for, exactly symmetric.

    Raises:
        NotImplementedError: the network has parameters outside of `Conv`, `BatchNorm` and ``nn.Dense``, or uses a layer
            twice.
    """
    count, classes, across = len(images), network.classes, "full" in kinds
    with jax.default_matmul_precision("highest"):
        kernels = _Kernels(network, params, batch_stats, images, budget, across).made()
    result: dict[Kind, np.ndarray] = {}
    if across:
        result["full"] = kernels[0]
        by_class = kernels[0].reshape(count, classes, count, classes)
        kernels = np.stack([by_class[:, c, :, c] for c in range(classes)])
    if "class" in kinds:
        result["class"] = kernels
    if "trace" in kinds:
        result["trace"] = kernels.mean(axis=0)
    return result
