"""Sampling with a config: how long a number of samples takes, and memory beside the report's.

    python -m benchmarks.session.sampling --config=configs/owt.py --config.sample.batch_size=125

The weights are random, because the time does not depend on them. One batch is made before the clock
starts. If the part would take too long, fewer samples are made, and the line says so.
"""

import time

import jax
import numpy as np
from absl import flags

from benchmarks.common import FLAGS, random_method, random_params, run
from benchmarks.session import program, results
from elf_jax.core import sharding
from elf_jax.generation.generate import scales
from elf_jax.hardware.compile_report import trace_sample
from elf_jax.training.state import training_key

SAMPLES = flags.DEFINE_integer("samples", 1000, "how many", flag_values=FLAGS)

GOAL = 25  # seconds of 1,000 samples of 1,024 tokens at 32 steps
RESERVE = 10  # seconds that are kept for the end of the part


def batches(compiled, config, mesh):
    """A function (number of a batch) that makes it and waits for it."""
    method, frozen = random_method(config, mesh)
    params = random_params(method, config, mesh)
    size, key = config.sample.batch_size, training_key(config.seed, mesh)
    settings = scales(method, config.sample)

    def make(number):
        ids = np.arange(number * size, (number + 1) * size, dtype=np.int32)
        ids = sharding.share_rows(ids, mesh)
        return jax.block_until_ready(compiled(params, frozen, ids, None, key, settings))

    return make


def main(config):
    """Times the samples and records it."""
    mesh, wanted = sharding.make_mesh(config.mesh, jax.devices()[:1]), SAMPLES.value
    size, sample = config.sample.batch_size, config.sample
    compiled, report = program.compile_here(*trace_sample(config, mesh), mesh)
    make, count = batches(compiled, config, mesh), -(-wanted // size)
    make(0)
    began, done = time.perf_counter(), 0
    while done < count and (not done or results.seconds_left(1e9) > RESERVE):
        make(done)
        done += 1
    seconds = (time.perf_counter() - began) / done * count
    floor = program.floor_seconds(report)
    about = [f"floor {count * floor:.3g}"] if floor else []
    if (wanted, config.data.length, sample.steps) == (1000, 1024, 32):
        about.insert(0, f"goal {GOAL}")
    if done < count:
        about.append(f"computed from {done * size} samples")
    name = f"{wanted:,} samples, {sample.steps} {sample.sampler} steps"
    results.figure(name, seconds, "s", ", ".join(about), made=done * size)
    program.record_memory(report)


if __name__ == "__main__":
    run(main, __doc__)
