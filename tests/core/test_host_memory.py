"""Large blocks of memory are used again instead of being given back to the kernel."""

import os
import platform
import resource
import subprocess
import sys

import pytest

from tests.command import ROOT

# A program with blocks of 100 MB between input and output runs twenty times, and the page faults of
# a run are printed. Small arrays may come to lie in a freed block; then some runs take another one.
PROGRAM = """
import resource
import jax, jax.numpy as jnp
from elf_jax.core import host_memory
host_memory.keep_freed()

@jax.jit
def run(x):
    return jax.lax.fori_loop(0, 2, lambda i, x: jnp.tanh(x @ x.T) @ x, x)

x = jnp.ones((5000, 2))
run(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    run(x).block_until_ready()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the limits are those of glibc")
@pytest.mark.parametrize("platforms, is_kept", [("cpu", True), ("", False)])
def test_a_freed_block_is_kept(platforms, is_kept):
    environ = {**os.environ, "JAX_PLATFORMS": platforms, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    environ.pop("LD_PRELOAD", None)  # another malloc, see .ci/run
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    faults, block = int(done.stdout), 100_000_000 // resource.getpagesize()
    assert (faults < 0.5 * block) if is_kept else (faults > 0.9 * block), faults
