"""Shared by the benchmarks: a config's method with random weights, and the timing.

All candidates run in one process, in turns, so that other work on the machine slows all of them
alike. The result is the median time. Compare the ratios of times, not the times.
"""

import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from elf_jax.checkpoints.weights import params_shapes
from elf_jax.commands import sizes
from elf_jax.core import checks, console, host_memory, processes, sharding
from elf_jax.core.types import Batch
from elf_jax.hardware.chips import CHIPS
from elf_jax.hardware.gpu_calls import kernel_costs
from elf_jax.hardware.program_cost import program_cost
from elf_jax.methods.registry import describe_method
from elf_jax.training.optimizer import make_optimizer, make_schedule
from elf_jax.training.step import make_train_step
from elf_jax.training.trainer import new_state, step_settings

FLAGS = flags.FlagValues()  # apart from those of main.py
CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/quickstart.py", "a file in configs/", flag_values=FLAGS
)
REPEATS = flags.DEFINE_integer(
    "repeats", 5, "timed runs of each candidate, in turns", flag_values=FLAGS
)
VOCAB = flags.DEFINE_integer(
    "vocab_size", 0, "tokens; 0: the encoder's, or data.vocab_size", flag_values=FLAGS
)


def run(main, text):
    """Runs a benchmark's `main(config)`; --help prints its text."""

    def parse(argv):
        if any(argument in ("--help", "-h") for argument in argv[1:]):
            print(text.strip())
            raise SystemExit(0)
        flags.FLAGS(argv[:1])  # absl's own, which app.run needs
        return FLAGS(argv)

    def start(_):
        processes.skip_missing_tpu()
        host_memory.keep_freed()
        with console.errors_as_one_line():
            config = sizes.fitted(CONFIG.value)
            checks.check(config)
        main(config)

    app.run(start, flags_parser=parse)


def random_method(config, mesh):
    """(a `Method`, its frozen arrays) of a config. The arrays are random; no data is needed."""
    config = config.copy_and_resolve_references()
    if VOCAB.value:
        config.data.vocab_size = VOCAB.value
    method, frozen = describe_method(config, mesh)
    keys = iter(jax.random.split(jax.random.key(0), len(jax.tree.leaves(frozen))))

    def fill(leaf):
        value = 0.05 * jax.random.normal(next(keys), leaf.shape, leaf.dtype)
        return jax.device_put(value, sharding.replicated(mesh))

    return method, jax.tree.map(fill, frozen)


def random_params(method, config, mesh):
    """New parameters of a method on a mesh."""
    length = config.data.length
    shardings = sharding.of_tree(params_shapes(method, length), mesh)
    init = jax.jit(lambda key: method.init(key, length), out_shardings=shardings)
    return init(jax.random.key(0))


def random_batch(config, vocab_size, rows, mesh):
    """A `Batch` of full rows. For pairs, the first source_length positions are the condition."""
    length = config.data.length
    tokens = np.random.default_rng(0).integers(3, vocab_size, (rows, length)).astype(np.int32)
    is_cond = np.zeros((rows, length), bool)
    if config.data.source_field:
        is_cond[:, : config.data.source_length] = True
    return sharding.share_rows(Batch(tokens, is_cond, np.ones((rows, length), bool)), mesh)


class Program(NamedTuple):
    """A compiled program, and what `gpu_calls.kernel_costs` gives of it."""

    compiled: jax.stages.Compiled
    kernels: dict

    def flops(self):
        """Operations of one run on one device."""
        return program_cost(self.compiled.as_text(), self.kernels).flops


def compiled_program(traced, options=None):
    """The `Program` of what `jax.jit(...).trace` gives, with options of the compiler."""
    return Program(traced.lower().compile(options), kernel_costs(traced.jaxpr))


def step_candidate(step, state, arguments, options, shardings=None):
    """(`Program` of a step, function that runs it once). A step reuses the memory of its state."""
    layouts = None if shardings is None else (shardings, None)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=layouts)
    program = compiled_program(jitted.trace(state, *arguments), options)
    holder = [copy(state)]

    def call():
        holder[0], result = program.compiled(holder[0], *arguments)
        return result

    return program, call


class Ours(NamedTuple):
    """The training step of a config, with random weights and a random batch.

    Attributes:
      method: the `Method`. schedule: learning rate by step. settings: the `StepSettings`.
      step: function (state, *arguments) -> (state, metrics), not jitted.
      state: the first `TrainState`. shardings: its layout.
      arguments: frozen arrays, batch and key. options: of the compiler.
    """

    method: object
    schedule: object
    settings: object
    step: object
    state: object
    shardings: object
    arguments: tuple
    options: dict

    @classmethod
    def of(cls, config, mesh, batch=None):
        """Of a config on a mesh. batch: see `make_train_step`; None: random full rows."""
        rows = config.train.batch_size
        sharding.check_batch(rows, config.train.accumulate, mesh)
        method, frozen = random_method(config, mesh)
        schedule = make_schedule(config.optimizer, rows, 1, 2)
        optimizer = make_optimizer(config.optimizer, schedule, method.dtype, mesh, method.own_rates)
        state, shardings = new_state(config, method, optimizer, mesh)
        settings = step_settings(config, mesh)
        step = make_train_step(method, optimizer, schedule, settings, shardings.params)
        if batch is None:
            batch = random_batch(config, method.vocab_size, rows, mesh)
        arguments, options = (frozen, batch, jax.random.key(1)), sharding.compiler_options(mesh)
        return cls(method, schedule, settings, step, state, shardings, arguments, options)

    def candidate(self):
        """The `step_candidate` of this step."""
        return step_candidate(self.step, self.state, self.arguments, self.options, self.shardings)


def compare(title, candidates, unit, work, baseline, expected=None):
    """Times every candidate in turns and prints a table.

    Args:
      title: of the table.
      candidates: {name: (`Program` or None, function () -> arrays to wait for)}.
      unit, work: the amount of work in one run, such as ("positions", 8192).
      baseline: name of the candidate that the others are compared with.
      expected: {name: {candidate: weight}}, further rows: the weighted mean of each turn's times.
    """
    times = {name: [] for name in candidates}
    for turn in range(REPEATS.value + 1):
        for name, (_, run) in candidates.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            if turn:  # the first one warms up
                times[name].append(time.perf_counter() - began)
    chip = CHIPS.get(jax.devices()[0].device_kind)
    times |= {name: _weighted(times, parts) for name, parts in (expected or {}).items()}
    print(f"{title}; {jax.device_count()} x {jax.devices()[0].device_kind}, {REPEATS.value} runs")
    head = f"{'':<28}{'median s':>10}{'min s':>10}{unit + '/s':>16}{'x baseline':>12}"
    print(head + (f"{'of peak':>9}" if chip else ""))
    base = statistics.median(times[baseline])
    for name in times:
        program = candidates[name][0] if name in candidates else None
        median = statistics.median(times[name])
        line = f"{name:<28}{median:>10.4f}{min(times[name]):>10.4f}{work / median:>16,.0f}"
        line += f"{base / median:>12.2f}"
        if chip and program is not None:
            share = program.flops() / median / chip.flops
            line += f"{share:>9.1%}"
        print(line)


def _weighted(times, parts):
    """The weighted mean of the times of several candidates, turn by turn."""
    turns = zip(*(times[name] for name in parts), strict=True)
    return [sum(w * t for w, t in zip(parts.values(), turn, strict=True)) for turn in turns]


def copy(tree):
    """A copy of the tree, for a program that reuses the memory of its input."""
    return jax.tree.map(jnp.copy, tree)
