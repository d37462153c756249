"""Large blocks of memory are used again instead of being given back to the kernel."""

import os
import platform
import subprocess
import sys

import pytest

from elf_jax.core import host_memory

# A thread takes, fills and frees the same large block some times. It prints the page faults of the
# last time.
PROGRAM = """
import ctypes, resource, threading
from elf_jax.core import host_memory
host_memory.keep_freed()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def run():
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc(100_000_000)
        ctypes.memset(block, 1, 100_000_000)
        libc.free(block)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=run)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the limits are those of glibc")
@pytest.mark.parametrize("platforms, is_kept", [("cpu", True), ("tpu", False)])
def test_a_freed_block_is_kept(platforms, is_kept):
    environ = {**os.environ, "JAX_PLATFORMS": platforms}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True, check=True
    )
    faults = int(done.stdout)
    few = is_kept and os.cpu_count() <= host_memory.MOST_CORES
    assert faults < 100 if few else faults > 10
