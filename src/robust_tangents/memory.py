"""How a process gets its memory, where its C library is glibc; to be said at the start of a process."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MOST_HEAPS = -1, -3, -8


def _set(parameter: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(parameter, value)


def keep_memory(one_heap: bool = True) -> None:
    """Keep the memory that large buffers give back, with ``one_heap`` where any thread may take it.

    By default every buffer of more than 32 MB comes fresh from the system, which fills it with zeros page by page: a
    fifth of the time of training and a third of that of kernels of 32×32 images on a CPU. Threads other than the first
    have heaps of their own, too small for such buffers, so that they gain from one heap alone. With it, training takes
    up to 200 MB and a kernel up to 2 GB less; other work may take more, because the heap gets holes.
    """
    _set(_MMAP_THRESHOLD, 1 << 30)
    _set(_TRIM_THRESHOLD, (1 << 31) - 1)
    if one_heap:
        _set(_MOST_HEAPS, 1)
