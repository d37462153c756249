"""Token sequences to rows of equal length: one text a row, or one long stream cut up.

N rows, L positions. A row is [condition, EOS | target, EOS | padding].
"""

import dataclasses

import numpy as np

from elf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Rows:
    """Packed rows.

    Attributes:
      tokens: [N, L] int32.
      cond_length: [N] int32, positions of the condition. valid_length: [N] int32, of condition
        and target.
    """

    tokens: np.ndarray
    cond_length: np.ndarray
    valid_length: np.ndarray

    def __len__(self):
        return len(self.tokens)

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
        for start in range(0, len(self), batch_size):
            index = np.arange(start, start + batch_size)
            yield self.take(np.minimum(index, len(self) - 1)), index < len(self)


def pack_rows(targets, sources, length, source_length, eos_id, pad_id):
    """One text a row, cut so that its EOS fits.

    Args:
      targets: list of N int arrays. sources: list of N, or None.
      length: L. source_length: longest condition with its EOS.
      eos_id, pad_id: padding is filled with pad_id (which may be EOS).

    Returns:
      (Rows, counts of what was cut).
    """
    tokens = np.full((len(targets), length), pad_id, np.int32)
    cond_length = np.zeros(len(targets), np.int32)
    valid_length = np.zeros(len(targets), np.int32)
    cut = {"targets_cut": 0, "sources_cut": 0}
    for index, target in enumerate(targets):
        start = 0
        if sources is not None:
            cut["sources_cut"] += len(sources[index]) >= source_length
            start = _put(tokens[index], 0, sources[index][: source_length - 1], eos_id)
            cond_length[index] = start
        cut["targets_cut"] += len(target) >= length - start
        target = target[: length - start - 1]
        valid_length[index] = _put(tokens[index], start, target, eos_id)
    return Rows(tokens, cond_length, valid_length), cut


def _put(row, start, ids, eos_id):
    """Writes ids and EOS into `row` from `start`; returns where they end."""
    end = start + len(ids)
    row[start:end] = ids
    row[end] = eos_id
    return end + 1


def pack_stream(texts, length, eos_id, part):
    """All texts with EOS after each, as one stream cut into full rows; what is left over is
    dropped.

    Args:
      texts: list of int arrays. length: L. eos_id: of the EOS token.
      part: "training" or "validation", for the message.

    Raises:
      UserError: fewer tokens than one row.
    """
    eos = np.array([eos_id], np.int32)
    stream = np.concatenate([piece for ids in texts for piece in (ids, eos)])
    count = len(stream) // length
    if not count:
        raise UserError(
            f"the {part} text has {len(stream)} tokens, less than one sequence of {length}: give "
            f"more text or lower config.data.length"
        )
    full = np.full(count, length, np.int32)
    rows = stream[: count * length].reshape(count, length)
    return Rows(rows, np.zeros(count, np.int32), full)
