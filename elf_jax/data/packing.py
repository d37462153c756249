"""Packs token sequences into rows of equal length.

There are three ways: one text in every row, whole documents, or one long stream that is cut.
N rows, L positions. A row is [condition, EOS | target, EOS | padding]; with padded sources a batch
has [condition, EOS, padding | target, EOS | padding].

A packer takes one text after another and gives back the rows that are finished. So a corpus of any
size can be packed in little memory. `pack_rows`, `pack_stream` and `pack_documents` do the same
for texts in memory.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from elf_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Rows:
    """Packed rows in memory. Their condition is a prefix, the source of a pair. Other given
    positions are no part of the data: training chooses them anew in every step.

    Attributes:
      tokens: [N, L] int32.
      cond_length: [N] int32, number of positions of the condition.
      valid_length: [N] int32, number of positions of condition and target together.
      source_width: 0: in a batch, a target follows its condition. Otherwise conditions are padded
        to this length there, so that all targets begin at the same place.
      pad_id: fills the rest of a row.
      read_threads: number of threads that should read batches.
    """

    tokens: np.ndarray
    cond_length: np.ndarray
    valid_length: np.ndarray
    source_width: int = 0
    pad_id: int = 0
    read_threads = 1  # more would not help in memory

    def __len__(self):
        return len(self.tokens)

    @property
    def length(self):
        """L."""
        return self.tokens.shape[1]

    def lengths(self):
        """(lengths of the conditions, lengths of the targets), [N] integers each."""
        return self.cond_length, self.valid_length - self.cond_length

    def take(self, index):
        """The fields of a `Batch` for some rows: a dict of arrays [..., L].

        Args:
          index: an integer, a slice or an array of integers.
        """
        tokens, position = self.tokens[index], np.arange(self.length)
        cond, valid = self.cond_length[index][..., None], self.valid_length[index][..., None]
        if self.source_width:
            return self._with_padded_sources(tokens, position, cond, valid)
        return {"tokens": tokens, "is_cond": position < cond, "is_valid": position < valid}

    def _with_padded_sources(self, tokens, position, cond, valid):
        """See `take`. The padding of a condition belongs to the condition, and is not valid."""
        is_cond = np.broadcast_to(position < self.source_width, tokens.shape)
        moved = np.where(is_cond, 0, self.source_width - cond)
        is_valid = position < np.where(is_cond, cond, valid + moved)
        tokens = np.take_along_axis(tokens, np.where(is_valid, position - moved, 0), axis=-1)
        tokens = np.where(is_valid, tokens, np.int32(self.pad_id))
        return {"tokens": tokens, "is_cond": is_cond, "is_valid": is_valid}

    def batches(self, batch_size):
        """All rows once, in order.

        Yields:
          (the fields of a `Batch`, [batch_size] bool). The second is False for rows that only fill
          the last batch.
        """
        return in_batches(self, batch_size)

    def subset(self, count):
        """At most `count` of the rows, evenly spread, as `Rows`."""
        if count >= len(self):
            return self
        index = spread(len(self), count)
        return dataclasses.replace(
            self,
            tokens=self.tokens[index],
            cond_length=self.cond_length[index],
            valid_length=self.valid_length[index],
        )


def in_batches(rows, batch_size):
    """See `Rows.batches`."""
    for start in range(0, len(rows), batch_size):
        index = np.arange(start, start + batch_size)
        yield rows.take(np.minimum(index, len(rows) - 1)), index < len(rows)


def spread(total, count):
    """Indices that are evenly spread over range(total): [min(count, total)] integers."""
    return np.arange(min(count, total)) * total // max(min(count, total), 1)


class Row(NamedTuple):
    """A finished row without padding.

    Attributes:
      tokens: [n] int32, ids of condition and target with their EOS.
      cond_length: number of positions of the condition.
    """

    tokens: np.ndarray
    cond_length: int


class RowPacker:
    """One text or one pair in every row, cut so that its EOS fits.

    Attributes:
      counts: dict, how many texts and sources were cut.

    Args:
      length: L. eos_id: id of the EOS token.
      source_length: of pairs, the longest condition in tokens with its EOS.
      pad_source: whether batches will have padded sources, so that a target has less room.
    """

    def __init__(self, length, eos_id, source_length=0, pad_source=False):
        self.length, self.source_length, self.pad_source = length, source_length, pad_source
        self.eos = np.array([eos_id], np.int32)
        self.counts = {"targets_cut": 0, "sources_cut": 0}

    def add(self, target, source=None):
        """Takes the token ids of a text or pair, int arrays; returns a list of finished `Row`s."""
        parts, start = [], 0
        if source is not None:
            self.counts["sources_cut"] += len(source) >= self.source_length
            parts = [source[: self.source_length - 1], self.eos]
            start = len(parts[0]) + 1
        room = self.length - (self.source_length if self.pad_source else start)
        self.counts["targets_cut"] += len(target) >= room
        parts += [target[: room - 1], self.eos]
        return [Row(np.concatenate(parts), start)]

    def finish(self):
        """Returns a list of the last `Row`s. Call it after the last text."""
        return []


class StreamPacker:
    """All texts in one stream, with EOS after each, cut into full rows. The rest is dropped."""

    def __init__(self, length, eos_id, source_length=0, pad_source=False):
        del source_length, pad_source
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
    """Whole documents, as many in a row as fit.

    A document that fits into the open row goes there; otherwise it begins a new row. EOS follows
    every document, except where the row is full. A document longer than a row begins a new row and
    is cut into full rows; the next document may follow its rest. Nothing is dropped.
    """

    def __init__(self, length, eos_id, source_length=0, pad_source=False):
        del source_length, pad_source
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
    """Rows that were tokenised and packed elsewhere. Nothing is added, not even an EOS; they are
    only cut, to source_length and to the length of a row.
    """

    def __init__(self, length, eos_id, source_length=0, pad_source=False):
        del eos_id
        self.length, self.source_length, self.pad_source = length, source_length, pad_source
        self.counts = {"targets_cut": 0, "sources_cut": 0}

    def add(self, target, source=None):
        """See `RowPacker.add`."""
        start, row = 0, target
        if source is not None:
            self.counts["sources_cut"] += len(source) > self.source_length
            source = source[: self.source_length]
            start, row = len(source), np.concatenate([source, target])
        length = self.length - (self.source_length - start if self.pad_source else 0)
        self.counts["targets_cut"] += len(row) > length
        return [Row(row[:length], start)]

    def finish(self):
        """See `RowPacker.finish`."""
        return []


PACKERS = {"rows": RowPacker, "stream": StreamPacker, "documents": DocumentPacker}


def resolve_packing(settings):
    """The packing of the config section `data`: a key of PACKERS, never "auto"."""
    if settings.packing != "auto":
        return settings.packing
    whole = settings.source_field or settings.kind == "unicode_names"
    return "rows" if whole else "stream"


def collect(rows, length, pad_id, source_width=0):
    """An iterable of `Row`s as `Rows`.

    Args:
      rows: `Row`s. length: L. pad_id: id that fills the rest of a row (it may be EOS).
      source_width: see `Rows`.
    """
    rows = list(rows)
    tokens = np.full((len(rows), length), pad_id, np.int32)
    for out, row in zip(tokens, rows, strict=True):
        out[: len(row.tokens)] = row.tokens
    cond_length = np.array([row.cond_length for row in rows], np.int32)
    valid_length = np.array([len(row.tokens) for row in rows], np.int32)
    return Rows(tokens, cond_length, valid_length, source_width, pad_id)


def pack_rows(targets, sources, length, source_length, eos_id, pad_id, pad_source=False):
    """One text or pair in every row, see `RowPacker`.

    Args:
      targets: list of N int arrays. sources: list of N int arrays for pairs, otherwise None.
      length: L. source_length: longest condition in tokens with its EOS.
      eos_id: id of the EOS token. pad_id: id that fills the rest of a row (it may be EOS).
      pad_source: whether batches have sources that are padded to source_length.

    Returns:
      (`Rows`, dict of how many texts and sources were cut).
    """
    packer = RowPacker(length, eos_id, source_length, pad_source)
    sources = [None] * len(targets) if sources is None else sources
    width = source_length if pad_source else 0
    return _pack(packer, targets, sources, length, pad_id, width), packer.counts


def pack_documents(texts, length, eos_id, pad_id):
    """Whole documents, see `DocumentPacker`.

    Args:
      texts: list of int arrays. length: L. eos_id, pad_id: as for `pack_rows`.

    Returns:
      (`Rows`, dict of how many texts were cut).
    """
    packer = DocumentPacker(length, eos_id)
    return _pack(packer, texts, [None] * len(texts), length, pad_id), packer.counts


def pack_stream(texts, length, eos_id, part):
    """One stream, see `StreamPacker`.

    Args:
      texts: list of int arrays. length: L. eos_id: id of the EOS token.
      part: "training" or "validation", for the message.

    Returns:
      `Rows`.

    Raises:
      UserError: the texts do not fill one row.
    """
    packer = StreamPacker(length, eos_id)
    rows = _pack(packer, texts, [None] * len(texts), length, eos_id)
    if not len(rows):
        raise UserError(short_stream(part, packer.size, length))
    return rows


def short_stream(part, size, length):
    """The error message for a stream of only `size` tokens, which do not fill a row."""
    return (
        f"the {part} text has {size} tokens, less than one sequence of {length}: give more text or "
        "lower config.data.length"
    )


def _pack(packer, targets, sources, length, pad_id, source_width=0):
    rows = [row for pair in zip(targets, sources, strict=True) for row in packer.add(*pair)]
    return collect(rows + packer.finish(), length, pad_id, source_width)
