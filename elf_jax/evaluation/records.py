"""Numbers as records: JSON lines, one for each number, with everything that the number depends on.

A number that is in the file already is not computed again.
"""

import datetime
import hashlib
import importlib.metadata
import json
import pathlib

import jax

from elf_jax import __version__
from elf_jax.core import processes
from elf_jax.core.errors import UserError
from elf_jax.core.files import write_text

PACKAGES = ("jax", "flax", "numpy", "transformers", "tokenizers", "sacrebleu", "rouge_score")
# Keys of a record. Everything else in it is provenance.
METRIC, VALUE, SIGNATURE, KEY = "metric", "value", "signature", "key"


def digest(identity):
    """12 hexadecimal digits that tell dicts of plain values apart."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def now():
    """The time, in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def surroundings():
    """Versions of packages and the device: a number may differ between them."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "packages": {"elf_jax": __version__, **versions},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


class Records:
    """The records in a file, and more of them.

    The first process reads and writes; all processes call together and are given the same.

    Args:
      path: of the file, which need not be there yet.

    Raises:
      UserError: a line in it is not a record.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.lines, self.groups = [], {}
        if jax.process_index() == 0 and self.path.is_file():
            # Not splitlines: text may hold characters that it takes for the end of a line.
            self.lines = self.path.read_text(encoding="utf-8").rstrip("\n").split("\n")
        for number, line in enumerate(self.lines, 1):
            try:
                record = json.loads(line)
                self.groups.setdefault(record[KEY], []).append(record)
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"{self.path} line {number} is no record of ours: mend the line, or move the "
                    "file away"
                ) from None

    def once(self, identity, make):
        """Numbers that depend on `identity` alone: those in the file, or else new ones.

        Args:
          identity: dict of plain values.
          make: function () -> (numbers, signatures, provenance): dicts; signatures has the metric's
            own description for some of the numbers.

        Returns:
          (numbers, signatures): dicts by the name of the metric.
        """
        key = digest(identity)
        records = processes.share(self.groups.get(key))
        if records is None:
            numbers, signatures, provenance = make()
            records = [
                {METRIC: name, VALUE: value}
                | ({SIGNATURE: signatures[name]} if name in signatures else {})
                | {**provenance, KEY: key}
                for name, value in numbers.items()
            ]
            self._add(key, records)
        return (
            {record[METRIC]: record[VALUE] for record in records},
            {record[METRIC]: record[SIGNATURE] for record in records if SIGNATURE in record},
        )

    def _add(self, key, records):
        self.groups[key] = records
        if jax.process_index() == 0:
            self.lines += [json.dumps(record, ensure_ascii=False) for record in records]
            # The whole file anew: a group of records is there whole or not at all.
            write_text(self.path, "".join(f"{line}\n" for line in self.lines))
