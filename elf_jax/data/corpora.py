"""Corpora of any size, read in numbered units.

A unit is a block of lines of the files, or a range of the documents of a data set
(`libraries.py`). Only a few units are in memory at a time. The units of a corpus are always the
same ones in the same order, and the documents of a unit can be read in another process.
"""

import hashlib
import os
import pathlib
from typing import NamedTuple

import numpy as np

from elf_jax.core.errors import UserError
from elf_jax.data import examples
from elf_jax.data.fields import find_field
from elf_jax.data.libraries import LIBRARIES
from elf_jax.data.long_lines import read_parts
from elf_jax.data.opening import is_parquet
from elf_jax.data.records import BadLines, parquet_records
from elf_jax.data.split import (
    TRAIN,
    VALIDATION,
    is_held_out,
    split_example,
)
from elf_jax.data.text_files import (
    check_apart,
    decode_utf8,
    plain_newlines,
    read_lines,
)

UNIT_BYTES = 64 << 20  # of decompressed files in a unit; they are sent to the worker
UNIT_DOCUMENTS = 32768  # of a data set in a unit
READ_DOCUMENTS = 256  # of a data set, read in one call
PIECE_BYTES = 1 << 20  # smallest piece of a file that is read at once
LINE_BYTES = 1 << 20  # of a part of a line of text; a line of up to twice as many stays whole

SPLIT = "split"  # the side of a unit whose texts are on both sides


def unit_sizes(settings):
    """The sizes that decide where one unit ends and the next begins: a dict.

    Args:
      settings: config section `data`.
    """
    sizes = {"bytes": UNIT_BYTES, "piece": PIECE_BYTES, "documents": UNIT_DOCUMENTS}
    if settings.kind != "text" or not settings.longest_block:
        return sizes  # long lines stay whole, as in version 0.2 and earlier
    return {**sizes, "line": LINE_BYTES, "block": settings.longest_block}


class Unit(NamedTuple):
    """A part of a corpus without gaps.

    Attributes:
      side: TRAIN, VALIDATION, or SPLIT where a hash of each text decides.
      payload: what the corpus's `read` turns into documents.
    """

    side: str
    payload: list


class Files:
    """Text or records (JSON lines, Parquet) in files.

    A text file is one document. A file of more than PIECE_BYTES is read in pieces, and each piece
    is a document: it ends at the first blank line after PIECE_BYTES, or at the first line end after
    twice as many bytes if there is no blank line before. A line of more than 2 * LINE_BYTES is read
    in parts (`long_lines.py`), and a piece ends after each. So every piece fits into memory.

    Args:
      settings: config section `data`.

    Raises:
      UserError: no files, files of a format that is not read, or files that are both trained on and
        validated with.
    """

    pretokenized = False
    documents = None  # their number is known only when all is read

    def __init__(self, settings):
        self.settings = settings
        if settings.validation_path:
            check_apart(settings)
            self.keys = {TRAIN: "path", VALIDATION: "validation_path"}
        else:
            self.keys = {SPLIT: "path"}
        for side in self.keys:
            self._files(side)

    def _files(self, side):
        return examples.corpus_files(self.settings, self.keys[side])

    def revision(self):
        """16 hexadecimal digits that change with the files: a hash of their names and sizes.

        The directories do not count, so that files may be moved.
        """
        digest = hashlib.sha256()
        for side in self.keys:
            for file in self._files(side):
                size = pathlib.Path(file).stat().st_size
                digest.update(f"{side} {os.path.basename(file)} {size}\n".encode())
        return digest.hexdigest()[:16]

    def units(self):
        """Yields every `Unit`, always the same ones in the same order."""
        for side in self.keys:
            blocks, size = [], 0
            for file in self._files(side):
                for block, block_size in self._sized_blocks(file):
                    blocks.append(block)
                    size += block_size
                    if size >= UNIT_BYTES:
                        yield Unit(side, blocks)
                        blocks, size = [], 0
            if blocks:
                yield Unit(side, blocks)

    def _sized_blocks(self, file):
        """Yields (block, its size) of consecutive blocks of a file.

        A block of a table is (file, number of its first row, 0, list of records). Other blocks are
        those of `_blocks`.
        """
        if not is_parquet(file):
            yield from ((block, len(block[-1])) for block in self._blocks(file))
            return
        for first, records in parquet_records(file, examples.fields(self.settings)):
            # The size of the text, not of its form in memory: then units are always the same ones.
            yield (file, first, 0, records), sum(map(self._size, records))

    def _size(self, record):
        values = (find_field(record, name) for name in examples.fields(self.settings))
        return sum(len(value) for value in values if isinstance(value, str))

    def _blocks(self, file):
        """Yields (file, its first line, its first byte, bytes) of consecutive blocks of lines."""
        is_text = self.settings.kind == "text"
        cuts = is_text and self.settings.longest_block
        lines, size, first_line, first_byte = [], 0, 1, 0
        for line in read_parts(file, LINE_BYTES) if cuts else read_lines(file):
            lines.append(line)
            size += len(line)
            blank = not is_text or not line.strip()
            part = cuts and not line.endswith(b"\n")  # of a long line
            if part or size >= (PIECE_BYTES if blank else 2 * PIECE_BYTES):
                data = b"".join(lines)
                yield file, first_line, first_byte, data
                first_line, first_byte = first_line + data.count(b"\n"), first_byte + size
                lines, size = [], 0
        if lines:
            yield file, first_line, first_byte, b"".join(lines)

    def read(self, payload, bad=None):
        """Yields the `Example`s of a unit, empty ones too.

        Args:
          payload: of the unit. bad: a `BadLines`, to which the bad lines that are skipped are
            added.

        Raises:
          UserError: a damaged line; names file and line.
        """
        settings, bad = self.settings, bad or BadLines(self.settings)
        for file, line, byte, data in payload:
            if is_parquet(file):
                yield from examples.record_examples(settings, file, data, bad, line)
            elif settings.kind == "jsonl":
                yield from examples.jsonl_examples(settings, file, data, bad, line, byte)
            else:
                text = decode_utf8(file, data, line, byte)
                yield from examples.text_examples(settings, plain_newlines(text))


