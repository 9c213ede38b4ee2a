"""The one place that decides how work is laid out for the device at hand."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from robust_tangents import operations

# See `robust_tangents.models.layers.Conv`.
Convolution = Literal["xla", "rows", "columns", "columns in forward"]

# Images whose activations stay in a core's cache; 16 to 64 are as good (networks of widths 8 to 64 at 32×32).
_PART = 32
_PART_PIXELS = _PART * 32 * 32
# Images of a chunk, the last of which is filled up: no slower than larger ones, and less is filled up.
_CHUNK = 16


Carry = TypeVar("Carry")


@dataclass(frozen=True)
class Execution:
    """How to convolve, and whether loops over steps are compiled or stepped from Python."""

    convolution: Convolution
    compiled_loops: bool
    on_cpu: bool = True

    @property
    def pass_bytes(self) -> int:
        """Of a forward pass, beyond which larger blocks of a kernel are no faster."""
        return 1 << (28 if self.on_cpu else 32)

    @property
    def cached_bytes(self) -> int:
        """Of what is made and used at once, beyond which larger blocks are no faster."""
        return 1 << (22 if self.on_cpu else 28)

    @property
    def compiler_options(self) -> dict[str, str] | None:
        """For programs that take a whole batch, to `jax.jit`.

        On a CPU, XLA leaves most convolutions to a library that is fastest on one thread, but uses no other.
        """
        if self.compiled_loops or _threads() == 1 or not jax.__version__.startswith("0.10."):
            return None
        return {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}

    def loop(
        self, start: int | jax.Array, stop: int | jax.Array, body: Callable[[Any, Carry], Carry], carry: Carry
    ) -> Carry:
        """``carry = body(i, carry)`` for start ≤ i < stop; a body that is stepped from Python should be compiled."""
        if self.compiled_loops:
            return lax.fori_loop(start, stop, body, carry)
        for i in range(int(start), int(stop)):
            carry = body(i, carry)
        return carry

    def in_chunks(self, function: Callable[..., Any], largest: int, *batches: Any) -> Any:
        """``function(*batches)`` from chunks of one size, the last filled up with repeated rows; results are NumPy's.

        For functions that treat every row by itself, on ever fewer rows: one compiled program serves all numbers of
        them. On a CPU chunks are small, and taken on all threads at once.

        Args:
            function: takes arrays of one length and returns a pytree of arrays of that length.
            largest: rows that may be taken at once.
            batches: arrays of one length, at least 1.
        """
        count = len(jax.tree.leaves(batches[0])[0])
        size = min(largest, _CHUNK) if self.on_cpu else largest
        chunks = [np.resize(np.arange(begin, min(begin + size, count)), size) for begin in range(0, count, size)]

        def take(rows: np.ndarray) -> Any:
            made = function(*jax.tree.map(lambda batch: batch[rows], batches))
            return jax.tree.map(np.asarray, made) if self.on_cpu else made

        if self.on_cpu and _threads() > 1 and len(chunks) > 1:
            with ThreadPoolExecutor(_threads()) as pool:
                parts = list(pool.map(take, chunks))
        else:
            parts = [take(rows) for rows in chunks]  # an accelerator computes while the next one is prepared
        return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves])[:count], *parts)

    def by_parts(self, function: Callable[..., Any], *batches: jax.Array) -> Any:
        """``function(*batches)``, where a loop steps from Python a few images at a time and on all threads at once.

        For functions that treat every image by itself; the first batch is of images. XLA's convolutions use several
        threads poorly, and the activations of few images stay in the cache.
        """
        count, height, width = batches[0].shape[:3]
        size = max(_PART, min(_PART_PIXELS // (height * width), -(-count // _threads())))
        if self.compiled_loops or count <= size:
            return function(*batches)
        return jax.tree.map(jnp.asarray, self._in_blocks(function, size, *batches))

    def in_blocks(self, function: Callable[..., Any], largest: int, *batches: Any) -> Any:
        """``function(*batches)`` from blocks of no more than ``largest`` images, on a CPU few, on all threads at once.

        Blocks are of one size, so that one compiled program serves all; the last may repeat some of the one before.
        On a CPU results are NumPy's, which blocks are written into and taken from without further copies.
        """
        return self._in_blocks(function, min(largest, _PART) if self.on_cpu else largest, *batches)

    def _in_blocks(self, function: Callable[..., Any], largest: int, *batches: Any) -> Any:
        count = len(batches[0])
        size, blocks = equal_blocks(count, largest)

        def block(start: int) -> Any:
            return function(*(batch[start : start + size] for batch in batches))

        if not self.on_cpu:
            made = [jax.tree.flatten(block(start)) for start, _ in blocks]
            structure, joined = made[0][1], []
            for _ in range(len(made[0][0])):  # one by one, so that only one is there twice
                parts = [leaves.pop(0)[old:] for (leaves, _), (_, old) in zip(made, blocks, strict=True)]
                joined.append(jnp.concatenate(parts))
            return jax.tree.unflatten(structure, joined)
        whole, lock = None, Lock()

        def write(start: int) -> None:
            nonlocal whole
            made = jax.tree.map(np.asarray, block(start))
            with lock:
                if whole is None:
                    whole = jax.tree.map(lambda part: np.empty((count, *part.shape[1:]), part.dtype), made)
            jax.tree.map(lambda to, part: np.copyto(to[start : start + size], part), whole, made)

        with ThreadPoolExecutor(_threads()) as pool:
            list(pool.map(write, [start for start, _ in blocks]))
        return whole

    def compile(self, function: Callable, **options) -> Callable:
        """``jax.jit`` around a function with such loops, where the loops are compiled."""
        return jax.jit(function, **options) if self.compiled_loops else function


def equal_blocks(count: int, largest: int) -> tuple[int, list[tuple[int, int]]]:
    """Size of equal blocks of no more than ``largest`` (and no less than one) that cover ``count``, and those blocks.

    Of each, where it begins and how many of its first ones are those of the block before.
    """
    blocks = max(1, -(-count // max(1, largest)))
    size = -(-count // blocks)
    starts = [min(i * size, count - size) for i in range(blocks)]
    return size, [(start, i * size - start) for i, start in enumerate(starts)]


def _threads() -> int:
    """Those that this process may use: NPROC, by which XLA goes as well, or its cores."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("NPROC") or available)


def choose(image_shape: Sequence[int], model: Mapping[str, Any], backend: str | None = None) -> Execution:
    """Layout for a model's settings and images of shape (H, W, C).

    On a CPU, convolutions lose their fast path inside compiled loops, so there loops step from Python, unless the
    network is very small and products of rows, which do not suffer, are fast; on accelerators the loop belongs on the
    device.
    """
    if (backend or jax.default_backend()) != "cpu":
        return Execution("xla", compiled_loops=True, on_cpu=False)
    if operations.very_small(operations.network(model, 1, image_shape), image_shape):
        return Execution("rows", compiled_loops=True)
    return Execution("columns", compiled_loops=False)
