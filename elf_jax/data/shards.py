"""Prepared rows on disk, in ArrayRecord files, the shards.

ArrayRecord calls an entry of its files a record; here every record is one row. A row is
little-endian uint16 numbers (uint32 if the vocabulary or the length is too large): first the length
of the condition, then the tokens of condition and target with their EOS. Padding is not stored.

The files of a prepared directory:

  manifest.json                     written last; without it the directory is not finished
  train-00000.array_record, ...     the training rows of unit 0, ...
  validation-00000.array_record, ...
  tokenizer/                        the tokenizer of the rows, in Hugging Face format
  unfinished/                       while preparing: what the finished units hold

`manifest.py` explains the manifest.
"""

import collections.abc
import contextlib
import pathlib

import numpy as np

from elf_jax.core.checksums import file_sha256
from elf_jax.core.errors import UserError
from elf_jax.core.files import open_scratch
from elf_jax.data.examples import Example
from elf_jax.data.packing import Rows, in_batches, spread

# Every row can be read alone. Compression would save too little space to be worth its time.
WRITER_OPTIONS = "group_size:1,uncompressed"
READ_ROWS = 1 << 14  # at once, where all rows are read


def row_dtype(vocab_size, length):
    """Name of the smallest dtype that holds every token id and every length of a condition."""
    return "<u2" if max(vocab_size, length + 1) <= 1 << 16 else "<u4"


@contextlib.contextmanager
def open_shard(path, dtype):
    """A `ShardWriter`. The shard is at `path` once the block ends without an error.

    Args:
      path: of the shard. dtype: see `row_dtype`.
    """
    with open_scratch(path) as scratch:
        writer = ShardWriter(scratch, pathlib.Path(path).name, dtype)
        try:
            yield writer
        finally:
            writer.close()


class ShardWriter:
    """Writes rows to a shard, see `open_shard`.

    Attributes:
      rows: number of rows written.
    """

    def __init__(self, scratch, name, dtype):
        # Here, because the library does not exist for Windows, where data in memory works.
        from array_record.python.array_record_module import ArrayRecordWriter

        self.scratch, self.name, self.dtype, self.rows = scratch, name, dtype, 0
        self.writer = ArrayRecordWriter(str(scratch), WRITER_OPTIONS)

    def write(self, row):
        """Appends a `packing.Row`."""
        values = np.empty(len(row.tokens) + 1, self.dtype)
        values[0] = row.cond_length
        values[1:] = row.tokens
        self.writer.write(values.tobytes())
        self.rows += 1

    def finish(self):
        """Closes the shard; returns its entry in the manifest, a dict."""
        self.close()
        return {
            "name": self.name,
            "rows": self.rows,
            "bytes": self.scratch.stat().st_size,
            "sha256": file_sha256(self.scratch),
        }

    def close(self):
        """Closes the file if it is open."""
        if self.writer.is_open():
            self.writer.close()


class PreparedRows:
    """Rows that are read from shards by number, with the methods of `packing.Rows`.

    Args:
      directory: of the shards. shards: their entries in the manifest, in order.
      dtype: of the stored rows. length: L. pad_id: id that fills the rest of a row.
      source_width: see `Rows`. The shards themselves hold no padding.
    """

    read_threads = 8  # several threads hide the waiting for the disk

    def __init__(self, directory, shards, dtype, length, pad_id, source_width=0):
        import grain  # here, because the workers that write shards do not need it

        self.dtype, self.length, self.pad_id = np.dtype(dtype), length, pad_id
        self.source_width = source_width
        self.total = sum(shard["rows"] for shard in shards)
        self.directory = directory = pathlib.Path(directory)
        # With the range, Grain need not open every file to count its rows.
        names = [f"{directory / s['name']}[0:{s['rows']}]" for s in shards if s["rows"]]
        self.stored = grain.sources.ArrayRecordDataSource(names)

    def __len__(self):
        return self.total

    def lengths(self):
        """See `Rows.lengths`. All rows are read for it."""
        starts = range(0, len(self), READ_ROWS)
        parts = (self._rows(np.arange(s, min(s + READ_ROWS, len(self)))) for s in starts)
        found = [part.lengths() for part in parts]
        return tuple(np.concatenate(halves) for halves in zip(*found, strict=True))

    def take(self, index):
        """See `Rows.take`."""
        if isinstance(index, slice):
            index = np.arange(len(self))[index]
        index = np.asarray(index)
        fields = self._rows(index.ravel()).take(slice(None))
        return {name: field.reshape(*index.shape, self.length) for name, field in fields.items()}

    def batches(self, batch_size):
        """See `Rows.batches`."""
        return in_batches(self, batch_size)

    def subset(self, count):
        """See `Rows.subset`."""
        return self._rows(spread(len(self), count))

    def _records(self, index):
        try:
            return self.stored.__getitems__(index)
        except Exception as error:  # the library tells of damage and of missing files in many types
            reason = " ".join(str(error).split())[:120]
            raise UserError(
                f"the shards in {self.directory} cannot be read ({reason}): run --mode=prepare "
                "with the same config, which finds and names the damaged ones"
            ) from error

    def _rows(self, index):
        """The rows at the places `index` [n], as `Rows`."""
        index = np.where(index < 0, index + self.total, index)
        rows = self._records([int(i) for i in index]) if len(index) else []
        size = np.array([len(row) // self.dtype.itemsize for row in rows], np.int32)
        flat = np.frombuffer(b"".join(rows), self.dtype).astype(np.int32)
        is_head = np.zeros(len(flat), bool)
        is_head[np.cumsum(size) - size] = True
        tokens = np.full((len(rows), self.length), self.pad_id, np.int32)
        tokens[np.arange(self.length) < (size - 1)[:, None]] = flat[~is_head]
        return Rows(tokens, flat[is_head], size - 1, self.source_width, self.pad_id)


class RowTexts(collections.abc.Sequence):
    """Rows as `Example`s, which are decoded only when they are asked for.

    These texts have been through the tokenizer, as samples have. What the tokenizer cannot express
    is lost: T5's loses newlines and runs of spaces. A text ends at the first EOS, as a sample does;
    of a row with several documents it is the first.

    Args:
      rows: `PreparedRows` or `Rows`. tokenizer: the one they were made with.
      conditional: whether they are pairs.
    """

    def __init__(self, rows, tokenizer, conditional):
        self.rows, self.tokenizer, self.conditional = rows, tokenizer, conditional

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if not isinstance(index, slice) and not -len(self) <= index < len(self):
            raise IndexError(index)  # it ends a loop over the texts
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
