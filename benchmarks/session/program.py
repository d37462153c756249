"""Compiles a program for the device of a session, and puts its floor and its memory beside it."""

import jax

from benchmarks.session import results
from elf_jax.core import sharding
from elf_jax.hardware.chips import CHIPS, GIB
from elf_jax.hardware.figures import figures
from elf_jax.hardware.gpu_calls import kernel_costs

SHARE = 0.95  # of the memory that JAX may take: the rest is lost between its pieces


def compile_here(traced, positions, mesh):
    """(the compiled program, the figures of its compile report).

    Args:
      traced, positions: what `compile_report.trace_train` or `trace_sample` gives. mesh: the
        devices of this machine.
    """
    compiled = traced.lower().compile(sharding.compiler_options(mesh))
    return compiled, figures(compiled, mesh, positions, kernel_costs(traced.jaxpr))


def floor_seconds(report):
    """The least time of one run at the measured rates, None if they were not measured.

    That is the larger of all operations at the rate of a large product and all bytes at the rate of
    a large copy. What stays in a cache is read faster than that.
    """
    product, copy = results.ceiling(results.PRODUCT), results.ceiling(results.COPY)
    if product is None or copy is None:
        return None
    return max(report["flops_per_device"] / product, report["hbm_bytes_per_device"] / copy)


def capacity():
    """Bytes that a program may take on the first device; None if they are not known."""
    device = jax.devices()[0]
    limit, chip = (device.memory_stats() or {}).get("bytes_limit"), CHIPS.get(device.device_kind)
    limit = limit or (chip and chip.memory)
    return limit and SHARE * limit


def record_memory(report):
    """Records the most memory that this process has had, beside what the compile report says."""
    stats, predicted = jax.devices()[0].memory_stats() or {}, report["needed_bytes_per_device"]
    peak = stats.get("peak_bytes_in_use")
    beside = f"compile report {predicted / GIB:.4g} GiB"
    if peak:
        beside += f", {peak / predicted:.0%} of it"
    results.figure("memory at most", peak and peak / GIB, "GiB", beside, predicted=predicted)


def out_of_memory(error):
    """Whether an error of JAX says that the device has too little memory."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
