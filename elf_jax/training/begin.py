"""The files that a training writes into its workdir before the first step, and later checks."""

import json
import pathlib

import jax

from elf_jax.core import processes, store
from elf_jax.core.config import write_config
from elf_jax.core.errors import UserError
from elf_jax.core.files import write_json
from elf_jax.core.workdir import DATASET, TOKENIZER
from elf_jax.data.tokenizer import save_tokenizer


def begin(workdir, config, dataset, write_more=lambda: None):
    """Writes config, tokenizer and the summary of the data into a workdir.

    All processes call it, after everything is built and checked. Only process 0 writes.

    Args:
      workdir: directory of the training. config: whole config. dataset: its `Dataset`.
      write_more: function without arguments that writes further files of this training.
    """
    processes.barrier("built")  # no process still reads the workdir when process 0 writes
    if jax.process_index() == 0:
        write_config(workdir, config)
        save_tokenizer(dataset.tokenizer, workdir / TOKENIZER)
        write_more()
        write_json(workdir / DATASET, dataset.summary)
        store.send(workdir)
    processes.barrier("written")


def read_summary(workdir):
    """The summary of the data that a workdir was made with; None if it has no summary."""
    path = pathlib.Path(workdir) / DATASET
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def check_data(workdir, summary):
    """Raises UserError if a workdir was made with other data than that of `summary`."""
    before = read_summary(workdir)
    if before is not None and before["fingerprint"] != summary["fingerprint"]:
        raise UserError(
            f"the data has changed since {str(workdir)!r} was made ({before['train_rows']} rows "
            f"then, {summary['train_rows']} now): restore it or use another --workdir"
        )
