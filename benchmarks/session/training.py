"""The training step of a config: positions per second, and memory beside the compile report's.

    python -m benchmarks.session.training --config=configs/owt.py --config.train.batch_size=16 \\
        --config.model.attention=cudnn
    python -m benchmarks.session.training --config=configs/owt.py:elf_l --largest=128,64,32,16

The data and the frozen encoder are random, because the time does not depend on them. With --largest
the batch is the largest of these that fits the memory, as the compiler's figures for the smallest
one and those of the batch itself say. In a session, --attention=fastest is the attention that was
the fastest in the parts before.
"""

import math
import time

import jax
from absl import flags

from benchmarks.common import FLAGS, random_batch, random_method, run
from benchmarks.session import program, results
from elf_jax.core import sharding
from elf_jax.core.errors import UserError
from elf_jax.hardware.compile_report import trace_train
from elf_jax.training.optimizer import make_optimizer, make_schedule
from elf_jax.training.state import training_key
from elf_jax.training.trainer import new_state

LARGEST = flags.DEFINE_list(
    "largest", [], "numbers of rows; the largest that fits is measured", flag_values=FLAGS
)
SECONDS = flags.DEFINE_float("seconds", 5.0, "how long steps are timed", flag_values=FLAGS)
ATTENTION = flags.DEFINE_enum(
    "attention", "", ["", "fastest"], "fastest: of the parts before", flag_values=FLAGS
)

FIGURE = "positions per second"
# Positions of ELF-B per second: the goals of this project, and what the published code makes.
GOALS = {"H200": 350_000, "H100": 300_000}
PUBLISHED = {"H200": 87_000}


def fastest():
    """The attention with the most positions per second in this session; "auto" without any."""
    found = [one for one in results.read() if one.get("figure") == FIGURE]
    return max(found, key=lambda one: one["value"])["attention"] if found else "auto"


def rows_that_fit(predict, candidates):
    """The candidates that should fit the memory, the largest first.

    Args:
      predict: function from a number of rows to (bytes that do not depend on it, all bytes).
      candidates: numbers of rows.
    """
    smallest, room = min(candidates), program.capacity()
    fixed, whole = predict(smallest)

    def bytes_of(rows):
        return fixed + (whole - fixed) * rows / smallest

    fitting = [rows for rows in candidates if room is None or bytes_of(rows) <= room]
    return sorted(fitting, reverse=True) or [smallest]


def compiled_step(config, mesh, rows):
    """(the compiled step for so many rows, its report)."""
    config.train.batch_size = rows
    return program.compile_here(*trace_train(config, mesh), mesh)


def step_seconds(compiled, config, mesh, seconds):
    """(mean seconds of a step, loss of the last one); steps are timed for about `seconds`.

    Raises:
      UserError: the loss is not finite.
    """
    rows = config.train.batch_size
    method, frozen = random_method(config, mesh)
    schedule = make_schedule(config.optimizer, rows, 1, 2)
    optimizer = make_optimizer(config.optimizer, schedule, method.dtype, mesh, method.own_rates)
    state, _ = new_state(config, method, optimizer, mesh)
    batch = random_batch(config, method.vocab_size, rows, mesh)
    inputs = frozen, batch, training_key(config.seed, mesh)

    def steps(state, count):
        began = time.perf_counter()
        for _ in range(count):
            state, metrics = compiled(state, *inputs)
        loss = float(metrics["loss"])  # waits for the device
        return state, (time.perf_counter() - began) / count, loss

    state, _, _ = steps(state, 2)  # the first ones load what they need
    state, once, _ = steps(state, 2)
    _, mean, loss = steps(state, max(2, math.ceil(seconds / once)))
    if not math.isfinite(loss):
        raise UserError(f"the loss is {loss} after some steps on random tokens")
    return mean, loss


def compares(config):
    """What the published goals are for: ELF-B, rows of 1024."""
    model = config.model
    return (model.depth, model.width, config.data.length, config.method) == (12, 768, 1024, "elf")


def beside(config, floor, positions):
    """The goal for this device, the rate of the published code, and the floor, in words."""
    kind, found = jax.devices()[0].device_kind, []
    for words, known in (("goal", GOALS), ("published code", PUBLISHED)):
        rate = next((rate for name, rate in known.items() if name in kind), None)
        found += [f"{words} {rate:,}"] if rate and compares(config) else []
    return ", ".join([*found, *([f"at most {positions / floor:,.0f}"] if floor else [])])


def measure(config, mesh, compiled, report):
    """Times the step and records what it gives."""
    mean, loss = step_seconds(compiled, config, mesh, SECONDS.value)
    rows, floor = config.train.batch_size, program.floor_seconds(report)
    positions = rows * config.data.length
    keys = ("flops_per_device", "hbm_bytes_per_device", "temp_bytes_per_device")
    results.figure(
        FIGURE,
        positions / mean,
        f"at {rows} rows",
        beside(config, floor, positions),
        rows=rows,
        attention=config.model.attention,
        step_seconds=mean,
        loss=loss,
        **{key: report[key] for key in keys},
    )
    program.record_memory(report)


def main(config):
    """Measures the config's batch, or the largest that fits."""
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    if ATTENTION.value:
        config.model.attention = fastest()
    candidates = [config.train.batch_size]
    if LARGEST.value:

        def predict(rows):
            _, report = compiled_step(config, mesh, rows)
            return report["argument_bytes_per_device"], report["needed_bytes_per_device"]

        candidates = rows_that_fit(predict, [int(rows) for rows in LARGEST.value])
    for rows in candidates:
        try:
            compiled, report = compiled_step(config, mesh, rows)
            room, needed = program.capacity(), report["needed_bytes_per_device"]
            if room is None or needed <= room or rows == candidates[-1]:
                return measure(config, mesh, compiled, report)
        except jax.errors.JaxRuntimeError as error:
            if not program.out_of_memory(error) or rows == candidates[-1]:
                raise
        print(f"{rows} rows do not fit", flush=True)


if __name__ == "__main__":
    run(main, __doc__)
