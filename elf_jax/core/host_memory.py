"""Freed memory stays with the process, where the CPU computes.

Every run of a program asks for one block of memory for everything between input and output, and
gives it back. The C library returns a large block to the kernel, which clears each page when it is
touched again. For the quickstart's step that is 30,000 pages, a fifth of its time.
"""

import ctypes
import os
import sys

# Of malloc.h. A block up to LARGE comes from the heap and is not given back to the kernel.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
LARGE = 2**30  # bytes
MOST_CORES = 8  # threads of more cores might wait for each other in the one heap


def keep_freed():
    """Sets the limits of glibc's malloc for this process. Call it before JAX starts its threads,
    each of which would get a small heap of its own, which a large block does not fit into.

    It does nothing with another C library, on an accelerator, and on many cores.
    """
    if _platforms() != "cpu" or (os.cpu_count() or 1) > MOST_CORES:
        return
    try:
        library = ctypes.CDLL(None)
        mallopt, _ = library.mallopt, library.gnu_get_libc_version  # only glibc has both
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_ARENA_MAX, 1)
    mallopt(M_MMAP_THRESHOLD, LARGE)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _platforms():
    jax = sys.modules.get("jax")
    return os.environ.get("JAX_PLATFORMS") if jax is None else jax.config.jax_platforms
