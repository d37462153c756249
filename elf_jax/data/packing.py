"""Token sequences to rows of equal length: one text a row, whole documents, or one long stream
cut up.

N rows, L positions. A row is [condition, EOS | target, EOS | padding].

A packer takes one text after another and gives back the rows that are finished, so that a corpus
of any size passes through; `pack_rows`, `pack_stream` and `pack_documents` do the same for texts in
memory.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from elf_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Rows:
    """Packed rows.

    Attributes:
      tokens: [N, L] int32.
      cond_length: [N] int32, positions of the condition. valid_length: [N] int32, of condition
        and target.
      read_threads: how many threads are worth reading with.
    """

    tokens: np.ndarray
    cond_length: np.ndarray
    valid_length: np.ndarray
    read_threads = 1  # they lie in memory

    def __len__(self):
        return len(self.tokens)

    @property
    def length(self):
        """L."""
        return self.tokens.shape[1]

    def take(self, index):
        """The fields of a `Batch` for the rows `index` (an integer, a slice or an array of
        integers).
        """
        position = np.arange(self.tokens.shape[1])
        return {
            "tokens": self.tokens[index],
            "is_cond": position < self.cond_length[index][..., None],
            "is_valid": position < self.valid_length[index][..., None],
        }

    def batches(self, batch_size):
        """Every row once, in order.

        Yields:
          (the fields of a `Batch`, [batch_size] bool that is False where a row only fills up the
          last batch).
        """
        return in_batches(self, batch_size)

    def sample(self, count):
        """At most `count` rows, evenly spread, as `Rows` in memory."""
        if count >= len(self):
            return self
        index = spread(len(self), count)
        return Rows(self.tokens[index], self.cond_length[index], self.valid_length[index])


def in_batches(rows, batch_size):
    """See `Rows.batches`."""
    for start in range(0, len(rows), batch_size):
        index = np.arange(start, start + batch_size)
        yield rows.take(np.minimum(index, len(rows) - 1)), index < len(rows)


def spread(total, count):
    """[min(count, total)] indices, evenly spread over range(total)."""
    return np.arange(min(count, total)) * total // max(min(count, total), 1)


class Row(NamedTuple):
    """A finished row: token ids of condition and target with their EOS, without padding."""

    tokens: np.ndarray
    cond_length: int


class RowPacker:
    """One text or pair a row, cut so that its EOS fits.

    Args:
      length: L. eos_id: of the EOS token. source_length: longest condition with its EOS.
    """

    def __init__(self, length, eos_id, source_length=0):
        self.length, self.source_length = length, source_length
        self.eos = np.array([eos_id], np.int32)
        self.counts = {"targets_cut": 0, "sources_cut": 0}

    def add(self, target, source=None):
        """Takes an int array, or two for a pair; returns a list of finished `Row`s."""
        parts, start = [], 0
        if source is not None:
            self.counts["sources_cut"] += len(source) >= self.source_length
            parts = [source[: self.source_length - 1], self.eos]
            start = len(parts[0]) + 1
        self.counts["targets_cut"] += len(target) >= self.length - start
        parts += [target[: self.length - start - 1], self.eos]
        return [Row(np.concatenate(parts), start)]

    def finish(self):
        """The last rows, once there is no more text."""
        return []


class StreamPacker:
    """All texts with EOS after each, as one stream cut into full rows; what is left over is
    dropped.
    """

    def __init__(self, length, eos_id, source_length=0):
        del source_length
        self.length, self.eos = length, np.array([eos_id], np.int32)
        self.open, self.size = [], 0
        self.counts = {"tokens_dropped": 0}

    def add(self, target, source=None):
        """See `RowPacker.add`."""
        del source
        self.open += [target, self.eos]
        self.size += len(target) + 1
        if self.size < self.length:
            return []
        stream = np.concatenate(self.open)
        end = len(stream) // self.length * self.length
        self.open, self.size = [stream[end:]], len(stream) - end
        return [Row(row, 0) for row in stream[:end].reshape(-1, self.length)]

    def finish(self):
        """See `RowPacker.finish`."""
        self.counts["tokens_dropped"] = self.size
        return []


class DocumentPacker:
    """Documents whole and greedily: each goes into the open row if it fits there, and begins a new
    one if not.

    EOS follows every document, except where the row is full. A document longer than a row begins a
    row, is cut into full ones, and its rest stays open for the next document. Nothing is dropped.
    """

    def __init__(self, length, eos_id, source_length=0):
        del source_length
        self.length, self.eos = length, np.array([eos_id], np.int32)
        self.open, self.size = [], 0
        self.counts = {"targets_cut": 0}

    def add(self, target, source=None):
        """See `RowPacker.add`."""
        del source
        if not len(target):
            return []
        rows = self.finish() if len(target) > self.length - self.size else []
        self.counts["targets_cut"] += len(target) > self.length
        while len(target) > self.length:
            rows.append(Row(target[: self.length], 0))
            target = target[self.length :]
        self.open.append(target)
        self.size += len(target)
        if self.size < self.length:
            self.open.append(self.eos)
            self.size += 1
        return rows + self.finish() if self.size == self.length else rows

    def finish(self):
        """See `RowPacker.finish`."""
        rows = [Row(np.concatenate(self.open), 0)] if self.open else []
        self.open, self.size = [], 0
        return rows


class ReadyPacker:
    """Rows that were tokenised and packed elsewhere, EOS and all: only cut, to source_length and
    to the length of a row.
    """

    def __init__(self, length, eos_id, source_length=0):
        del eos_id
        self.length, self.source_length = length, source_length
        self.counts = {"targets_cut": 0, "sources_cut": 0}

    def add(self, target, source=None):
        """See `RowPacker.add`."""
        start, row = 0, target
        if source is not None:
            self.counts["sources_cut"] += len(source) > self.source_length
            source = source[: self.source_length]
            start, row = len(source), np.concatenate([source, target])
        self.counts["targets_cut"] += len(row) > self.length
        return [Row(row[: self.length], start)]

    def finish(self):
        """See `RowPacker.finish`."""
        return []


PACKERS = {"rows": RowPacker, "stream": StreamPacker, "documents": DocumentPacker}


def resolve_packing(settings):
    """The packing of the config section `data`, never "auto".

    Raises:
      UserError: packing, padding or lengths that cannot be.
    """
    conditional = bool(settings.source_field)
    known = ("auto", *PACKERS)
    if settings.packing not in known:
        raise UserError(
            f"config.data.packing is {settings.packing!r}; use one of {', '.join(known)}"
        )
    if settings.pad not in ("pad", "eos"):
        raise UserError(f"config.data.pad is {settings.pad!r}; use pad or eos")
    if settings.length < 2:
        raise UserError(f"config.data.length is {settings.length}; use 2 or more")
    if conditional and settings.packing not in ("auto", "rows"):
        raise UserError(
            f"pairs cannot be packed as {settings.packing}: set config.data.packing to rows"
        )
    if conditional and not 1 < settings.source_length < settings.length - 1:
        raise UserError(
            f"config.data.source_length is {settings.source_length}: for pairs it must be between "
            f"2 and config.data.length - 2 = {settings.length - 2}"
        )
    if settings.packing != "auto":
        return settings.packing
    return "rows" if conditional or settings.kind == "unicode_names" else "stream"


def collect(rows, length, pad_id):
    """An iterable of `Row`s as `Rows` in memory.

    Args:
      rows: `Row`s. length: L. pad_id: fills what is left of a row (it may be EOS).
    """
    rows = list(rows)
    tokens = np.full((len(rows), length), pad_id, np.int32)
    for out, row in zip(tokens, rows, strict=True):
        out[: len(row.tokens)] = row.tokens
    cond_length = np.array([row.cond_length for row in rows], np.int32)
    return Rows(tokens, cond_length, np.array([len(row.tokens) for row in rows], np.int32))


def pack_rows(targets, sources, length, source_length, eos_id, pad_id):
    """One text a row, cut so that its EOS fits.

    Args:
      targets: list of N int arrays. sources: list of N, or None.
      length: L. source_length: longest condition with its EOS.
      eos_id, pad_id: padding is filled with pad_id (which may be EOS).

    Returns:
      (Rows, counts of what was cut).
    """
    packer = RowPacker(length, eos_id, source_length)
    sources = [None] * len(targets) if sources is None else sources
    return _pack(packer, targets, sources, length, pad_id), packer.counts


def pack_documents(texts, length, eos_id, pad_id):
    """Documents whole and greedily, see `DocumentPacker`.

    Args:
      texts: list of int arrays. length: L. eos_id, pad_id: as for `pack_rows`.

    Returns:
      (Rows, counts of what was cut).
    """
    packer = DocumentPacker(length, eos_id)
    return _pack(packer, texts, [None] * len(texts), length, pad_id), packer.counts


def pack_stream(texts, length, eos_id, part):
    """All texts with EOS after each, as one stream cut into full rows; what is left over is
    dropped.

    Args:
      texts: list of int arrays. length: L. eos_id: of the EOS token.
      part: "training" or "validation", for the message.

    Raises:
      UserError: fewer tokens than one row.
    """
    packer = StreamPacker(length, eos_id)
    rows = _pack(packer, texts, [None] * len(texts), length, eos_id)
    if not len(rows):
        raise UserError(short_stream(part, packer.size, length))
    return rows


def short_stream(part, size, length):
    """The message about a stream of `size` tokens that fills no row."""
    return (
        f"the {part} text has {size} tokens, less than one sequence of {length}: give more text or "
        "lower config.data.length"
    )


def _pack(packer, targets, sources, length, pad_id):
    rows = [row for pair in zip(targets, sources, strict=True) for row in packer.add(*pair)]
    return collect(rows + packer.finish(), length, pad_id)
