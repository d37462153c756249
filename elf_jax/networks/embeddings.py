"""The network of diffusion on learned embeddings: that of the methods on tokens, with another stem.

    text    Dense(2d -> D) of [noisy embedding, estimate of the clean one], plus a learned vector
            where the token is given

The hidden states and the logits are those of `TokenNetwork`. The table of embeddings is a parameter
of the network, but only the method reads it: the noise is added there.

B batch, L text length, d embedding width, D network width, V vocabulary.
"""

import flax.linen as nn
import jax.numpy as jnp

from elf_jax.networks.layers import Dense
from elf_jax.networks.tokens import TokenNetwork

# Only the direction of an embedding is used. So this says how fast Adam turns them: in a step by
# about its learning rate over this, in radians.
TABLE_STD = 0.1


class EmbeddingNetwork(TokenNetwork):
    """See `TokenNetwork`.

    Attributes:
      embedding_width: d.

    Parameters: as of `TokenNetwork`, but `token_table` is [V, d]; and `stem`.
    """

    embedding_width: int = 256

    def make_stem(self):
        """Makes the table, which the method reads, and the parameters that `embed` reads."""
        table = self.vocab_size, self.embedding_width
        self.token_table = self.param("token_table", nn.initializers.normal(TABLE_STD), table)
        self.stem = Dense(self.width, self.dtype)

    def embed(self, pairs):
        """[B, L, D] of pairs [B, L, 2d] float: noisy embedding, estimate of the clean one."""
        return self.stem(pairs)

    def everything(self, tokens, t):
        """All parts at once. Initialisation calls it, so that all parameters are made."""
        clean = self.token_table[tokens]
        pairs = jnp.concatenate([clean, clean], axis=-1)
        return self.logits(self(self.embed(pairs), t, jnp.ones(tokens.shape, bool)))
