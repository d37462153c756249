"""Records: lines of JSON, one for each number, with everything that the number depends on.

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
NUMBER = int | float | None  # None: there was nothing to compute it from
CHECK = "check"  # a digest of the rest of the record; those of version 0.2 have none


def digest(identity):
    """12 hexadecimal digits that identify a dict of plain values."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def now():
    """The time, in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def environment():
    """Versions of packages and the device. A number may differ between them."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "packages": {"elf_jax": __version__, **versions},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


class Records:
    """The records in a file. New ones are added to it.

    All processes must call the methods together, and all get the same results. Only the first
    process reads and writes the file.

    Args:
      path: of the file. It is made if it does not exist.

    Raises:
      UserError: a line in it is not a record.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.lines, self.groups = [], {}
        if jax.process_index() == 0 and self.path.is_file():
            # Not splitlines: it also splits at other characters, which text may hold.
            text = self.path.read_bytes().decode("utf-8", "replace")
            self.lines = text.rstrip("\n").split("\n")
        for number, line in enumerate(self.lines, 1):
            try:
                record = json.loads(line)
                rest = {name: value for name, value in record.items() if name != CHECK}
                if record.get(CHECK, digest(rest)) != digest(rest):
                    raise ValueError
                if not isinstance(rest[METRIC], str) or not isinstance(rest[VALUE], NUMBER):
                    raise TypeError
                self.groups.setdefault(rest[KEY], []).append(rest)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise UserError(
                    f"{self.path} line {number} is no record, or has changed since it was written: "
                    "remove the line, and the number is computed again"
                ) from None

    def once(self, identity, make):
        """The numbers that belong to `identity`: from the file, or made and added to it.

        Args:
          identity: dict of plain values, all that the numbers depend on.
          make: function () -> (numbers, signatures, provenance), three dicts. signatures has, for
            some of the numbers, the metric's own description.

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
            checked = [record | {CHECK: digest(record)} for record in records]
            self.lines += [json.dumps(record, ensure_ascii=False) for record in checked]
            # The whole file is written again, so a group of records is in it whole or not at all.
            write_text(self.path, "".join(f"{line}\n" for line in self.lines))
