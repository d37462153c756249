"""Array aliases with their shapes, and the batch.

B batch, L text length, C encoder (latent) width. `@typed` checks the shapes of a
function's arguments and result when it is traced, so a compiled step pays nothing for it.
"""

from __future__ import annotations

import beartype
import flax.struct
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
from jaxtyping import Bool, Float, Int

Array = jaxtyping.Array | np.ndarray

Tokens = Int[Array, "B L"]
Mask = Bool[Array, "B L"]
Latents = Float[Array, "B L C"]
PerExample = Float[Array, "B"]
ExampleMask = Bool[Array, "B"]
AttentionMask = Bool[Array, "B L L"]

typed = jaxtyping.jaxtyped(typechecker=beartype.beartype)


@flax.struct.dataclass
class Never:
    """Tokens that a sampler must not write.

    Attributes:
      where: [B, L, K] bool: at which positions each of the K tokens is forbidden. With a group, its
        last column says where that is forbidden.
      tokens: the ids of the tokens, a tuple.
      group: the ids of many tokens that are forbidden together, a tuple; None: there is no group.
    """

    where: jax.Array
    tokens: tuple[int, ...] = flax.struct.field(pytree_node=False)
    group: tuple[int, ...] | None = flax.struct.field(pytree_node=False, default=None)

    def forbid(self, logits, where):
        """Logits [..., V] of some positions with -inf for the tokens that are forbidden there.

        Args:
          where: [..., K] bool, `where` at these positions.
        """
        tokens = jnp.asarray(self.tokens, jnp.int32)
        if self.group is not None:
            is_in_group = np.zeros(logits.shape[-1], bool)
            is_in_group[list(self.group)] = True
            where, of_group = where[..., :-1], where[..., -1:]
            logits = jnp.where(of_group & is_in_group, -jnp.inf, logits)
        return logits.at[..., tokens].set(jnp.where(where, -jnp.inf, logits[..., tokens]))


@flax.struct.dataclass
class Batch:
    """Tokenised text. Rows of the data are [condition | target | padding]. In training and in
    sampling the condition may be anywhere in a row.

    Attributes:
      tokens: [B, L] int32, token ids.
      is_cond: [B, L] bool, positions of the condition: their tokens are given (all False for
        unconditional text). The others are the target.
      is_valid: [B, L] bool, positions that hold text (condition or target, its EOS included), not
        padding.
      is_filler: [B, L] bool, padding that fills the end of a gap between given positions; it is
        part of the target, but not valid. None: there is none.
      never: tokens that sampling must not write, and where. None: there are none.
      places: of rows that were cut to their bucket, the place in a whole row of each of the L
        positions, L increasing integers. None: rows are whole, and places count from 0.
    """

    tokens: Tokens
    is_cond: Mask
    is_valid: Mask
    is_filler: Mask | None = None
    never: Never | None = None
    places: tuple[int, ...] | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def source_padding(self):
        """[B, L] bool, the padding between a source and its target."""
        return self.is_cond & ~self.is_valid


def position_of(place, places):
    """The position of a place in rows that may have been cut. places: see `Batch`."""
    return place if places is None else places.index(place)


def nothing_given(rows, length):
    """A `Batch` [rows, length] without a given token."""
    nothing = jnp.zeros((rows, length), bool)
    return Batch(nothing.astype(jnp.int32), nothing, nothing)


DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def compute_dtype(name, platform=None):
    """The dtype of a computation by its name in a config.

    Args:
      name: float32, bfloat16, or auto: bfloat16 on accelerators and float32 on CPUs, which have no
        fast bfloat16.
      platform: of the devices, such as "cpu"; None: that of the devices of this machine.
    """
    if name == "auto":
        name = "float32" if (platform or jax.default_backend()) == "cpu" else "bfloat16"
    return DTYPES[name]


def counted_positions(batch, pad_in_loss):
    """[B, L] bool, the positions whose loss counts: the target with the padding that fills its gaps
    up, and with `pad_in_loss` the padding after the text too. The condition never counts.
    """
    target = ~batch.is_cond
    if pad_in_loss:
        return target
    has_text = batch.is_valid if batch.is_filler is None else batch.is_valid | batch.is_filler
    return target & has_text
