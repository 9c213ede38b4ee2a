"""How a process gets its memory."""

import ctypes


def keep_memory() -> None:
    """Let the C library keep memory that large buffers give back, where it is glibc; once, at the start of a process.

    By default every buffer of more than 32 MB comes fresh from the system, which fills it with zeros page by page: a
    third of the time of kernels of 32×32 images on a CPU. What one thread gives back serves all others.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold, most_arenas = -1, -3, -8
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)
        mallopt(most_arenas, 1)
