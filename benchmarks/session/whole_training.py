"""A whole training by its config, with its evaluation and samples, as the command line makes it.

    python -m benchmarks.session.whole_training --config=configs/quickstart.py --workdir=DIRECTORY

With --reserve=N the training ends so many seconds before the time of its part is over, so that
losses and samples can still be made.
"""

import json
import pathlib

from absl import flags, logging

from benchmarks.common import FLAGS, run
from benchmarks.session import results
from elf_jax import commands
from elf_jax.core import console
from elf_jax.core.workdir import METRICS, TRAINING_SAMPLES

WORKDIR = flags.DEFINE_string(
    "workdir", None, "directory of the training", required=True, flag_values=FLAGS
)
RESERVE = flags.DEFINE_float(
    "reserve", 0.0, "seconds; 0: the training takes the time it needs", flag_values=FLAGS
)

SHOWN = 8  # samples
LEAST = 5.0  # seconds of training


def read_lines(path):
    """The records of a file of JSON lines; none if there is no such file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def record(config, workdir):
    """Records the figures of a training, and its samples."""
    log = read_lines(workdir / METRICS)
    if not log:
        return
    first, last = log[0], log[-1]
    steps, seconds = last["step"] - first["step"], last["seconds"] - first["seconds"]
    positions = config.train.batch_size * config.data.length
    about = f"with validations; {last['step']:,} steps in {last['seconds']:.0f} s with compiling"
    rate = steps * positions / seconds if seconds else None  # the log has hundredths of seconds
    results.figure("positions per second", rate, "", about)
    name = "validation_loss" if "validation_loss" in last else "loss"
    results.figure(name.replace("_", " "), last[name], "nats")
    summary = workdir / config.evaluate.output
    if summary.is_file():
        numbers = json.loads(summary.read_text(encoding="utf-8"))
        for name in ("valid", "held_out"):
            if name in numbers:
                results.figure(name, numbers[name], "of the samples")
    made = read_lines(workdir / TRAINING_SAMPLES)
    texts = [one["text"] for one in made if one["step"] == last["step"]]
    if texts:
        results.samples(texts[:SHOWN])


def main(config):
    """Trains and records."""
    workdir = pathlib.Path(WORKDIR.value)
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file at INFO
    if RESERVE.value:
        left = results.seconds_left(0.0) - RESERVE.value
        config.train.max_minutes = max(left, LEAST) / 60
    with console.errors_as_one_line():
        commands.train(config, workdir)
    record(config, workdir)


if __name__ == "__main__":
    run(main, __doc__)
