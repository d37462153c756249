"""Measures how long sampling takes. The result is a record, which scores do not depend on."""

import itertools
import statistics
import time

import numpy as np

from elf_jax.core import sharding
from elf_jax.evaluation.protocols import effective
from elf_jax.evaluation.records import environment, now
from elf_jax.generation.generate import batch_rows, stream, take

BATCHES = 3  # that are measured, after one that compiles
SECONDS = "seconds_per_1000"


def seconds_per_1000(run, protocol, seed=0):
    """Seconds to sample 1,000 texts, from noise to token ids: the median of some batches.

    Args:
      run: an `Evaluation`. protocol: a `Protocol`. seed: of the samples, which are not kept.

    Returns:
      Dict of seconds_per_1000, batch_size and device.
    """
    trained = run.trained.with_settings(protocol.sample)
    method, size = trained.method, batch_rows(trained, run.count)
    about = {
        **effective(method, protocol.sample),
        "weights": protocol.sample.weights,
        "weights_fingerprint": run.kept.weights,
        "length": trained.config.data.length,
        "compute_dtype": np.dtype(method.dtype).name,
        "batch_size": size,
        "device": sharding.hardware(trained.params),
    }

    def compute():
        seconds = _batch_seconds(run, protocol, trained, size, seed)
        origin = {"protocol": protocol.name, "seed": seed, "n": size * BATCHES, **about}
        measured = {"checkpoint": trained.origin, "step": trained.step, "date": now()}
        measured["packages"] = environment()["packages"]
        return {SECONDS: 1000 * seconds / size}, {}, {**origin, **measured}

    (seconds,) = run.records.once({"measured": SECONDS, **about}, compute)[0].values()
    return {SECONDS: seconds, "batch_size": size, "device": about["device"]}


def _batch_seconds(run, protocol, trained, size, seed):
    rows = run.dataset.validation if run.dataset.conditional else None
    fields = {} if rows is None else take(rows, 0, size)
    conditions = itertools.repeat(fields, 1 + BATCHES)
    times = []
    batches = stream(trained, conditions, size, seed, run.kept.program(protocol))
    next(batches)  # compiles
    for _ in range(BATCHES):
        began = time.perf_counter()
        next(batches)
        times.append(time.perf_counter() - began)
    return statistics.median(times)
