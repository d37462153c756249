"""Beam search: the likeliest text, approximately (arXiv 1409.3215, section 3.2).

    score of a hypothesis = sum of log p / n ** length_penalty

n is its number of tokens after the given ones, its EOS included. Of all continuations of the W best
hypotheses of a row, the W best stay. Those that end in EOS are finished and are continued no more.
So the search of width 1 is greedy. The result is the finished hypothesis with the best score, or a
better one that has no EOS at the end of the row.

B batch, W beams, L length, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from elf_jax.methods.ar.sampler import Rows, each_position, prefill
from elf_jax.methods.watching import UNWATCHED, entropy_of

NONE = -1  # in place of the id of EOS, if there is no such token


class Texts(NamedTuple):
    """Hypotheses.

    Attributes:
      sequence: [..., L + 1] int32, see `sampler`.
      entropy: [..., L + 1], of the distributions that tokens are from; None if nobody watches.
      end: [..., 1], the number of columns that have a token; None if nobody watches.
    """

    sequence: jax.Array
    entropy: jax.Array | None
    end: jax.Array | None


class Beam(NamedTuple):
    """The state of a search.

    Attributes:
      texts: `Texts` [B, W, ...] of the hypotheses. total: [B, W], their sums of log p; -inf where
        there is no hypothesis.
      best: `Texts` [B, ...], the best finished hypothesis. score: [B], its score; -inf where there
        is none.
      state: of the decoder, with B W rows.
    """

    texts: Texts
    total: jax.Array
    best: Texts
    score: jax.Array
    state: object


def search(
    decoder,
    given,
    count,
    length,
    start_id,
    beams,
    length_penalty,
    eos_id=None,
    view=UNWATCHED,
):
    """Tokens [B, L] int32. After its EOS a row has only this token.

    Args:
      beams: W. length_penalty: see above; 0: no normalisation.
      view: a `View`; it shows the text that would be the result if the row ended there.
      The other arguments are as for `sampler.sample`.
    """
    rows = Rows.of(given, count, length, start_id)
    eos_id = NONE if eos_id is None else eos_id

    def size_at(position, columns):
        """[B], how many tokens up to this position are not given."""
        return jnp.sum((columns > 0) & (columns <= position + 1) & ~rows.is_given, axis=1)

    def step(position, beam):
        log_p, state = _next(decoder, rows, beam, position)
        total, parents, tokens = _extended(beam, log_p)
        kept, is_given = (array[:, None] for array in rows.column(position + 1))
        total = jnp.where(is_given, beam.total, total)
        parents = jnp.where(is_given, jnp.arange(beams), parents)
        tokens = jnp.where(is_given, kept, tokens)
        texts = _continued(beam.texts, parents, tokens, log_p, position)
        state = _reordered(state, parents, decoder.row_axis)

        is_end = (tokens == eos_id) & ~is_given & (total > -jnp.inf)
        columns = jnp.arange(length + 1)
        size = size_at(position, columns)
        scores = jnp.where(is_end, _score(total, size, length_penalty), -jnp.inf)
        ended = texts._replace(sequence=jnp.where(columns > position + 1, eos_id, texts.sequence))
        ended = ended._replace(end=view.only(lambda: jnp.full_like(texts.end, length + 1)))
        best, score = _best(ended, scores, beam.best, beam.score)
        return Beam(texts, jnp.where(is_end, -jnp.inf, total), best, score, state)

    def result(beam, size):
        scores = _score(beam.total, size, length_penalty)
        best, _ = _best(beam.texts, scores, beam.best, beam.score)
        return best, jnp.where(rows.is_given, rows.sequence, best.sequence)[:, 1:]

    def show(position, beam):
        columns = jnp.arange(length + 1)
        best, tokens = result(beam, size_at(position, columns))
        is_open = (columns >= jnp.maximum(best.end, position + 2))[:, 1:]
        return view.show(position, position + 1, tokens, best.entropy[:, 1:], is_open)

    first, state = prefill(decoder, rows, given is not None)
    state = jax.tree.map(lambda array: jnp.repeat(array, beams, decoder.row_axis), state)
    beam = _start(rows, beams, state, view)
    beam, shown = each_position(first, length, step, beam, view.only(lambda: show))
    _, tokens = result(beam, jnp.sum(~rows.is_given[:, 1:], axis=1))
    return view.result(tokens, shown)


def _start(rows, beams, state, view):
    """All beams are the same at first, so only one of them is a hypothesis."""
    count = len(rows.sequence)
    total = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf)

    def texts(sequence):
        entropy = view.only(lambda: jnp.zeros(sequence.shape))
        return Texts(
            sequence, entropy, view.only(lambda: jnp.zeros((*sequence.shape[:-1], 1), int))
        )

    return Beam(
        texts(jnp.repeat(rows.sequence[:, None], beams, axis=1)),
        jnp.broadcast_to(total, (count, beams)).astype(jnp.float32),
        texts(rows.sequence),
        jnp.full(count, -jnp.inf, jnp.float32),
        state,
    )


def _next(decoder, rows, beam, position):
    """(log p of the next token [B, W, V], state)."""
    count, beams = beam.total.shape
    inputs = beam.texts.sequence[..., position].reshape(-1, 1)
    is_given = jnp.repeat(rows.is_given[:, position], beams)[:, None]
    logits, state = decoder.step(beam.state, inputs, is_given, position)
    return jax.nn.log_softmax(logits).reshape(count, beams, -1), state


def _extended(beam, log_p):
    """(total, parents, tokens), each [B, W], of the best continuations, the best ones first."""
    count, beams, size = log_p.shape
    total = (beam.total[..., None] + log_p).reshape(count, -1)
    total, index = jax.lax.top_k(total, beams)
    return total, index // size, (index % size).astype(jnp.int32)


def _continued(texts, parents, tokens, log_p, position):
    """The `Texts` of the parents [B, W] with the tokens [B, W] behind them."""
    sequence = jnp.take_along_axis(texts.sequence, parents[..., None], axis=1)
    sequence = sequence.at[..., position + 1].set(tokens)
    if texts.entropy is None:
        return texts._replace(sequence=sequence)
    entropy = texts.entropy.at[..., position + 1].set(entropy_of(log_p))
    entropy = jnp.take_along_axis(entropy, parents[..., None], axis=1)
    return Texts(sequence, entropy, jnp.full_like(texts.end, position + 2))


def _reordered(state, parents, row_axis):
    """The state of the decoder with the rows of the parents [B, W] of each beam."""
    count, beams = parents.shape

    def reorder(array):
        shape = array.shape
        array = array.reshape(*shape[:row_axis], count, beams, *shape[row_axis + 1 :])
        # Row by row, so that devices that hold different rows need nothing of each other.
        take = jax.vmap(lambda one, index: jnp.take(one, index, row_axis), (row_axis, 0), row_axis)
        return take(array, parents).reshape(shape)

    return jax.tree.map(reorder, state)


def _score(total, size, length_penalty):
    """Scores [B, W] of hypotheses with `size` [B] tokens."""
    return total / jnp.maximum(size, 1).astype(total.dtype)[:, None] ** length_penalty


def _best(texts, scores, best, score):
    """(best [B, ...], score [B]) of `Texts` [B, W, ...] with scores [B, W], and an earlier best
    one.
    """
    index = jnp.argmax(scores, axis=1)[:, None]
    found = jnp.take_along_axis(scores, index, axis=1)[:, 0]

    texts = jax.tree.map(
        lambda array: jnp.take_along_axis(array, index[..., None], axis=1)[:, 0], texts
    )
    is_better = found > score
    best = jax.tree.map(lambda new, old: jnp.where(is_better[:, None], new, old), texts, best)
    return best, jnp.where(is_better, found, score)
