"""The compile report: does a config's program fit on a chip, and how fast will it be?

The program is compiled ahead of time. The TPU compiler needs no TPU (`pip install -e '.[tpu]'`
installs it), so a laptop can compile a training step or a sampler for a whole slice. Without a
topology the program is compiled for the devices of this machine.
"""

import os
import time

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from elf_jax.checkpoints.experiment import abstract
from elf_jax.checkpoints.weights import params_shapes
from elf_jax.core import checks, rng, sharding
from elf_jax.core.errors import UserError
from elf_jax.core.files import write_json
from elf_jax.core.types import Batch
from elf_jax.generation.generate import scales
from elf_jax.hardware.chips import CHIPS
from elf_jax.hardware.program_cost import program_cost
from elf_jax.methods.distilled.method import distilled, plan
from elf_jax.methods.registry import describe_method
from elf_jax.training.optimizer import make_optimizer, make_schedule
from elf_jax.training.state import TrainState
from elf_jax.training.step import make_train_step
from elf_jax.training.trainer import step_settings

PROGRAMS = ("train", "sample", "distill")


def compile_report(config, topology="", program="train", output=None):
    """Compiles a program, prints and writes what it needs on each device.

    Args:
      config: whole config. No data and no weights are read; the sizes of an encoder come from its
        config.json or its name.
      topology: a TPU slice such as "v5p:2x4x4"; empty: the devices of this machine.
      program: "train", one step; "sample", one batch of samples with all its steps; "distill", one
        step of the round in which the teacher has the most sub-steps.
      output: path of the JSON report, or None.

    Returns:
      The report as a dict; see `_report` for its keys.

    Raises:
      UserError: unknown topology or program, or no TPU compiler.
    """
    checks.check(config)
    if program not in PROGRAMS:
        raise UserError(f"--program is {program!r}; use one of {', '.join(PROGRAMS)}")
    mesh = sharding.make_mesh(config.mesh, topology_devices(topology))
    lower = {"train": lower_train, "sample": lower_sample, "distill": lower_distill}[program]
    began = time.monotonic()
    lowered, positions = lower(config, mesh)
    lowering = time.monotonic() - began
    head = {"program": program, "topology": topology or "local", "devices": mesh.size}
    head["device"] = mesh.devices.flat[0].device_kind
    if program == "distill":
        head["student_steps"], head["teacher_substeps"] = largest_round(config.distill)
    head["lower_seconds"] = round(lowering, 2)
    began = time.monotonic()
    try:
        compiled = lowered.compile(sharding.compiler_options(mesh))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        report = {**head, "fits": False, "reason": " ".join(str(error).split())[:300]}
    else:
        head["compile_seconds"] = round(time.monotonic() - began, 2)
        report = {**head, **_report(compiled, head["device"], positions)}
    if output:
        write_json(output, report)
    print("\n".join(f"{name:<30} {_readable(value)}" for name, value in report.items()))
    return report


def lower_train(config, mesh):
    """(the lowered training step, the number of positions in a step) of a config on a mesh."""
    return _lower_step(config, mesh, *_abstract_method(config, mesh))


def lower_distill(config, mesh):
    """`lower_train` of the round in which the teacher has the most sub-steps."""
    method, frozen = _abstract_method(config, mesh)
    shapes = params_shapes(method, config.data.length)
    frozen["teacher"] = abstract(shapes, sharding.of_tree(shapes, mesh))
    method = distilled(method, config.distill, *largest_round(config.distill))
    return _lower_step(config, mesh, method, frozen)


def largest_round(settings):
    """(steps of the student, sub-steps of the teacher) of the round that takes the longest.

    Args:
      settings: config section `distill`.
    """
    return max(plan(settings), key=lambda one: one[1])


def _lower_step(config, mesh, method, frozen):
    sharding.check_batch(config.train.batch_size, config.train.accumulate, mesh)
    schedule = make_schedule(config.optimizer, config.train.batch_size, 1, 2)
    optimizer = make_optimizer(config.optimizer, schedule, method.dtype, mesh, method.own_rates)

    def create(key):
        return TrainState.create(method.init(key, config.data.length), optimizer)

    shapes = jax.eval_shape(create, jax.random.key(0))
    shardings = sharding.of_tree(shapes, mesh)
    step = make_train_step(
        method, optimizer, schedule, step_settings(config, mesh), shardings.params
    )
    step = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
    batch = _abstract_batch(config.train.batch_size, config.data.length, mesh)
    lowered = step.lower(abstract(shapes, shardings), frozen, batch, _abstract_key(mesh))
    return lowered, config.train.batch_size * config.data.length


