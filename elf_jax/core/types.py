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
class Batch:
    """Tokenised text: [condition | target | padding] in every row.

    Attributes:
      tokens: [B, L] int32, token ids.
      is_cond: [B, L] bool, positions of the condition (all False for unconditional text).
      is_valid: [B, L] bool, positions that hold text (condition or target, its EOS included), not
        padding.
    """

    tokens: Tokens
    is_cond: Mask
    is_valid: Mask


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
    """[B, L] bool, the positions whose loss counts: the target, and with `pad_in_loss` the padding
    too. The condition never counts.
    """
    target = ~batch.is_cond
    return target if pad_in_loss else target & batch.is_valid
