"""The C library's allocator, for steps that take and free the same large tensors over and over."""

import ctypes

# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Lets freed memory serve the next tensors, where glibc would give large blocks back to the system at once.

    Every block that is taken anew costs a page fault for each 4 KiB of it: a third of the time of a NeuMF step on a
    CPU. The process keeps as much memory as it once needed. Does nothing with another C library than glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, (1 << 31) - 1), (M_TOP_PAD, 1 << 26)):
            mallopt(parameter, value)
