"""Sampling in blocks from left to right: a block is denoised and read, then it is clean text.

A block is made as a whole row is (`Writer`), in as many steps, with the text before it as a
condition. The network reads this text once and keeps it, so a step runs on one block only. With
guidance on the condition, it reads the text twice: with the condition, and with zeros in its place.
A block that is given in all rows costs no steps.

B batch, L row length, N steps of a block, b length of a block.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from elf_jax.core import rng
from elf_jax.core.types import Batch
from elf_jax.methods.elf.blocks import Blocks, readable, shifted
from elf_jax.methods.elf.predictor import Condition
from elf_jax.methods.elf.writer import Writer
from elf_jax.methods.method import Seen
from elf_jax.methods.watching import View
from elf_jax.networks.attention import Cache


class Clean(NamedTuple):
    """What the network has read of the text before a block.

    Attributes:
      hidden: [B, D], what the text says about the block. cache: the `Cache` of the text.
    """

    hidden: jax.Array
    cache: Cache


class Text(NamedTuple):
    """Rows of which some blocks are written.

    Attributes:
      tokens: [B, L] int32. entropy: [B, L], of what tokens were read from; 0 if nobody watches.
      clean: the `Clean` text; with guidance on the condition also that without the condition.
    """

    tokens: jax.Array
    entropy: jax.Array
    clean: tuple[Clean, ...]


@dataclasses.dataclass(frozen=True)
class LeftToRight:
    """Writes rows in blocks.

    Attributes:
      writer: a `Writer`. blocks: how rows are divided.
      params, encoder_params: of the network and of the encoder.
      rows: a `Batch` whose `is_cond` marks tokens that are kept.
      has_given: whether there may be such tokens.
    """

    writer: Writer
    blocks: Blocks
    params: dict
    encoder_params: dict
    rows: Batch
    has_given: bool

    def write(self, ids, key, scales, watch=None):
        """What `View.result` returns. Arguments: see `Method.sampler`."""
        length = self.rows.tokens.shape[1]
        starts = jnp.asarray(self.blocks.starts(length))

        def step(text, inputs):
            index, start = inputs
            draws = ids, rng.stream(key, "block", index), scales
            return self._add(text, index, start, draws, watch)

        text, shown = jax.lax.scan(step, self._begin(), (jnp.arange(len(starts)), starts))
        shown = jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), shown)
        return View(watch).result(text.tokens, shown)

    def _begin(self):
        """The `Text` before the first block, which is given."""
        rows, predictor, clean = self.rows, self.writer.predictor, []
        count, length = rows.tokens.shape
        # One position more than a row has: the network reads on after the last block.
        is_key = self.blocks.which_keys(rows)
        empty = predictor.empty_cache(count, length + 1, is_key is not None)
        is_guided = self.has_given and self.writer.settings.cfg_scale != 1
        for drop in (False, True) if is_guided else (False,):
            text = shifted(*self._clean(rows, drop))
            hidden, cache = predictor.read(self.params, *text, cache=empty, is_key=is_key)
            clean.append(Clean(hidden[:, self.blocks.first], cache))
        tokens = jnp.where(rows.is_cond, rows.tokens, 0)
        return Text(tokens, jnp.zeros(tokens.shape), tuple(clean))

    def _clean(self, rows, drop):
        """(clean latents, tokens) of a `Batch`, with or without those of the condition."""
        text = rows.tokens, rows.is_cond, rows.is_valid
        latents = self.writer.encode(self.encoder_params, *text, drop)
        return latents, readable(rows.tokens, rows.is_cond, drop)

    def _add(self, text, index, start, draws, watch):
        """(the `Text` with one more block, what was shown of its N states).

        Args:
          text: the `Text` before. index, start: number and place of the block, traced.
          draws: (ids, key of the block, scales). watch: see `Method.sampler`.
        """
        rows = self._block_of(self.rows, start)

        def see(seen):
            return watch(self._whole(seen, text, index, start)), seen.entropy

        def make():
            return self._make(text.clean, rows, start, draws, see if watch else None)

        entropy, shown = text.entropy, None
        if watch is None:
            tokens = jax.lax.cond(jnp.all(rows.is_cond), lambda: rows.tokens, make)
        else:
            tokens, (shown, entropies) = make()
            entropy = _put(entropy, entropies[-1], start)
        rows = rows.replace(tokens=jnp.where(rows.is_cond, rows.tokens, tokens))
        clean = self._read_on(text.clean, rows, start)
        return Text(_put(text.tokens, rows.tokens, start), entropy, clean), shown

    def _block_of(self, rows, start):
        """The block at `start` of a `Batch`. All of it counts as text."""
        of = self.blocks.of
        never = rows.never and rows.never.replace(where=of(rows.never.where, start))
        is_cond = of(rows.is_cond, start)
        return Batch(of(rows.tokens, start), is_cond, jnp.ones_like(is_cond), None, never)

    def _make(self, clean, rows, start, draws, see):
        """What `Writer.write` returns of a block, a `Batch`."""
        before = [self.blocks.before_one(*text, start) for text in clean]
        condition = None
        if self.has_given:
            latents = jnp.where(rows.is_cond[..., None], self._clean(rows, False)[0], 0.0)
            condition = Condition(latents, rows.is_cond)
        ids, key, scales = draws
        arrays = self.params, self.encoder_params, scales, condition
        predict = self.writer.predict(*arrays, (before[0], before[-1]))
        places = rows.never, View(see, rows if self.has_given else None), condition
        size = rows.tokens.shape[1]
        return self.writer.write(
            self.params, predict, size, ids, key, scales, *places, before=before[0]
        )

    def _read_on(self, clean, rows, start):
        """The `Clean` texts with a block, a `Batch` that is written."""
        texts = []
        for text, drop in zip(clean, (False, True), strict=False):
            hidden, cache = self.writer.predictor.read(
                self.params, *self._clean(rows, drop), cache=text.cache, position=start + 1
            )
            texts.append(Clean(hidden[:, -1], cache))
        return tuple(texts)

    def _whole(self, seen, text, index, start):
        """The state of whole rows, of a state of a block. Its time is that of the blocks before, a
        unit for each, and of this one.
        """
        is_later = jnp.arange(text.tokens.shape[1]) >= start + self.blocks.size
        is_open = _put(is_later & ~self.rows.is_cond, seen.is_open, start)
        tokens = jnp.where(is_open, -1, _put(text.tokens, seen.tokens, start))
        return Seen(
            step=index * self.writer.settings.steps + seen.step,
            time=index + seen.time,
            tokens=tokens,
            is_open=is_open,
            entropy=_put(text.entropy, seen.entropy, start),
        )


def _put(array, block, start):
    """`array` [B, L] with a block [B, b] at a place."""
    return jax.lax.dynamic_update_slice_in_dim(array, block, start, axis=1)
