"""The ceilings of a device: its memory, one large product, one large copy.

    python -m benchmarks.session.ceilings

No program on the device is faster than these two rates allow. The other parts of a session print
their floors with them.
"""

import argparse
import time

import jax
import jax.numpy as jnp

from benchmarks.session import results
from elf_jax.core import processes
from elf_jax.hardware.chips import CHIPS, GIB


def best_seconds(function, *arrays, runs=5, calls=10):
    """Seconds of one call: the best mean over `calls` calls that follow each other."""
    jax.block_until_ready(function(*arrays))
    best = float("inf")
    for _ in range(runs):
        began = time.perf_counter()
        for _ in range(calls):
            out = function(*arrays)
        jax.block_until_ready(out)
        best = min(best, (time.perf_counter() - began) / calls)
    return best


def product_rate(size):
    """Operations per second of a product of two bfloat16 matrices [size, size]."""
    left, right = (
        jax.random.normal(jax.random.key(seed), (size, size), jnp.bfloat16) for seed in (0, 1)
    )
    return 2 * size**3 / best_seconds(jax.jit(jnp.matmul), left, right)


def copy_rate(mebibytes):
    """Bytes per second that are read and written by a copy of so many MiB, with one addition."""
    array = jnp.zeros((mebibytes, 2**18), jnp.float32)
    return 2 * array.nbytes / best_seconds(jax.jit(lambda x: x + 1), array)


def main():
    """Measures and records the three."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--product", type=int, default=16384, help="rows and columns of a matrix")
    parser.add_argument("--copy", type=int, default=4096, help="MiB of the array that is copied")
    args = parser.parse_args()
    processes.skip_missing_tpu()
    device = jax.devices()[0]
    chip, limit = CHIPS.get(device.device_kind), (device.memory_stats() or {}).get("bytes_limit")

    def sheet(value):
        return f"data sheet {value:.4g}" if chip else "no data sheet of this device"

    results.figure(
        "memory that JAX may take",
        limit and limit / GIB,
        "GiB",
        sheet(chip.memory / GIB if chip else 0),
    )
    rate = product_rate(args.product)
    about = sheet(chip.flops / 1e12 if chip else 0)
    results.figure(results.PRODUCT, rate / 1e12, "TFLOP/s", about, rate=rate)
    rate = copy_rate(args.copy)
    about = sheet(chip.bandwidth / 1e12 if chip else 0)
    results.figure(results.COPY, rate / 1e12, "TB/s", about, rate=rate)


if __name__ == "__main__":
    main()
