"""The one place that decides how work is laid out for the device at hand."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

Convolution = Literal["xla", "rows", "xla reverse"]

# Measured on two CPU cores in attacks: at 8×8 rows win by 3-4, at 16×16 by 1.4; at 20×20 XLA's convolution wins.
_ROWS_UP_TO = 16
# Images whose activations stay in a core's cache; 16 to 64 are as good (networks of widths 8 to 64 at 32×32).
_PART = 32


Carry = TypeVar("Carry")


@dataclass(frozen=True)
class Execution:
    """How to convolve, and whether loops over steps are compiled or stepped from Python.

    ``reverse_convolution`` is for programs that take reverse-mode derivatives only; ``pass_bytes`` are those of a
    forward pass beyond which larger blocks of a kernel are no faster.
    """

    convolution: Convolution
    compiled_loops: bool
    pass_bytes: int = 1 << 28

    @property
    def reverse_convolution(self) -> Convolution:
        return "xla reverse" if self.convolution == "xla" and not self.compiled_loops else self.convolution

    def loop(self, start: int | jax.Array, stop: int | jax.Array, body: Callable, carry: Carry) -> Carry:
        """``carry = body(i, carry)`` for start ≤ i < stop. A body that is stepped from Python should be compiled."""
        if self.compiled_loops:
            return lax.fori_loop(start, stop, body, carry)
        for i in range(int(start), int(stop)):
            carry = body(i, carry)
        return carry

    def by_parts(self, function: Callable[..., jax.Array], *batches: jax.Array) -> jax.Array:
        """``function(*batches)``, where a loop steps from Python a few images at a time and on all threads at once.

        For functions that treat every image by itself. XLA's convolutions use several threads poorly, and the
        activations of few images stay in the cache. Parts are equal, so that one compiled program serves all.
        """
        count = len(batches[0])
        parts = next((n for n in range(-(-count // _PART), 2 * count // _PART + 1) if count % n == 0), 1)
        if self.compiled_loops or parts == 1:
            return function(*batches)
        pieces = [jnp.split(batch, parts) for batch in batches]
        with ThreadPoolExecutor(_threads()) as pool:
            return jnp.concatenate(list(pool.map(lambda *part: jax.block_until_ready(function(*part)), *pieces)))

    def compile(self, function: Callable, **options) -> Callable:
        """``jax.jit`` around a function with such loops, where the loops are compiled."""
        return jax.jit(function, **options) if self.compiled_loops else function


def _threads() -> int:
    """Those that this process may use: NPROC, by which XLA goes as well, or its cores."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("NPROC") or available)


def choose(image_shape: Sequence[int], backend: str | None = None) -> Execution:
    """Layout for images of shape (H, W, C).

    On a CPU, XLA convolutions lose their fast path inside compiled loops (4-12 times slower), so there loops step
    from Python; products of rows do not suffer, and on accelerators the loop belongs on the device. There, blocks of
    a kernel are to be large, because every pair of blocks is waited for.
    """
    on_cpu = (backend or jax.default_backend()) == "cpu"
    small = max(image_shape[:2]) <= _ROWS_UP_TO
    convolution: Convolution = "rows" if on_cpu and small else "xla"
    compiled_loops = not on_cpu or convolution == "rows"
    return Execution(convolution, compiled_loops, pass_bytes=1 << (28 if on_cpu else 32))
