"""Which positions of held-out texts are hidden in the infilling benchmark.

They depend only on the name of the benchmark, the place of a row in the held-out part, and the row
itself: all models and methods fill in the same. N rows, L positions.
"""

import dataclasses
import functools
import hashlib

import numpy as np

from elf_jax.core.checks import resolve_infill
from elf_jax.core.errors import UserError
from elf_jax.core.types import Never
from elf_jax.data.packing import spread
from elf_jax.data.tokenizer import decode
from elf_jax.evaluation.metrics.infill import most_frequent

SEED = 13  # of all hidden positions
FORMS = ("span", "scattered")


@dataclasses.dataclass(frozen=True, eq=False)
class Hidden:
    """Held-out rows with hidden positions.

    Attributes:
      name: such as "span_25".
      fields: of a `Batch` of N rows, [N, L] each: the true tokens, the source of pairs, and what is
        valid. special: ids of tokens that no text has, EOS and padding.
      is_text: [N, L] bool, what may be hidden: the text, without source, EOS and padding.
      is_hidden: [N, L] bool, what is hidden.
    """

    name: str
    fields: dict
    special: tuple[int, ...]
    is_text: np.ndarray
    is_hidden: np.ndarray

    def __len__(self):
        return len(self.is_hidden)

    @property
    def tokens(self):
        """[N, L] int32, the true tokens."""
        return self.fields["tokens"]

    def metric(self, name):
        """The full name of a number of this benchmark."""
        return metric_name(self.name, name)

    def template(self):
        """The fields of a `Batch` for a sampler. All valid positions that are not hidden are given,
        and so is a whole source. Other padding is not: as in other samples, the model writes it.
        Since the length of a gap is known, EOS and padding are forbidden in it. The true tokens of
        what is not given are not there.
        """
        is_given = (self.fields["is_valid"] | self.fields["is_cond"]) & ~self.is_hidden
        never = np.repeat(self.is_hidden[..., None], len(self.special), axis=-1)
        return {
            "tokens": np.where(is_given, self.tokens, 0).astype(np.int32),
            "is_cond": is_given,
            "is_valid": self.fields["is_valid"],
            "never": Never(never, self.special),
        }

    def gaps(self, rows):
        """The tokens of rows [N, L] at the hidden positions: a list of N arrays."""
        return [row[mask] for row, mask in zip(np.asarray(rows), self.is_hidden, strict=True)]

    def rows(self, gaps):
        """[N, L], the true tokens with `gaps` at the hidden positions."""
        rows = self.tokens.copy()
        for row, mask, tokens in zip(rows, self.is_hidden, gaps, strict=True):
            row[mask] = tokens
        return rows

    def whole_texts(self, tokenizer, rows):
        """The text of each of the rows [N, L], without source, EOS and padding: N strings."""
        texts = [row[mask] for row, mask in zip(np.asarray(rows), self.is_text, strict=True)]
        return decode(tokenizer, texts)

    def templates(self, tokenizer):
        """The text of each row with [[n]] in place of n hidden tokens: N strings. Spaces are set
        beside each gap, so they do not tell whether there was one.
        """
        return [self._template(tokenizer, index) for index in range(len(self))]

    def _template(self, tokenizer, index):
        is_text = self.is_text[index]
        tokens, is_hidden = self.tokens[index][is_text], self.is_hidden[index][is_text]
        borders = np.flatnonzero(np.diff(is_hidden)) + 1
        parts = []
        for run, mask in zip(np.split(tokens, borders), np.split(is_hidden, borders), strict=True):
            parts.append(f"[[{len(run)}]]" if mask[0] else decode(tokenizer, [run])[0].strip())
        return " ".join(parts)

    @property
    def statement(self):
        """A line for the user about what is hidden."""
        share = self.is_hidden.sum() / self.is_text.sum()
        frequent = most_frequent(self.tokens, self.is_hidden)
        return (
            f"infill {self.name}: {len(self)} held-out texts, {self.is_hidden.sum()} of their "
            f"tokens hidden ({share:.1%}); the most frequent one is {frequent:.1%} of them"
        )

    @functools.cached_property
    def fingerprint(self):
        """12 hexadecimal digits that identify the rows and what is hidden in them."""
        digest = hashlib.sha256(repr((self.name, self.tokens.shape)).encode())
        for array in (self.tokens, self.fields["is_cond"], self.is_text, self.is_hidden):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:12]


def metric_name(hidden, name):
    """The full name of a number of the benchmark `hidden`, such as infill_span_25_exact_tokens."""
    return f"infill_{hidden}_{name}"


def hide(name, rows, wanted, tokenizer):
    """The `Hidden` of a benchmark.

    Args:
      name: form and percent, such as "span_25", see `checks.resolve_infill`.
      rows: the held-out `Rows`.
      wanted: the most rows, evenly spread over the held-out part; 0: all. Rows with less than two
        tokens of text are left out.
      tokenizer: of the rows.

    Raises:
      UserError: no row has two tokens of text.
    """
    ((form, percent),) = resolve_infill(name).values()
    index = spread(len(rows), wanted or len(rows))
    fields = rows.take(index)
    ids = {tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
    special = tuple(sorted(ids))
    is_text = fields["is_valid"] & ~fields["is_cond"] & ~np.isin(fields["tokens"], special)
    long_enough = np.sum(is_text, axis=1) >= 2
    if not long_enough.any():
        raise UserError(
            f"no held-out text has two tokens, so {name} has nothing to hide: leave it out of "
            "config.evaluate.infill and config.compare.infill"
        )
    index, is_text = index[long_enough], is_text[long_enough]
    fields = {key: field[long_enough] for key, field in fields.items()}
    is_hidden = np.stack(
        [hidden_positions(*one, form, percent) for one in zip(is_text, index, strict=True)]
    )
    return Hidden(name, fields, special, is_text, is_hidden)


def hidden_positions(is_text, index, form, percent):
    """The hidden positions of one row, [L] bool.

    Args:
      is_text: [L] bool, what may be hidden, at least two positions.
      index: of the row in the held-out part. form: "span": successive positions of the text, at a
        random place (an EOS between two texts of a row stays); "scattered": positions drawn without
        replacement. percent: of the text, rounded; at least one position is hidden and one is not.
    """
    places = np.flatnonzero(is_text)
    count = min(max((percent * len(places) + 50) // 100, 1), len(places) - 1)
    # NumPy promises that the draws of RandomState stay the same in all versions.
    draw = np.random.RandomState([SEED, FORMS.index(form), percent, int(index)])
    if form == "span":
        start = draw.randint(len(places) - count + 1)
        chosen = places[start : start + count]
    else:
        chosen = places[draw.permutation(len(places))[:count]]
    is_hidden = np.zeros(len(is_text), bool)
    is_hidden[chosen] = True
    return is_hidden
