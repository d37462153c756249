"""What samplers of all methods share to be watched, see `Method.sampler`.

A sampler has one more line in its step, and one at its end:

    return carry, view.show(index, time, tokens, entropy)
    return view.result(tokens, shown, view.show(steps, 0.0, tokens, entropy))

With `UNWATCHED` they add nothing to the compiled program. B batch, L length, V vocabulary.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from elf_jax.core.types import Batch
from elf_jax.methods.method import Seen


def entropy_of(logits):
    """Entropy [...] float32 in nats of softmax(logits); logits [..., V] may be -inf."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    p = jnp.exp(log_p)
    return -jnp.sum(jnp.where(p > 0, p * log_p, 0.0), axis=-1)


def likeliest_and_entropy(logits):
    """(the likeliest tokens [...] int32, entropies [...]) of logits [..., V]."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32), entropy_of(logits)


@dataclasses.dataclass(frozen=True)
class View:
    """How the states of a sampler are shown.

    Attributes:
      watch: see `Method.sampler`; None: nobody watches.
      given: a `Batch` whose `is_cond` marks tokens that are kept, or None.
      mask_id: the token that stands where there is no token yet; None: there is no such token.
      law: function from logits of the prediction to those that tokens are drawn from.
    """

    watch: Callable | None = None
    given: Batch | None = None
    mask_id: int | None = None
    law: Callable = lambda logits: logits

    def only(self, make):
        """What the function `make` returns; None if nobody watches."""
        return None if self.watch is None else make()

    def entropy(self, read, tokens=None, before=None):
        """[B, L] entropies of the distributions that tokens are read from.

        Args:
          read: the prediction, see `tokens.predictor`.
          tokens: [B, L], before they are read. Those that are no masks keep the entropy of the time
            when they were read. None: all are read anew.
          before: [B, L], the entropies before this step; None: there are none.
        """
        if self.watch is None:
            return None
        entropy = read(lambda logits: entropy_of(self.law(logits)))
        if tokens is None or before is None:
            return entropy
        return jnp.where(tokens == self.mask_id, entropy, before)

    def show(self, step, time, tokens, entropy, is_open=None):
        """What `watch` returns of a state.

        Args:
          step, time, tokens, entropy: see `Seen`.
          is_open: see `Seen`; None: where the masks are.

        A token that must never be written is noise, and its position is open.
        """
        if self.watch is None:
            return None
        if is_open is None:
            is_open = tokens == (-1 if self.mask_id is None else self.mask_id)
        if self.given is not None:
            is_cond = self.given.is_cond
            tokens = jnp.where(is_cond, self.given.tokens, tokens)
            is_open |= _is_forbidden(tokens, self.given.never)
            entropy, is_open = jnp.where(is_cond, 0.0, entropy), is_open & ~is_cond
        tokens = jnp.where(is_open, -1, tokens).astype(jnp.int32)
        scalars = jnp.asarray(step, jnp.int32), jnp.asarray(time, jnp.float32)
        return self.watch(Seen(*scalars, tokens, is_open, entropy.astype(jnp.float32)))

    def show_likeliest(self, now, read):
        """`show` of the likeliest tokens of a prediction. now: (step, time); None if unwatched."""
        if self.watch is None:
            return None
        tokens, entropy = read(lambda logits: likeliest_and_entropy(self.law(logits)))
        return self.show(*now, tokens, entropy)

    def result(self, tokens, shown, last=None):
        """What a sampler returns: tokens, or when watched (tokens, what was shown).

        Args:
          tokens: [B, L]. shown: of all steps but the last, with a first axis. last: of the last.
            None: `shown` has all of them.
        """
        if self.watch is None:
            return tokens
        if last is None:
            return tokens, shown
        return tokens, jax.tree.map(lambda s, one: jnp.concatenate([s, one[None]]), shown, last)

    def keep_given(self, result):
        """The `result` with the given tokens in their places."""
        if self.given is None:
            return result
        tokens, *shown = (result,) if self.watch is None else result
        tokens = jnp.where(self.given.is_cond, self.given.tokens, tokens)
        return (tokens, *shown) if shown else tokens


@dataclasses.dataclass(frozen=True)
class Rewriting:
    """What a rewriter does beside the sampler. With the strength 0 it gives the text itself, in all
    states, and nothing of it is read.

    Attributes:
      caller: the `watch` of `Method.rewriter`; None: nobody watches.
      batch: the `Batch` with the texts. strength: scalar from 0 to 1.
    """

    caller: Callable | None
    batch: Batch
    strength: jax.Array

    @property
    def watch(self):
        """The `watch` for the sampler."""
        return None if self.caller is None else self._see

    def _see(self, seen):
        is_open = seen.is_open | _is_forbidden(seen.tokens, self.batch.never)
        shown = seen.replace(
            tokens=self._or_text(jnp.where(is_open, -1, seen.tokens)),
            is_open=is_open & (self.strength > 0),
            entropy=jnp.where(self.strength > 0, seen.entropy, 0.0),
        )
        return self.caller(shown)

    def result(self, made):
        """What a rewriter returns. made: what the sampler has returned, see `View.result`."""
        if self.caller is None:
            return self._or_text(made)
        tokens, shown = made
        return self._or_text(tokens), shown

    def _or_text(self, tokens):
        return jnp.where(self.strength > 0, tokens, self.batch.tokens)


def _is_forbidden(tokens, never):
    """[B, L] bool, where a `Never`, or None, forbids the tokens [B, L]."""
    if never is None:
        return jnp.zeros(tokens.shape, bool)
    where = never.where
    if never.group is not None:
        where, of_group = where[..., :-1], where[..., -1]
        of_group &= jnp.isin(tokens, jnp.asarray(never.group, jnp.int32))
    is_one = tokens[..., None] == jnp.asarray(never.tokens, jnp.int32)
    found = jnp.any(where & is_one, axis=-1)
    return found if never.group is None else found | of_group


UNWATCHED = View()
