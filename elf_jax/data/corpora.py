"""Corpora of any size: what a source holds, as numbered units of work that need no more than a
part of it in memory.

A unit is the same whoever asks for it: a block of lines of the files, or a range of the documents
of a data set (`libraries.py`). Whoever has a unit can read its documents in another process.
"""

import hashlib
import os
import pathlib
from typing import NamedTuple

import numpy as np

from elf_jax.core.errors import UserError
from elf_jax.data import sources
from elf_jax.data.libraries import HuggingFace, TensorFlowDatasets

UNIT_BYTES = 64 << 20  # of files, decompressed, in a unit; it travels to the worker
UNIT_DOCUMENTS = 32768  # of a data set in a unit
READ_DOCUMENTS = 256  # of a data set, read in one go
PIECE_BYTES = 1 << 20  # of a file, at least, that is looked at in one go

TRAIN, VALIDATION, SPLIT = "train", "validation", "split"


def unit_sizes():
    """What the units of a corpus depend on besides its content."""
    return {"bytes": UNIT_BYTES, "piece": PIECE_BYTES, "documents": UNIT_DOCUMENTS}


class Unit(NamedTuple):
    """A contiguous part of a corpus.

    Attributes:
      side: TRAIN, VALIDATION, or SPLIT: a hash of each text decides.
      payload: what `read` of the corpus makes documents of.
    """

    side: str
    payload: list


class Files:
    """Text or JSON lines in files.

    A text file is one document; one of more than PIECE_BYTES is read in pieces that end at a blank
    line, each a document. (Without blank lines it ends after twice as many bytes at any line.)
    """

    pretokenized = False
    documents = None  # not known before all is read

    def __init__(self, settings):
        self.settings = settings
        if settings.validation_path:
            sources.check_apart(settings)
            self.sides = {TRAIN: settings.path, VALIDATION: settings.validation_path}
        else:
            self.sides = {SPLIT: settings.path}
            sources.find_files(settings.path)

    def revision(self):
        """What tells that the files are still the same: a hash of their names and sizes."""
        digest = hashlib.sha256()
        for side, path in self.sides.items():
            for file in sources.find_files(path):
                size = pathlib.Path(file).stat().st_size
                digest.update(f"{side} {os.path.basename(file)} {size}\n".encode())
        return digest.hexdigest()[:16]

    def units(self):
        """Yields every `Unit`, always the same ones in the same order."""
        for side, path in self.sides.items():
            blocks, size = [], 0
            for file in sources.find_files(path):
                for block in self._blocks(file):
                    blocks.append(block)
                    size += len(block[-1])
                    if size >= UNIT_BYTES:
                        yield Unit(side, blocks)
                        blocks, size = [], 0
            if blocks:
                yield Unit(side, blocks)

    def _blocks(self, file):
        """Yields (file, its first line, its first byte, bytes) of consecutive blocks of lines."""
        lines, size, first_line, first_byte = [], 0, 1, 0
        for number, line in enumerate(sources.read_lines(file), 1):
            lines.append(line)
            size += len(line)
            blank = self.settings.kind == "jsonl" or not line.strip()
            if size >= (PIECE_BYTES if blank else 2 * PIECE_BYTES):
                yield file, first_line, first_byte, b"".join(lines)
                first_line, first_byte = number + 1, first_byte + size
                lines, size = [], 0
        if lines:
            yield file, first_line, first_byte, b"".join(lines)

    def read(self, payload):
        """Yields the examples of a unit, empty ones too.

        Raises:
          UserError: damaged lines; names file and line.
        """
        for file, line, byte, data in payload:
            text = sources.decode_utf8(file, data, line, byte)
            if self.settings.kind == "jsonl":
                yield from sources.jsonl_examples(self.settings, file, text, line)
            else:
                yield from sources.text_examples(self.settings, sources.plain_newlines(text))


class Documents:
    """A data set of numbered documents, read through a library by name.

    Args:
      settings: config section `data`. library: of `libraries.py`.
    """

    def __init__(self, settings, library):
        self.settings, self.library = settings, library
        self.sides = {TRAIN if library.has_validation else SPLIT: library.size(TRAIN)}
        if library.has_validation:
            self.sides[VALIDATION] = library.size(VALIDATION)
        self.documents = sum(self.sides.values())
        self.pretokenized = library.pretokenized

    def revision(self):
        """What the library knows of the version that it reads."""
        return self.library.revision()

    def units(self):
        """See `Files.units`."""
        for side, total in self.sides.items():
            for start in range(0, total, UNIT_DOCUMENTS):
                yield Unit(side, [side, start, min(start + UNIT_DOCUMENTS, total)])

    def read(self, payload):
        """Yields the examples of a unit, empty ones too; `Tokens` of a pre-tokenised data set.

        Raises:
          UserError: a field that is missing or holds no text.
        """
        side, start, stop = payload
        part = VALIDATION if side == VALIDATION else TRAIN
        for first in range(start, stop, READ_DOCUMENTS):
            last = min(first + READ_DOCUMENTS, stop)
            targets, conditions = self.library.read(part, first, last)
            for target, condition in zip(targets, conditions, strict=True):
                if self.pretokenized:
                    yield Tokens(_ids(target), None if condition is None else _ids(condition))
                else:
                    yield sources.Example(target, condition)


class Tokens(NamedTuple):
    """A row of a pre-tokenised data set: token ids, and for a pair those of the condition."""

    target: np.ndarray
    source: np.ndarray | None = None


def _ids(values):
    return np.asarray(values, np.int32)


def split_document(settings, document):
    """The parts of a document with the side that each is on; see `sources.split_example`."""
    if isinstance(document, Tokens):
        key = document.target if document.source is None else document.source
        yield sources.is_held_out(key.tobytes(), settings.validation_fraction), document
    else:
        yield from sources.split_example(settings, document)


def is_empty(document):
    """Whether a document or one side of a pair has nothing in it."""
    if isinstance(document, Tokens):
        return not len(document.target) or (
            document.source is not None and not len(document.source)
        )
    return sources.is_empty(document)


def open_corpus(settings):
    """The corpus of the config section `data`.

    Raises:
      UserError: a source that there is not, files or data sets that are not there.
    """
    sources.check_source(settings)
    if settings.kind == "unicode_names":
        raise UserError(
            "config.data.kind=unicode_names needs no preparing: leave config.data.prepared empty"
        )
    if settings.kind == "tfds":
        return Documents(settings, TensorFlowDatasets(settings))
    if settings.kind == "hf":
        return Documents(settings, HuggingFace(settings))
    return Files(settings)
