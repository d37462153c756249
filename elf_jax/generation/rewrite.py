"""Rewrites texts (`--mode=rewrite`): a text gets noise, and the sampler takes the noise away.

How much noise is the strength: 0 gives the text back, up to the tokenizer, and 1 a new text. What
stands in a row beside the text depends on the packing:

    rows               text, EOS and padding; all of them get noise, so the length may change
    stream, documents  text, and how the model goes on after it. The row must be full, since the
                       network saw full rows only. The number of tokens stays, and only they are
                       shown
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from elf_jax.core import rng
from elf_jax.core.errors import UserError
from elf_jax.core.types import Never
from elf_jax.data.packing import resolve_packing
from elf_jax.data.tokenizer import decode, encode, pad_id
from elf_jax.generation.generate import compiled
from elf_jax.generation.lines import Job, made


@dataclasses.dataclass
class Counts:
    """The number of texts, and of those with words that the tokenizer does not know."""

    texts: int = 0
    unknown: int = 0


def check_strength(strength):
    """Raises UserError unless the strength is a number from 0 to 1."""
    if not 0 <= strength <= 1:
        raise UserError(
            f"--strength is {strength}; it must be from 0 (the text itself) to 1 (a new text)"
        )


def rewrite(trained, lines, strength, seed, samples=1, run=None, counts=None):
    """Yields rewritten texts, as soon as their batch is made.

    Args:
      trained: a `TrainedModel`. lines: iterable of (where it is from, text).
      strength: from 0 to 1. seed: of all randomness. samples: how many for each text.
      run: a `jit_rewriter`, so that several calls, also with other strengths, compile once; None: a
        new one.
      counts: `Counts`, to which the texts are added; None: nobody asks.

    Yields:
      Lists of {"source": text, "text": new text, "sample": number}. They are in order, those of a
      text are next to each other.

    Raises:
      UserError: the method cannot rewrite, or a text is too long for the model.
    """
    run = jit_rewriter(trained) if run is None else run
    jobs = (job for _, job in jobs_of(trained, lines, samples, counts))
    yield from made(trained, jobs, seed, run, np.float32(strength))


def jobs_of(trained, lines, samples=1, counts=None):
    """Yields (text, `Job`) for each text that `rewrite` makes. Its arguments are as there."""
    make = _rows_job if _has_rows(trained) else _stream_job
    counts = Counts() if counts is None else counts
    for place, (where, text) in enumerate(lines):
        ids = _tokens(trained, where, text, counts)
        for number in range(samples):
            yield text, make(trained, place, number, ids, text)


def shown_positions(trained, fields):
    """The positions of a row that its new text may have, integers. fields: of a `Job`."""
    is_text = fields["is_cond"]
    return np.arange(len(is_text)) if _has_rows(trained) else np.flatnonzero(is_text)


def first_costs(trained):
    """How often the network runs before the states of `rewriter`: where rows are full, to go on
    with the text.
    """
    config, method = trained.config, trained.method
    return 0 if _has_rows(trained) else method.evaluations(config.sample, config.data.length)


def _has_rows(trained):
    return resolve_packing(trained.config.data) == "rows"


def describe(counts):
    """One line about what a user may not expect of the texts; "" if there is nothing."""
    if not counts.unknown:
        return ""
    return (
        f"note: {counts.unknown} of {counts.texts} texts have words that the model does not know "
        "(it sees that there is a word)"
    )


def jit_rewriter(trained):
    """`rewriter`, jitted."""
    return compiled(trained, rewriter(trained))


def rewriter(trained, watch=None, before=None):
    """The method's rewriter of rows. Where rows are full, it goes on with the text first: `is_cond`
    marks the text.

    Args:
      watch: see `Method.rewriter`.
      before: as `watch`, for the states of going on, which are not returned; None: nobody watches.
    """
    config, method = trained.config, trained.method
    change = method.rewriter(config.sample, config.data.length, watch)
    if _has_rows(trained):
        return change
    go_on = method.sampler(config.sample, config.data.length, before)

    def run(params, frozen, ids, batch, key, scales, strength):
        begin = rng.stream(key, "go_on")
        tokens = go_on(params, frozen, ids, batch, begin, scales)
        tokens = tokens if before is None else tokens[0]
        nothing = jnp.zeros_like(batch.is_cond)
        rows = batch.replace(tokens=tokens, is_cond=nothing, is_valid=~nothing)
        return change(params, frozen, ids, rows, key, scales, strength)

    return run


def _rows_job(trained, place, number, ids, text):
    data, tokenizer = trained.config.data, trained.tokenizer
    eos = tokenizer.eos_token_id
    tokens = np.full(data.length, pad_id(data, tokenizer), np.int32)
    tokens[: len(ids)], tokens[len(ids)] = ids, eos
    is_valid = np.arange(data.length) <= len(ids)
    fields = {"tokens": tokens, "is_cond": np.zeros_like(is_valid), "is_valid": is_valid}

    def shown(row):
        ends = np.flatnonzero(row == eos)
        return row[: ends[0]] if len(ends) else row

    return _job(tokenizer, place, number, text, fields if len(ids) else None, shown)


def _stream_job(trained, place, number, ids, text):
    length, tokenizer = trained.config.data.length, trained.tokenizer
    tokens = np.zeros(length, np.int32)
    tokens[: len(ids)] = ids
    is_text = np.arange(length) < len(ids)
    special = tuple(sorted({tokenizer.pad_token_id, tokenizer.eos_token_id}))
    never = Never(np.repeat(is_text[:, None], len(special), axis=1), special)
    fields = {"tokens": tokens, "is_cond": is_text, "is_valid": is_text, "never": never}
    return _job(
        tokenizer, place, number, text, fields if len(ids) else None, lambda row: row[: len(ids)]
    )


def _job(tokenizer, place, number, text, fields, shown):
    def record(row):
        new = "" if row is None else decode(tokenizer, [shown(row)])[0]
        return {"source": text, "text": new, "sample": number}

    return Job(place, number, fields, record)


def _tokens(trained, where, text, counts):
    """Tokens of a text. counts: `Counts`. Raises UserError if the row is too short.

    A text that is only spaces has none, so that an empty line stays an empty line.
    """
    data, tokenizer = trained.config.data, trained.tokenizer
    ids = encode(tokenizer, [text])[0] if text.strip() else []
    length, end = data.length, int(resolve_packing(data) == "rows")
    if len(ids) + end > length:
        more = f" and {end} of its end" if end else ""
        raise UserError(
            f"{where}: the text has {len(ids)} tokens{more}, and the model has room for {length}: "
            "shorten it"
        )
    unknown = tokenizer.unk_token_id
    counts.texts += 1
    counts.unknown += unknown != tokenizer.eos_token_id and unknown in ids
    return ids
