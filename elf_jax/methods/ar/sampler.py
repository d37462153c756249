"""Sampling one position after another, with the keys and values of earlier positions kept.

The network is known only as a `Decoder`, so an exact distribution can take its place.

B batch, L length, V vocabulary. A row is kept as [start token, x_0 ... x_{L-1}], so that column i
is the input of position i, and column i + 1 is what is drawn there.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from elf_jax.methods.watching import UNWATCHED, entropy_of


class Decoder(NamedTuple):
    """A causal network that runs on new positions.

    Attributes:
      start: function rows -> state before the first position.
      step: function (state, inputs [B, T], is_given [B, T], position) -> (logits [B, V] of the last
        of these T positions, state). The first of them is at `position`, traced or not; None: they
        begin the row. What the state has from `position` on does not count.
      row_axis: the axis of the rows in every array of the state.
    """

    start: Callable
    step: Callable
    row_axis: int


def restricted(decoder, never):
    """The decoder without the tokens that a `Never` forbids; None forbids nothing."""
    if never is None:
        return decoder

    def step(state, inputs, is_given, position):
        logits, state = decoder.step(state, inputs, is_given, position)
        if position is None:  # several positions at once, of which nothing is drawn
            return logits, state
        where = never.where[:, position]
        where = jnp.repeat(where, len(logits) // len(where), axis=0)  # each row has all its beams
        return never.forbid(logits, where), state

    return decoder._replace(step=step)


class Rows(NamedTuple):
    """Rows with a start token, and their given positions.

    Attributes:
      sequence: [B, L + 1] int32, 0 where a token is not given.
      is_given: [B, L + 1] bool; the start token is not given.
    """

    sequence: jax.Array
    is_given: jax.Array

    @classmethod
    def of(cls, given, count, length, start_id):
        """`count` rows. `given` is a `Batch` whose `is_cond` marks the given tokens, or None."""
        start = jnp.full((count, 1), start_id, jnp.int32)
        tokens, is_given = jnp.zeros((count, length), jnp.int32), jnp.zeros((count, length), bool)
        if given is not None:
            is_given = given.is_cond
            tokens = jnp.where(is_given, given.tokens, 0)
        return cls(
            jnp.concatenate([start, tokens], axis=1),
            jnp.concatenate([jnp.zeros((count, 1), bool), is_given], axis=1),
        )

    def column(self, index):
        """(tokens [B], is_given [B]) of a column."""
        return self.sequence[:, index], self.is_given[:, index]


def prefill(decoder, rows, has_given):
    """(first position that is not given in all rows, state after the positions before it).

    All positions run in one pass. What it computes of the later ones is computed again.
    """
    state = decoder.start(len(rows.sequence))
    if not has_given:
        return 0, state
    given = rows.is_given[:, 1:]
    # A row without a free position counts as L.
    free = jnp.min(jnp.where(given, given.shape[1], jnp.arange(given.shape[1])))
    _, state = decoder.step(state, rows.sequence[:, :-1], rows.is_given[:, :-1], None)
    return free, state


def each_position(first, length, step, carry, show=None):
    """Runs step(position, carry) -> carry at the positions from `first`, traced or not, to L.

    Args:
      show: function (position, carry) to arrays; None: nobody watches. The positions before
        `first`, which are given in all rows, have states too: those of the start.

    Returns:
      (carry, what `show` returned, with a first axis [L]; None if nobody watches).
    """
    if show is None:
        return jax.lax.fori_loop(first, length, step, carry), None

    def shown(carry, position):
        carry = jax.lax.cond(position < first, lambda _, carry: carry, step, position, carry)
        return carry, show(position, carry)

    return jax.lax.scan(shown, carry, jnp.arange(length))


class Text(NamedTuple):
    """The state of a sampler.

    Attributes:
      sequence: [B, L + 1] int32, see above. has_ended: [B] bool. state: of the decoder.
      entropy: [B, L], of the distributions that tokens were drawn from; None if nobody watches.
    """

    sequence: jax.Array
    has_ended: jax.Array
    state: object
    entropy: jax.Array | None


def sample(decoder, given, count, length, start_id, choose, eos_id=None, view=UNWATCHED):
    """Tokens [B, L] int32.

    Args:
      decoder: a `Decoder`.
      given: a `Batch` whose `is_cond` marks tokens that are kept, or None. count: B. length: L.
      start_id: id of the start token.
      choose: function (logits [B, V], position) -> tokens [B].
      eos_id: id of the end-of-sequence token: after it a row has only this token. None: there is no
        such token.
      view: a `View`; it shows the tokens so far. `law` gets the logits that `choose` gets.
    """
    rows = Rows.of(given, count, length, start_id)

    def step(position, carry):
        sequence, has_ended, state, entropy = carry
        inputs = sequence[:, position], rows.is_given[:, position]
        logits, state = decoder.step(state, *(array[:, None] for array in inputs), position)
        token = choose(logits, position).astype(jnp.int32)
        kept, is_given = rows.column(position + 1)
        if eos_id is not None:
            token = jnp.where(has_ended, eos_id, token)
            has_ended |= (token == eos_id) & ~is_given
        token = jnp.where(is_given, kept, token)
        entropy = view.only(lambda: entropy.at[:, position].set(entropy_of(view.law(logits))))
        return Text(sequence.at[:, position + 1].set(token), has_ended, state, entropy)

    def show(position, text):
        is_open = jnp.broadcast_to(jnp.arange(length) > position, (count, length))
        return view.show(position, position + 1, text.sequence[:, 1:], text.entropy, is_open)

    first, state = prefill(decoder, rows, given is not None)
    unknown = view.only(lambda: jnp.zeros((count, length)))
    carry = Text(rows.sequence, jnp.zeros(count, bool), state, unknown)
    text, shown = each_position(first, length, step, carry, view.only(lambda: show))
    return view.result(text.sequence[:, 1:], shown)
