"""What the benchmarks share: a config's model with random weights, and fair timing.

Everything that is compared runs in one process, in turns, so that a noisy machine is noisy for all;
the figure is the median, and what counts is the ratio.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

from elf_jax.core import sharding
from elf_jax.core.types import Batch
from elf_jax.hardware.compile_report import CHIPS
from elf_jax.hardware.program_cost import program_cost
from elf_jax.latents.encoder import describe_encoder
from elf_jax.methods.elf.build import build_model, compute_dtype

CONFIG = config_flags.DEFINE_config_file("config", "configs/quickstart.py", "a file in configs/")
REPEATS = flags.DEFINE_integer("repeats", 5, "timed runs of each, in turns")
VOCAB = flags.DEFINE_integer("vocab_size", 0, "tokens; 0: the encoder's, or data.vocab_size")


def random_model(config, mesh):
    """(`Model`, V) of a config: no data, no download; an encoder with random weights."""
    dtype = compute_dtype(config.model.dtype, mesh.devices.flat[0].platform)
    vocab_size, encoder = describe_encoder(config, dtype, mesh)
    vocab_size = VOCAB.value or vocab_size
    keys = iter(jax.random.split(jax.random.key(0), len(jax.tree.leaves(encoder.params))))

    def fill(leaf):
        value = 0.05 * jax.random.normal(next(keys), leaf.shape, leaf.dtype)
        return jax.device_put(value, sharding.replicated(mesh))

    params = jax.tree.map(fill, encoder.params)
    encoder = type(encoder)(encoder.width, params, encoder.raw, encoder.mean, encoder.std)
    return build_model(config, vocab_size, mesh, encoder=encoder), vocab_size


def random_batch(config, vocab_size, rows, mesh):
    """A `Batch` of full rows, the first source_length positions of a pair its condition."""
    length = config.data.length
    tokens = np.random.default_rng(0).integers(3, vocab_size, (rows, length)).astype(np.int32)
    is_cond = np.zeros((rows, length), bool)
    if config.data.source_field:
        is_cond[:, : config.data.source_length] = True
    return sharding.share_rows(Batch(tokens, is_cond, np.ones((rows, length), bool)), mesh)


def compare(title, candidates, unit, work, baseline):
    """Times every candidate in turns and prints a table.

    Args:
      title: of the table.
      candidates: {name: (compiled or None, function () -> something to wait for)}.
      unit, work: what one run does, such as ("positions", 8192).
      baseline: name of the candidate that the others are set in relation to.
    """
    times = {name: [] for name in candidates}
    for turn in range(REPEATS.value + 1):
        for name, (_, run) in candidates.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            if turn:  # the first one warms up
                times[name].append(time.perf_counter() - began)
    chip = CHIPS.get(jax.devices()[0].device_kind)
    print(f"{title}; {jax.device_count()} x {jax.devices()[0].device_kind}, {REPEATS.value} runs")
    head = f"{'':<28}{'median s':>10}{'min s':>10}{unit + '/s':>16}{'x baseline':>12}"
    print(head + (f"{'of peak':>9}" if chip else ""))
    base = statistics.median(times[baseline])
    for name, (compiled, _) in candidates.items():
        median = statistics.median(times[name])
        line = f"{name:<28}{median:>10.4f}{min(times[name]):>10.4f}{work / median:>16,.0f}"
        line += f"{base / median:>12.2f}"
        if chip and compiled is not None:
            share = program_cost(compiled.as_text()).flops / median / chip.flops
            line += f"{share:>9.1%}"
        print(line)


def copy(tree):
    """The tree anew, for a program that uses up its input."""
    return jax.tree.map(jnp.copy, tree)
