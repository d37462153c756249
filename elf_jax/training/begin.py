"""How a training begins in its workdir: it takes the workdir for itself, writes the files of the
run before the first step, and checks those that are there.
"""

import contextlib
import pathlib

import jax

from elf_jax.core import checksums, lock, processes, store
from elf_jax.core.config import write_config
from elf_jax.core.errors import UserError
from elf_jax.core.files import read_json, write_json
from elf_jax.core.workdir import (
    CONFIG,
    DATASET,
    EMBEDDING,
    LOCK,
    START,
    STATISTICS,
    TOKENIZER,
)
from elf_jax.data.tokenizer import save_tokenizer

# The files of a run that have checksums.
GUARDED = (CONFIG, DATASET, START, EMBEDDING, STATISTICS)


@contextlib.contextmanager
def hold(workdir):
    """Holds a workdir for one training. All processes of the training call it together.

    Yields:
      Function () -> bool, whether another training has taken the workdir over meanwhile.

    Raises:
      UserError: another training holds the workdir; the message names its process.
    """
    what = (
        f"workdir {store.location(workdir)!r} is being trained by {{holder}}: wait until it ends, "
        "stop it, or use another --workdir"
    )
    with contextlib.ExitStack() as stack:
        held = processes.on_first(lambda: stack.enter_context(lock.hold(workdir, LOCK, what)))
        yield lambda: held is not None and held.lost


def begin(workdir, config, dataset, write_more=lambda: None):
    """Writes config, tokenizer and the summary of the data into a workdir.

    All processes call it, after everything is built and checked. Only process 0 writes.

    Args:
      workdir: directory of the training. config: whole config. dataset: its `Dataset`.
      write_more: function without arguments that writes further files of this training.
    """
    processes.barrier("built")  # no process still reads the workdir when process 0 writes
    if jax.process_index() == 0:
        checksums.forget(workdir)
        write_config(workdir, config)
        save_tokenizer(dataset.tokenizer, workdir / TOKENIZER)
        write_more()
        write_json(workdir / DATASET, dataset.summary)
        checksums.write(workdir, GUARDED)
        store.send(workdir)
    processes.barrier("written")


def read_summary(workdir):
    """The summary of the data that a workdir was made with; None if it has no summary.

    Raises:
      UserError: it is damaged.
    """
    path = pathlib.Path(workdir) / DATASET
    if not checksums.is_there(path):
        return None
    summary = read_json(path)
    missing = [
        key for key in ("fingerprint", "train_rows", "validation_rows") if key not in summary
    ]
    if missing:
        raise UserError(f"{path} is damaged ({missing[0]!r} is missing): restore the file")
    return summary


def check_data(workdir, summary):
    """Raises UserError if a workdir was made with other data than that of `summary`."""
    before = read_summary(workdir)
    if before is not None and before["fingerprint"] != summary["fingerprint"]:
        raise UserError(
            f"the data has changed since {str(workdir)!r} was made ({before['train_rows']} rows "
            f"then, {summary['train_rows']} now): restore it or use another --workdir"
        )
