"""The compile report: does a config's program fit on a chip, and how fast will it be?

The program is compiled ahead of time. The compilers for TPUs and for NVIDIA's GPUs need neither
(`pip install -e '.[tpu]'` and `'.[gpu-compile]'` install them), so a laptop can compile a training
step or a sampler for a whole slice. Without a topology the program is compiled for the devices of
this machine.
"""

import contextlib
import re
import time

import jax
import jax.numpy as jnp

from elf_jax.checkpoints.experiment import abstract
from elf_jax.checkpoints.weights import params_shapes
from elf_jax.core import checks, rng, sharding
from elf_jax.core.errors import UserError
from elf_jax.core.files import write_json
from elf_jax.core.types import Batch
from elf_jax.generation.generate import scales
from elf_jax.hardware.figures import figures
from elf_jax.hardware.gpu_calls import kernel_costs
from elf_jax.hardware.topologies import compiler_options, topology_devices
from elf_jax.methods.distilled.method import distilled, plan
from elf_jax.methods.network_settings import backbone_settings
from elf_jax.methods.registry import describe_method
from elf_jax.training.optimizer import make_optimizer, make_schedule
from elf_jax.training.state import TrainState
from elf_jax.training.step import make_train_step
from elf_jax.training.trainer import step_settings

PROGRAMS = ("train", "sample", "distill")
# Ours, and JAX's splash attention. A transformation may stand around the name.
_ATTENTION_KERNEL = re.compile(r'op_name="[^"]*(attention|splash)_\w+\)?/pallas_call')


def compile_report(config, topology="", program="train", output=None):
    """Compiles a program, prints and writes what it needs on each device.

    Args:
      config: whole config. No data and no weights are read; the sizes of an encoder come from its
        config.json or its name.
      topology: a TPU slice such as "v5p:2x4x4", GPUs such as "h100" or "h100:2x4"; empty: the
        devices of this machine.
      program: "train", one step; "sample", one batch of samples with all its steps; "distill", one
        step of the round in which the teacher has the most sub-steps.
      output: path of the JSON report, or None.

    Returns:
      The report as a dict; docs/performance.md says what its keys are.

    Raises:
      UserError: unknown topology or program, or a compiler or library is not installed.
    """
    checks.check(config)
    if program not in PROGRAMS:
        raise UserError(f"--program is {program!r}; use one of {', '.join(PROGRAMS)}")
    mesh = sharding.make_mesh(config.mesh, topology_devices(topology))
    trace = {"train": trace_train, "sample": trace_sample, "distill": trace_distill}[program]
    began = time.monotonic()
    with _missing_cudnn_as_one_line():
        traced, positions = trace(config, mesh)
        lowered = traced.lower()
    lowering = time.monotonic() - began
    head = {"program": program, "topology": topology or "local", "devices": mesh.size}
    head["device"] = mesh.devices.flat[0].device_kind
    if program == "distill":
        head["student_steps"], head["teacher_substeps"] = largest_round(config.distill)
    head["lower_seconds"] = round(lowering, 2)
    began = time.monotonic()
    try:
        options = {**sharding.compiler_options(mesh), **compiler_options(topology)}
        compiled = lowered.compile(options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        report = {**head, "fits": False, "reason": " ".join(str(error).split())[:300]}
    else:
        head["compile_seconds"] = round(time.monotonic() - began, 2)
        head["attention"] = attention_compiled(config, mesh, compiled.as_text())
        kernels = kernel_costs(traced.jaxpr)
        report = {**head, **figures(compiled, mesh, positions, kernels)}
    if output:
        write_json(output, report)
    print("\n".join(f"{name:<30} {_readable(value)}" for name, value in report.items()))
    return report


def lower_train(config, mesh):
    """(the lowered training step, the number of positions in a step) of a config on a mesh."""
    traced, positions = trace_train(config, mesh)
    return traced.lower(), positions


def lower_sample(config, mesh):
    """(the lowered sampler, the number of positions in a batch) of a config on a mesh."""
    traced, positions = trace_sample(config, mesh)
    return traced.lower(), positions


def trace_train(config, mesh):
    """(the traced training step, the number of positions in a step) of a config on a mesh."""
    return _trace_step(config, mesh, *_abstract_method(config, mesh))


def trace_distill(config, mesh):
    """`trace_train` of the round in which the teacher has the most sub-steps."""
    method, frozen = _abstract_method(config, mesh)
    shapes = params_shapes(method, config.data.length)
    frozen["teacher"] = abstract(shapes, sharding.of_tree(shapes, mesh))
    method = distilled(method, config.distill, *largest_round(config.distill))
    return _trace_step(config, mesh, method, frozen)


def largest_round(settings):
    """(steps of the student, sub-steps of the teacher) of the round that takes the longest.

    Args:
      settings: config section `distill`.
    """
    return max(plan(settings), key=lambda one: one[1])


def _trace_step(config, mesh, method, frozen):
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
    traced = step.trace(abstract(shapes, shardings), frozen, batch, _abstract_key(mesh))
    return traced, config.train.batch_size * config.data.length


def trace_sample(config, mesh):
    """(the traced sampler, the number of positions in a batch) of a config on a mesh."""
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
    return sampler.trace(params, frozen, *inputs), size * length


def attention_compiled(config, mesh, text):
    """The implementation of self-attention in a program: "xla" if no other one is found in it.

    Args:
      text: of the compiled program.
    """
    chosen = backbone_settings(config, mesh)["attention"]
    if mesh.devices.flat[0].platform == "cpu":
        return chosen  # kernels are interpreted there, so they leave no trace
    found = "__cudnn$fmha" in text if chosen == "cudnn" else _ATTENTION_KERNEL.search(text)
    return chosen if found else "xla"


@contextlib.contextmanager
def _missing_cudnn_as_one_line():
    try:
        yield
    except RuntimeError as error:  # JAX asks for its version
        if str(error) not in ("cuDNN not found.", "cuDNN is not detected."):
            raise
        raise UserError(
            "no cuDNN, which this attention needs: install it with pip install nvidia-cudnn-cu13, "
            "or set --config.model.attention=xla"
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


def _readable(value):
    if isinstance(value, float) and (abs(value) >= 1e4 or 0 < abs(value) < 0.01):
        return f"{value:.4g}"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
