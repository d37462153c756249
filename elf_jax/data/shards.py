"""Prepared rows on disk: ArrayRecord shards and the manifest that describes them.

A record is one row: little-endian uint16, or uint32 where the vocabulary or the row is too large
for that; first the length of the condition, then the tokens of condition and target with their EOS.
Padding is not stored. The files of a prepared directory:

  manifest.json                     written last: a directory without it is not finished
  train-00000.array_record, ...     the training rows of unit 0, ...
  validation-00000.array_record, ...
  tokenizer/                        what the rows were made with, in Hugging Face format
  unfinished/                       while preparing: what the finished units hold

See `manifest.py` for what the manifest says and how it is checked.
"""

import collections.abc
import hashlib
import os
import pathlib

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from elf_jax.data.packing import Rows, in_batches, spread
from elf_jax.data.sources import Example

# One record a group, for random access; the ids of a row compress too little to be worth the time.
WRITER_OPTIONS = "group_size:1,uncompressed"


def record_dtype(vocab_size, length):
    """Name of the smallest dtype that holds every token id and every length of a condition."""
    return "<u2" if max(vocab_size, length + 1) <= 1 << 16 else "<u4"


class ShardWriter:
    """Writes rows to a shard that appears under its name only when it is complete.

    Args:
      path: of the shard. dtype: see `record_dtype`.
    """

    def __init__(self, path, dtype):
        self.path, self.dtype, self.rows = pathlib.Path(path), dtype, 0
        self.scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        self.writer = ArrayRecordWriter(str(self.scratch), WRITER_OPTIONS)

    def write(self, row):
        """Appends a `packing.Row`."""
        record = np.empty(len(row.tokens) + 1, self.dtype)
        record[0] = row.cond_length
        record[1:] = row.tokens
        self.writer.write(record.tobytes())
        self.rows += 1

    def finish(self):
        """Gives the shard its name; returns what the manifest says of it."""
        self.writer.close()
        entry = {
            "name": self.path.name,
            "rows": self.rows,
            "bytes": self.scratch.stat().st_size,
            "sha256": file_sha256(self.scratch),
        }
        os.replace(self.scratch, self.path)
        return entry

    def discard(self):
        """Leaves nothing behind."""
        if self.writer.is_open():
            self.writer.close()
        self.scratch.unlink(missing_ok=True)


def file_sha256(path):
    """SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class PreparedRows:
    """Rows read from shards by random access, with the interface of `packing.Rows`.

    Args:
      directory: of the shards. shards: what the manifest says of them, in order.
      dtype: of the records. length: L. pad_id: fills what is left of a row.
    """

    read_threads = 8  # they lie on disk, or further away

    def __init__(self, directory, shards, dtype, length, pad_id):
        import grain  # here, because the workers that write shards do without it

        self.dtype, self.length, self.pad_id = np.dtype(dtype), length, pad_id
        self.total = sum(shard["rows"] for shard in shards)
        directory = pathlib.Path(directory)
        # The range spares opening every file only to count its records.
        names = [f"{directory / s['name']}[0:{s['rows']}]" for s in shards if s["rows"]]
        self.source = grain.sources.ArrayRecordDataSource(names)

    def __len__(self):
        return self.total

    def take(self, index):
        """See `Rows.take`."""
        if isinstance(index, slice):
            index = np.arange(len(self))[index]
        index = np.asarray(index)
        fields = self._read(index.ravel())
        return {
            name: field.reshape(*index.shape, self.length)
            for name, field in _masks(*fields).items()
        }

    def batches(self, batch_size):
        """See `Rows.batches`."""
        return in_batches(self, batch_size)

    def sample(self, count):
        """At most `count` rows, evenly spread, as `Rows` in memory."""
        return Rows(*self._read(spread(len(self), count)))

    def _read(self, index):
        """tokens [n, L] int32, cond_length [n] int32, valid_length [n] int32."""
        index = np.where(index < 0, index + self.total, index)
        records = self.source.__getitems__([int(i) for i in index]) if len(index) else []
        size = np.array([len(record) // self.dtype.itemsize for record in records], np.int32)
        flat = np.frombuffer(b"".join(records), self.dtype).astype(np.int32)
        is_head = np.zeros(len(flat), bool)
        is_head[np.cumsum(size) - size] = True
        tokens = np.full((len(records), self.length), self.pad_id, np.int32)
        tokens[np.arange(self.length) < (size - 1)[:, None]] = flat[~is_head]
        return tokens, flat[is_head], size - 1


def _masks(tokens, cond_length, valid_length):
    return Rows(tokens, cond_length, valid_length).take(slice(None))


class RowTexts(collections.abc.Sequence):
    """Rows as the texts that a model is to be compared with: `Example`s, decoded when asked for.

    They have been through the tokenizer, like samples: what it cannot express is gone (T5's loses
    newlines and runs of spaces). A text ends at the first EOS, as a sample does; that of a row
    with several documents is its first.

    Args:
      rows: `PreparedRows` or `Rows`. tokenizer: theirs. conditional: whether they have a source.
    """

    def __init__(self, rows, tokenizer, conditional):
        self.rows, self.tokenizer, self.conditional = rows, tokenizer, conditional

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        fields = self.rows.take(index)
        if isinstance(index, slice):
            parts = zip(fields["tokens"], fields["is_cond"], fields["is_valid"], strict=True)
            return [self._example(*part) for part in parts]
        return self._example(fields["tokens"], fields["is_cond"], fields["is_valid"])

    def _example(self, tokens, is_cond, is_valid):
        source = self._text(tokens[is_cond]) if self.conditional else None
        return Example(self._text(tokens[is_valid & ~is_cond]), source)

    def _text(self, ids):
        ends = np.flatnonzero(ids == self.tokenizer.eos_token_id)
        ids = ids[: ends[0]] if len(ends) else ids
        return self.tokenizer.decode(
            ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
