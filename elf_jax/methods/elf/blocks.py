"""Text in blocks from left to right: which clean text each noisy position sees.

The clean text is read once, causally; position i reads token i - 1 there, so it knows the text
before i. A noisy block that begins at s sees the clean positions up to s, and itself. In training
all blocks of a row are noisy at once, and each sees the clean text before it, as in block diffusion
(BD3-LM, arXiv 2503.09573). In sampling a block is denoised and read, and then it is clean text.

B batch, L row length, C latent width.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from elf_jax.networks.block_mask import BlockMask
from elf_jax.networks.elf import Before


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How rows are divided.

    Attributes:
      first: place of the first position of the first block; what is before it is only read.
      size: number of positions of a block.
      hides_padding: whether the padding between a source and its target is hidden from all other
        positions.
    """

    first: int
    size: int
    hides_padding: bool = False

    def starts(self, length):
        """Places at which the blocks of a row of `length` positions begin, an array."""
        return np.arange(self.first, length, self.size)

    def before_all(self, hidden, cache, first=None):
        """The text `Before` all blocks of rows [B, L], of what `ELF.read` returns of the rows.

        Args:
          first: the first position of the first block, less than `self.first` in rows whose sources
            were cut to their bucket. None: rows are whole.
        """
        first = self.first if first is None else first
        sees = BlockMask(hidden.shape[1], first, self.size, moved=self.first - first)
        starts = np.arange(first, hidden.shape[1], self.size)
        return Before(hidden[:, starts], cache, sees.places, sees)

    def which_keys(self, rows):
        """[B, L] bool, which positions of the clean text of a `Batch` may be attended to; None: all
        of them. Position i reads token i - 1.
        """
        if not self.hides_padding:
            return None
        return jnp.pad(~rows.source_padding, ((0, 0), (1, 0)), constant_values=True)[:, :-1]

    def before_one(self, hidden, cache, start):
        """The text `Before` the block at `start`, traced or not. hidden: [B, D], at `start`."""
        length, size = cache.keys.shape[2], self.size
        clean = jnp.broadcast_to(jnp.arange(length) <= start, (size, length))
        sees = jnp.concatenate([clean, jnp.ones((size, size), bool)], axis=1)
        return Before(hidden[:, None], cache, start + jnp.arange(size), sees)

    def of(self, array, start):
        """The block at `start` of an array [B, L, ...]."""
        return jax.lax.dynamic_slice_in_dim(array, start, self.size, axis=1)


def readable(tokens, is_cond, drop):
    """[B, L] tokens as the network may read them: -1 at a condition that is dropped.

    Args:
      tokens: [B, L] ids. is_cond: [B, L], see `Batch`. drop: [B] bool, or one for all rows.
    """
    return jnp.where(is_cond & jnp.asarray(drop)[..., None], -1, tokens)


def shifted(latents, tokens):
    """Latents [B, L, C] and tokens [B, L] of the token before each position. Before the first one
    there is none: zero, and -1.
    """
    latents = jnp.pad(latents, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    return latents, jnp.pad(tokens, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
