"""Metrics of a training, as JSON lines and for TensorBoard. Process 0 writes them."""

import dataclasses
import json
import pathlib

import tensorboardX

from elf_jax.core import processes
from elf_jax.core.errors import UserError
from elf_jax.core.files import write_text
from elf_jax.core.workdir import METRICS, TENSORBOARD


@dataclasses.dataclass
class Window:
    """The metrics of several steps, added up.

    The sums are Python floats, added in the order of the steps. So a window that is kept in a
    checkpoint goes on to the same digits.

    Attributes:
      count: number of steps. sums: {metric: sum over the steps}.
    """

    count: int = 0
    sums: dict = dataclasses.field(default_factory=dict)

    def add(self, values):
        """Adds the metrics of one step."""
        self.count += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def means(self):
        """{metric: mean over the steps}."""
        return {name: total / self.count for name, total in self.sums.items()}


class MetricsLog:
    """Adds lines to the metrics of a workdir. Only process 0 reads and writes.

    Args:
      workdir: of the training.
      step: where the training is. Lines after it are of a run that was killed; they are removed,
        and TensorBoard is told to forget them.

    Attributes:
      last: the last line, a dict; empty if there is none.

    Raises:
      UserError: a line of the log is damaged.
    """

    def __init__(self, workdir, step):
        self.file = self.board = None
        self.last = {}
        processes.on_first(lambda: self._open(pathlib.Path(workdir), step))

    def _open(self, workdir, step):
        lines = _forget_after(workdir, step)
        self.last = lines[-1] if lines else {}
        self.file = open(workdir / METRICS, "a", encoding="utf-8")  # noqa: SIM115
        board = workdir / TENSORBOARD
        again = board.is_dir() and any(board.iterdir())
        purge = step + 1 if again else None  # of steps that an earlier run has written
        self.board = tensorboardX.SummaryWriter(str(board), purge_step=purge)

    @property
    def last_step(self):
        """The step of the last line; 0 if there is none."""
        return self.last.get("step", 0)

    def write(self, values):
        """Adds one line, {name: number}. One of the names is "step"."""
        self.last = values
        if self.file is None:
            return
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()
        for name, value in values.items():
            if name != "step":
                self.board.add_scalar(name, value, values["step"])

    def write_texts(self, texts, step):
        """Adds texts of a step, {tag: Markdown}, to TensorBoard only."""
        if self.board is not None:
            for tag, text in texts.items():
                self.board.add_text(tag, text, step)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.file is not None:
            self.file.close()
            self.board.close()


def read_metrics(workdir):
    """List of the dicts in a workdir's log, in order; empty if there is no log.

    A last line without a line end, of a program that was killed, is left out.

    Raises:
      UserError: a line is damaged.
    """
    return read_lines(pathlib.Path(workdir) / METRICS)


def read_lines(path):
    """List of the dicts in a file of JSON lines, in order; each has a "step", an integer. A last
    line without a line end is left out. Empty if there is no file.

    Raises:
      UserError: a line is damaged.
    """
    if not path.is_file():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    return [_parse(line, path, number) for number, line in enumerate(lines, 1)]


def _parse(line, path, number):
    try:
        values = json.loads(line)
        if not isinstance(values["step"], int):
            raise TypeError("its step is no whole number")
        return values
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} line {number} is damaged ({error}): correct or remove the line, or move the "
            "file away"
        ) from None


def _forget_after(workdir, step):
    """Removes the lines after `step` from the log, and a line without an end; returns the rest."""
    path = workdir / METRICS
    lines = read_metrics(workdir)
    kept = [values for values in lines if values["step"] <= step]
    if path.is_file() and (len(kept) < len(lines) or not path.read_bytes().endswith(b"\n")):
        write_text(path, "".join(f"{json.dumps(values)}\n" for values in kept))
    return kept
