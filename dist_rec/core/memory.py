"""Settings of the C library's allocator for steps that repeatedly allocate and free the same large tensors."""

import ctypes

# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next tensors instead of returning large blocks to the system.

    Each newly mapped block costs a page fault for each of its 4 KiB pages: a third of the time of a NeuMF step on a
    CPU. The process keeps its peak memory. Does nothing with a C library other than glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, (1 << 31) - 1), (M_TOP_PAD, 1 << 26)):
            mallopt(parameter, value)
