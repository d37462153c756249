"""Metrics of a training, as JSON lines and for TensorBoard. Process 0 writes them."""

import json
import pathlib

import jax
import tensorboardX

from elf_jax.core.files import write_text
from elf_jax.core.workdir import METRICS, TENSORBOARD


class MetricsLog:
    """Adds lines to the metrics of a workdir. Only process 0 writes."""

    def __init__(self, workdir):
        self.file = self.board = None
        if jax.process_index() == 0:
            workdir = pathlib.Path(workdir)
            self.file = open(workdir / METRICS, "a", encoding="utf-8")  # noqa: SIM115
            self.board = tensorboardX.SummaryWriter(str(workdir / TENSORBOARD))

    def write(self, values):
        """Adds one line, {name: number}. One of the names is "step"."""
        if self.file is None:
            return
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()
        for name, value in values.items():
            if name != "step":
                self.board.add_scalar(name, value, values["step"])

    def close(self):
        """Closes the files."""
        if self.file is not None:
            self.file.close()
            self.board.close()


def read_metrics(workdir):
    """List of the dicts in a workdir's log, in order; empty if there is no log."""
    path = pathlib.Path(workdir) / METRICS
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def forget_after(workdir, step):
    """Removes the lines after `step` from the log. A resumed run writes them again."""
    path = pathlib.Path(workdir) / METRICS
    if not path.is_file() or jax.process_index() != 0:
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    if len(kept) < len(lines):
        write_text(path, "".join(kept))
