"""How a process gets its memory, where its C library is glibc; to be said at the start of a process."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MOST_HEAPS = -1, -3, -8


def _set(parameter: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(parameter, value)


def keep_memory() -> None:
    """Keep the memory that large buffers give back.

    By default every buffer of more than 32 MB comes fresh from the system, which fills it with zeros page by page: a
    third of the time of kernels of 32×32 images on a CPU.
    """
    _set(_MMAP_THRESHOLD, 1 << 30)
    _set(_TRIM_THRESHOLD, (1 << 31) - 1)


def share_memory() -> None:
    """Let all threads take from one heap, so that what one of them gives back serves all.

    Kernels, whose blocks are made by several threads, take up to 2 GB less. Other work may take more, because the heap
    gets holes.
    """
    _set(_MOST_HEAPS, 1)
