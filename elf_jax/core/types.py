"""Array aliases with their shapes, and the batch.

B batch, L text length, C encoder (latent) width, V vocabulary. `@typed` checks the shapes of a
function's arguments and result when it is traced, so a compiled step pays nothing for it.
"""

from __future__ import annotations

import beartype
import flax.struct
import jaxtyping
import numpy as np
from jaxtyping import Bool, Float, Int

Array = jaxtyping.Array | np.ndarray

Tokens = Int[Array, "B L"]
Mask = Bool[Array, "B L"]
Latents = Float[Array, "B L C"]
Logits = Float[Array, "B L V"]
PerExample = Float[Array, "B"]
ExampleMask = Bool[Array, "B"]
AttentionMask = Bool[Array, "B L L"]
Scalar = Float[Array, ""]

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
