"""The figures of the compile report: what a compiled program needs on each device, and how fast it
can be there."""

import collections

from elf_jax.hardware.chips import CHIPS
from elf_jax.hardware.program_cost import program_cost

ROOFLINE = "roofline: the larger of operations over peak and bytes over bandwidth"
CYCLES = "the compiler's cycles, kernels at peak, collectives hidden"
# The best tiles are found by timing them on the GPU: here neither they nor their times are known.
GPU_FLOOR = (
    "floor: every library call and kernel at peak or at the bandwidth, the rest at the bandwidth, "
    "one after another; unknown without a GPU: times of tiles, gaps between kernels, cache hits"
)


def figures(compiled, mesh, positions, kernels=None):
    """What the compiler says about each device, and the estimates that follow from it.

    Args:
      compiled: the program, as `Lowered.compile` gives it.
      mesh: the devices.
      positions: how many positions one run of the program computes, on all devices.
      kernels: what `gpu_calls.kernel_costs` gives, for programs on GPUs.

    Returns:
      Dict; docs/performance.md says what its keys are.
    """
    device = mesh.devices.flat[0]
    gpu = device.platform == "gpu"
    memory, cost = compiled.memory_analysis(), program_cost(compiled.as_text(), kernels)
    needed = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    report = {
        "flops_per_device": cost.flops,
        "hbm_bytes_per_device": cost.hbm_bytes,
        "collective_bytes_per_device": cost.collective_bytes,
        "argument_bytes_per_device": memory.argument_size_in_bytes,
        "temp_bytes_per_device": memory.temp_size_in_bytes,
        "needed_bytes_per_device": needed,
        "unknown_loops": cost.unknown_loops,
        **(_launches(cost) if gpu else {"unknown_calls": round(cost.unknown_kernels)}),
    }
    chip = CHIPS.get(device.device_kind)
    if chip is None:
        return {**report, "hbm_capacity_bytes": None, "fits": None, "estimated_step_seconds": None}
    times = _times(cost, chip, mesh, gpu)
    seconds = times["estimated_step_seconds"]
    return {
        **report,
        "hbm_capacity_bytes": int(chip.memory),
        "fits": bool(needed <= chip.memory),
        **({"memory_fraction": needed / chip.memory} if gpu else {}),
        **times,
        "tokens_per_second": positions / seconds,
        "mfu_bound": times["compute_seconds"] / seconds,
    }


def _launches(cost):
    """How often a GPU is given something to do, and by whom."""
    counts = collections.Counter()
    for call, times in cost.calls.items():
        counts[call.kind] += round(times)
        counts["unknown"] += round(times) if call.flops is None else 0
    kinds = "cublas", "cudnn", "pallas", "unknown"
    return {"launches": round(cost.launches), **{f"{kind}_calls": counts[kind] for kind in kinds}}


def _times(cost, chip, mesh, gpu):
    compute, memory = cost.flops / chip.flops, cost.hbm_bytes / chip.bandwidth
    rate = link_rate(chip, mesh)
    times = {
        "compute_seconds": compute,
        "memory_seconds": memory,
        "collective_seconds": cost.sent_bytes / rate if rate else None,
        "roofline_seconds": max(compute, memory),
        "estimated_step_seconds": max(compute, memory),
        "estimate": ROOFLINE,
    }
    if cost.cycles and chip.clock:
        times["estimated_step_seconds"] = cost.cycles / chip.clock + cost.kernel_flops / chip.flops
        times["estimate"] = CYCLES
    elif gpu:
        times["estimated_step_seconds"] = _one_after_another(cost, chip)
        times["estimate"] = GPU_FLOOR
    return times


def _one_after_another(cost, chip):
    """Seconds of a GPU program whose kernels are as fast as the chip allows, and do not overlap."""
    calls = sum(
        count * max((call.flops or 0.0) / chip.flops, call.bytes / chip.bandwidth)
        for call, count in cost.calls.items()
    )
    moved = cost.hbm_bytes - sum(count * call.bytes for call, count in cost.calls.items())
    # The matrix products that are not calls are part of fusions.
    flops = cost.flops - cost.kernel_flops
    return calls + max(moved / chip.bandwidth, flops / chip.flops)


def link_rate(chip, mesh):
    """Bytes per second that a device can send to the others of a mesh; None if not known.

    A ring over several hosts leaves each host once, so all its devices together send no more than
    the host's network can take.
    """
    hosts = {device.process_index for device in mesh.devices.flat}
    if len(hosts) == 1 or not chip.network or not chip.links:
        return chip.links
    return min(chip.links, chip.network * mesh.size / len(hosts))
