"""The network of the methods on tokens: a stem, the `Backbone` of ELF, and a head of logits.

    text    a row of the table for each token; or a mix of rows, weighted by a vector over the
            vocabulary; plus a learned vector where the token is given
    hidden  `Backbone` over the control tokens of the time, if any, and the text
    logits  Dense(RMSNorm(hidden)), not tied to the table, initialised to zero

B batch, L text length, D network width, V vocabulary.
"""

import flax.linen as nn
import jax.numpy as jnp

from elf_jax.networks.backbone import Backbone
from elf_jax.networks.layers import Dense, RMSNorm, small_normal


class TokenNetwork(nn.Module):
    """The network. `embed` makes its input, `__call__` gives hidden states, `logits` reads them.

    Attributes:
      vocab_size: V, the size of the head.
      extra_tokens: number of input tokens after the vocabulary, such as a mask. Their ids are V,
        V + 1, ...
      depth, width (D), heads: the size of the Transformer.
      time_tokens: number of control tokens for the time; 0: the network has no time input.
      causal: see `Backbone`.
      dropout, remat, unroll, attention, dtype, mesh: see `Backbone`.
    """

    vocab_size: int
    extra_tokens: int
    depth: int
    width: int
    heads: int
    time_tokens: int = 0
    causal: bool = False
    dropout: float = 0.0
    remat: str = "none"
    unroll: int = 1
    attention: str = "xla"
    dtype: jnp.dtype = jnp.float32
    mesh: object = None

    def setup(self):
        self.make_stem()
        self.given_token = self.param("given_token", small_normal, (self.width,))
        self.backbone = Backbone(
            self.depth,
            self.width,
            self.heads,
            scalars=(("time", self.time_tokens),) if self.time_tokens else (),
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

    def make_stem(self):
        """Makes the parameters that `embed` reads."""
        rows = self.vocab_size + self.extra_tokens
        self.token_table = self.param("token_table", small_normal, (rows, self.width))

    def embed(self, tokens):
        """[B, L, D] of tokens [B, L] integers, or of weights over V, [B, L, V] float."""
        table = self.token_table.astype(self.dtype)
        if jnp.issubdtype(tokens.dtype, jnp.integer):
            return table[tokens]
        return tokens.astype(self.dtype) @ table[: self.vocab_size]

    def __call__(
        self,
        text,
        t=None,
        is_given=None,
        is_dropped=None,
        ids=None,
        cache=None,
        position=None,
        places=None,
        is_key=None,
    ):
        """Hidden states of the text before the final norm. Dropout needs the RNG "dropout".

        Args:
          text: [B, L, D], from `embed`.
          t: [B] float32, the time; None for a network without it.
          is_given: [B, L] bool, the positions of the condition; None: there are none.
          is_dropped: [B, L] bool, where the network must not see the text; None: nowhere.
          ids: [B] integers that name the rows for dropout. None: their places.
          cache, position, places, is_key: see `Backbone`.

        Returns:
          [B, L, D]; with a cache (this, the new cache).
        """
        if is_given is not None:
            text = text + jnp.where(is_given[..., None], self.given_token, 0).astype(self.dtype)
        if is_dropped is not None:
            text = jnp.where(is_dropped[..., None], 0, text)
        scalars = {"time": t} if self.time_tokens else None
        return self.backbone(text, scalars, None, ids, cache, position, places, is_key)

    def logits(self, hidden):
        """Token logits in float32, [B, L, V], from hidden states [B, L, D]."""
        return self.unembed(self.final_norm(hidden)).astype(jnp.float32)

    def everything(self, tokens, t):
        """Stem and head at once. Initialisation calls it, so that all parameters are made."""
        is_given = jnp.ones(tokens.shape, bool)
        return self.logits(self(self.embed(tokens), t, is_given))
