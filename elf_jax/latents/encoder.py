"""Tokens to clean latents: a frozen encoder, its attention mask and its normalisation.

    x = (raw(tokens, mask) - mean) / std

As in ELF, arXiv 2605.10938. B batch, L length, C encoder width.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from elf_jax.core.types import AttentionMask, ExampleMask, Latents, Mask, Tokens, typed
from elf_jax.networks.attention import Groups

COND, TARGET = 1, 2  # bits of `Groups`


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """A frozen encoder, without its parameters.

    Attributes:
      kind: as in config.encoder.kind.
      width: C.
      raw: function (params, tokens [B, L], `Groups`) -> [B, L, C].
      mean, std: of the raw output; latents are (raw - mean) / std.
      measured: whether mean and std were measured on the training data.
    """

    kind: str
    width: int
    raw: Callable
    mean: float
    std: float
    measured: bool = False

    @typed
    def encode(
        self, params, tokens: Tokens, is_cond: Mask, is_valid: Mask, drop: ExampleMask
    ) -> Latents:
        """Clean latents of tokens.

        Args:
          params: the encoder's parameters, float32; an argument, so that `jax.jit` does not make
            constants of them.
          tokens: [B, L] token ids.
          is_cond, is_valid: [B, L], see `Batch`.
          drop: [B], True for rows whose condition is dropped.

        Returns:
          [B, L, C] float32 without a gradient; zero at conditions that are dropped.
        """
        raw = self.raw(params, tokens, attention_groups(is_cond, is_valid, drop))
        latents = (raw.astype(jnp.float32) - self.mean) / self.std
        latents = jnp.where((is_cond & drop[:, None])[..., None], 0.0, latents)
        return jax.lax.stop_gradient(latents)


def attention_groups(is_cond, is_valid, drop):
    """Which position of the encoder may attend to which, as `Groups`.

    A condition token attends to condition tokens only, wherever they are in the row: each has its
    own position. All other positions attend to all valid tokens, or, where the condition is
    dropped, to the valid tokens outside the condition. No position attends to padding.

    Args:
      is_cond, is_valid: [B, L] bool. drop: [B] bool.
    """
    keys = jnp.where(is_cond, COND, TARGET) * is_valid
    others = jnp.where(drop, TARGET, COND | TARGET)[:, None]
    return Groups(jnp.where(is_cond, COND, others).astype(jnp.int32), keys.astype(jnp.int32))


@typed
def attention_mask(is_cond: Mask, is_valid: Mask, drop: ExampleMask) -> AttentionMask:
    """`attention_groups` as a mask [B, L, L], True where a query may attend to a key."""
    return attention_groups(is_cond, is_valid, drop).mask()
