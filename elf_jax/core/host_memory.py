"""Freed memory stays with the process, where the CPU computes.

Every run of a program asks for one block of memory for everything between input and output, and
gives it back. The C library returns a large block to the kernel, which clears each page when it is
touched again. For the quickstart's step that is 30,000 pages, a fifth of its time.
"""

import ctypes

# Of malloc.h. A block up to LARGE comes from the heap and is not given back to the kernel.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGE = 2**30  # bytes


def keep_freed():
    """Sets the limits of glibc's malloc for this process, and lets a program run in the thread that
    calls it, because only the heap of the main thread grows to any size. Call it before the first
    array: later programs still run in threads of JAX.

    One heap for all threads would do as well, but then the threads of a tokenizer wait for each
    other. It does nothing with another C library, and on an accelerator.
    """
    import jax  # here, because the command line imports this module to answer --help

    if jax.config.jax_platforms != "cpu":
        return
    try:
        library = ctypes.CDLL(None)
        mallopt, _ = library.mallopt, library.gnu_get_libc_version  # only glibc has both
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, LARGE)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    jax.config.update("jax_cpu_enable_async_dispatch", False)