def lower_sample(config, mesh):
    """(the lowered sampler, the number of positions in a batch) of a config on a mesh."""
    size, length = config.sample.batch_size, config.data.length
    sharding.check_batch(size, 1, mesh, "config.sample.batch_size")
    method, frozen = _abstract_method(config, mesh)
    shapes = params_shapes(method, length)
    params = abstract(shapes, sharding.of_tree(shapes, mesh))
    ids = jax.ShapeDtypeStruct((size,), jnp.int32, sharding=sharding.rows(mesh))
    given = _abstract_batch(size, length, mesh) if config.data.source_field else None
    sampler = jax.jit(
        method.sampler(config.sample, length), out_shardings=sharding.replicated(mesh)
    )
    inputs = ids, given, _abstract_key(mesh), scales(method, config.sample)
    return sampler.lower(params, frozen, *inputs), size * length


def topology_devices(topology):
    """The devices of a TPU slice, which need not exist; for "", the devices of this machine.

    Raises:
      UserError: there is no such slice, or no TPU compiler.
    """
    if not topology:
        return jax.devices()
    # Otherwise JAX looks for a TPU if the compiler is installed, and prints long errors.
    jax.config.update("jax_platforms", "cpu")
    # Otherwise libtpu asks this machine for these values, and prints errors without an answer.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5p-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no machine to ask
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # there is no device to lock
    # The two cores of a v4 chip are one device in JAX on Cloud TPU, but not by default here.
    options = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
    try:
        return topologies.get_topology_desc(topology, platform="tpu", **options).devices
    except (RuntimeError, ValueError, jax.errors.JaxRuntimeError) as error:
        raise UserError(
            f"no TPU topology {topology!r} ({' '.join(str(error).split())[:120]}): write it like "
            "v5p:2x4x4 or v5e:8x8, and install the compiler with pip install -e '.[tpu]'"
        ) from None


def _abstract_method(config, mesh):
    """(the method, the shapes of its frozen values). No data and no weights are read."""
    method, frozen = describe_method(config, mesh)
    at = sharding.replicated(mesh)
    frozen = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), frozen
    )
    return method, frozen


def _abstract_batch(rows, length, mesh):
    at = sharding.rows(mesh)
    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=at)
    flags = jax.ShapeDtypeStruct((rows, length), jnp.bool_, sharding=at)
    return Batch(tokens, flags, flags)


def _abstract_key(mesh):
    key = jax.eval_shape(lambda: rng.stream(jax.random.key(0), "training"))
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=sharding.replicated(mesh))


def _report(compiled, device, positions):
    """What the compiler says about each device, and the estimates that follow from it."""
    memory, cost = compiled.memory_analysis(), program_cost(compiled.as_text())
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
    }
    chip = CHIPS.get(device)
    if chip is None:
        return {**report, "hbm_capacity_bytes": None, "fits": None, "estimated_step_seconds": None}
    compute, memory_time = cost.flops / chip.flops, cost.hbm_bytes / chip.bandwidth
    roofline = max(compute, memory_time)
    times = {
        "compute_seconds": compute,
        "memory_seconds": memory_time,
        "collective_seconds": cost.sent_bytes / chip.links if chip.links else None,
        "roofline_seconds": roofline,
        "estimated_step_seconds": roofline,
        "estimate": "roofline: the larger of operations over peak and bytes over bandwidth",
    }
    if cost.cycles and chip.clock:
        times["estimated_step_seconds"] = cost.cycles / chip.clock + cost.kernel_flops / chip.flops
        times["estimate"] = "the compiler's cycles, kernels at peak, collectives hidden"
    seconds = times["estimated_step_seconds"]
    return {
        **report,
        "hbm_capacity_bytes": int(chip.memory),
        "fits": bool(needed <= chip.memory),
        **times,
        "tokens_per_second": positions / seconds,
        "mfu_bound": compute / seconds,
    }


def _readable(value):
    if isinstance(value, float) and abs(value) >= 1e4:
        return f"{value:.4g}"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