class Documents:
    """A data set of numbered documents, read through a library.

    Args:
      settings: config section `data`. library: an object of `libraries.py`.
    """

    def __init__(self, settings, library):
        self.settings, self.library = settings, library
        self.sizes = {TRAIN if library.has_validation else SPLIT: library.size(TRAIN)}
        if library.has_validation:
            self.sizes[VALIDATION] = library.size(VALIDATION)
        self.documents = sum(self.sizes.values())
        self.pretokenized = library.pretokenized

    def revision(self):
        """Text that changes with the version that the library reads."""
        return self.library.revision()

    def units(self):
        """See `Files.units`."""
        for side, total in self.sizes.items():
            for start in range(0, total, UNIT_DOCUMENTS):
                yield Unit(side, [side, start, min(start + UNIT_DOCUMENTS, total)])

    def read(self, payload, bad=None):
        """Yields the `Example`s of a unit, empty ones too; `Tokens` if it is pre-tokenised.

        Args:
          payload: of the unit. bad: see `Files.read`; a data set has no bad lines.

        Raises:
          UserError: a field that is missing or holds no text.
        """
        del bad
        side, start, stop = payload
        side = VALIDATION if side == VALIDATION else TRAIN
        for first in range(start, stop, READ_DOCUMENTS):
            last = min(first + READ_DOCUMENTS, stop)
            for target, source in zip(*self.library.read(side, first, last), strict=True):
                if self.pretokenized:
                    yield Tokens(_ids(target), None if source is None else _ids(source))
                else:
                    yield examples.Example(target, source)


class Tokens(NamedTuple):
    """A row of a pre-tokenised data set.

    Attributes:
      target: [n] int32, token ids. source: [m] int32, those of the condition of a pair, or None.
    """

    target: np.ndarray
    source: np.ndarray | None = None


def _ids(values):
    return np.asarray(values, np.int32)


def split_document(settings, document):
    """Yields (whether it is held out, part) for the parts of a document, an `Example` or `Tokens`.

    See `split.split_example`.
    """
    if isinstance(document, Tokens):
        key = document.target if document.source is None else document.source
        yield is_held_out(key.tobytes(), settings.validation_fraction), document
    else:
        yield from split_example(settings, document)


def is_empty(document):
    """Whether a document, or one half of a pair, has nothing in it."""
    if isinstance(document, Tokens):
        return not len(document.target) or (
            document.source is not None and not len(document.source)
        )
    return examples.is_empty(document)


def open_corpus(settings):
    """The `Files` or `Documents` of the config section `data`.

    Raises:
      UserError: files or data sets that are not there, or a kind that is never prepared.
    """
    if settings.kind == "unicode_names":
        raise UserError(
            "config.data.kind=unicode_names needs no preparing: leave config.data.prepared empty"
        )
    if settings.kind in LIBRARIES:
        return Documents(settings, LIBRARIES[settings.kind](settings))
    return Files(settings)
