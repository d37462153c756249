"""What a workdir remembers of its data, and whether the data is still the same."""

import json
import pathlib

from elf_jax.core.errors import UserError
from elf_jax.core.workdir import DATASET


def read_summary(workdir):
    """The summary of the data that a workdir was made with; None where it has none."""
    path = pathlib.Path(workdir) / DATASET
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def check_data(workdir, summary):
    """Raises UserError if a workdir was begun with other data than that of `summary`."""
    before = read_summary(workdir)
    if before is not None and before["fingerprint"] != summary["fingerprint"]:
        raise UserError(
            f"the data has changed since {str(workdir)!r} was made ({before['train_rows']} rows "
            f"then, {summary['train_rows']} now): restore it or use another --workdir"
        )
