"""The network of diffusion on learned embeddings: that of the methods on tokens, with another stem.

    text    Dense(2d -> D) of [noisy embedding, estimate of the clean one], plus a learned vector
            where the token is given

The hidden states and the logits are those of `TokenNetwork`. The table of embeddings is a parameter
of the network, but only the method reads it: the noise is added there.

B batch, L text length, d embedding width, D network width, V vocabulary.
"""

import flax.linen as nn
import jax.numpy as jnp

from elf_jax.networks.backbone import Backbone
from elf_jax.networks.layers import Dense, RMSNorm, small_normal
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

    def setup(self):
        table = self.vocab_size, self.embedding_width
        self.token_table = self.param("token_table", nn.initializers.normal(TABLE_STD), table)
        self.stem = Dense(self.width, self.dtype)
        self.given_token = self.param("given_token", small_normal, (self.width,))
        self.backbone = Backbone(
            self.depth,
            self.width,
            self.heads,
            scalars=(("time", self.time_tokens),),
            causal=self.causal,
            dropout=self.dropout,
            remat=self.remat,
            unroll=self.unroll,
            attention=self.attention,
            dtype=self.dtype,
            mesh=self.mesh,
        )
        nn.share_scope(self, self.backbone)
        self.final_norm = RMSNorm()
        self.unembed = Dense(self.vocab_size, self.dtype, kernel_init=nn.initializers.zeros)

    def embed(self, pairs):
        """[B, L, D] of pairs [B, L, 2d] float: noisy embedding, estimate of the clean one."""
        return self.stem(pairs)

    def everything(self, tokens, t):
        """All parts at once. Initialisation calls it, so that all parameters are made."""
        clean = self.token_table[tokens]
        pairs = jnp.concatenate([clean, clean], axis=-1)
        return self.logits(self(self.embed(pairs), t, jnp.ones(tokens.shape, bool)))
