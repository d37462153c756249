"""The ELF network: a Transformer over [time | guidance | mode | text] with two heads (arXiv
2605.10938).

    text    Dense(2C -> C), Dense(C -> bottleneck, no bias), Dense(bottleneck -> D)
    hidden  `Backbone` over the control tokens and the text
    x_hat   Dense(RMSNorm(hidden))              to predict clean latents
    logits  Dense(GELU(Dense(hidden)))          to read tokens, in decode mode

A network with blocks also reads clean text from left to right, with the same Transformer (`read`).
Noisy text then sees the clean text before its block, as in block diffusion (BD3-LM, arXiv
2503.09573), and what the last position of it knows:

    clean   Dense(C -> D), `Backbone` without control tokens, causal
    text    as above, plus Dense(RMSNorm(hidden of the clean text before the block))
    logits  Dense(GELU(Dense(RMSNorm(hidden)))) of the next token, with the same second layer

With a table, a learned [V, D], clean text also has the row of each token, and the last layer of
both heads is the table. So what one of the three learns of a word, the others know:

    clean   Dense(C -> D) plus rows of the table, `Backbone` as above
    logits  GELU(Dense(hidden)) @ table.T       in decode mode
    logits  RMSNorm(hidden) @ table.T           of the next token

B batch, L text length, C latent width, D network width, V vocabulary.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from elf_jax.networks.attention import Cache
from elf_jax.networks.backbone import Backbone
from elf_jax.networks.block_mask import BlockMask
from elf_jax.networks.layers import Dense, RMSNorm, product, small_normal


class Before(NamedTuple):
    """The clean text before blocks of noisy text, as a network with blocks has read it.

    Attributes:
      hidden: [B, N, D], what the clean text before each of the N blocks says.
      cache: `Cache` [depth, B, S, H, K] of the clean text.
      places: [L], the place in its row of each noisy position.
      sees: which clean positions and which noisy ones each noisy position sees: a `BlockMask`, or
        [L, S + L] bool.
    """

    hidden: jax.Array
    cache: Cache
    places: jax.Array
    sees: BlockMask | jax.Array

    def rows(self, choose):
        """The text before some of the rows. choose: function of an array [B, ...]."""
        cache = jax.tree.map(jax.vmap(choose), self.cache)
        return self._replace(hidden=choose(self.hidden), cache=cache)


class ELF(nn.Module):
    """The network. `__call__` gives hidden states; `x_head` and `logit_head` read them.

    Attributes:
      latent_width: C.
      vocab_size: V.
      depth, width (D), heads: the size of the Transformer.
      bottleneck: width between the two input projections.
      time_tokens, guidance_tokens, mode_tokens: how many control tokens carry each signal.
      blocks: whether the network has what it needs to write in blocks.
      has_table: with blocks, whether there is a table.
      dropout, remat, unroll, attention, dtype, mesh: see `Backbone`.
    """

    latent_width: int
    vocab_size: int
    depth: int
    width: int
    heads: int
    bottleneck: int = 128
    time_tokens: int = 4
    guidance_tokens: int = 4
    mode_tokens: int = 4
    blocks: bool = False
    has_table: bool = False
    dropout: float = 0.0
    remat: str = "none"
    unroll: int = 1
    attention: str = "xla"
    dtype: jnp.dtype = jnp.float32
    mesh: jax.sharding.Mesh | None = None

    def setup(self):
        dense = partial(Dense, dtype=self.dtype, mesh=self.mesh)
        self.self_cond_proj = dense(self.latent_width)
        self.text_in = dense(self.bottleneck, use_bias=False)
        self.text_out = dense(self.width)
        self.backbone = Backbone(
            self.depth,
            self.width,
            self.heads,
            scalars=(("time", self.time_tokens), ("guidance", self.guidance_tokens)),
            switches=(("mode", self.mode_tokens),),
            dropout=self.dropout,
            remat=self.remat,
            unroll=self.unroll,
            attention=self.attention,
            dtype=self.dtype,
            mesh=self.mesh,
        )
        # The backbone's parameters lie beside the others, as in the published checkpoints.
        nn.share_scope(self, self.backbone)
        self.final_norm = RMSNorm()
        self.x_out = dense(self.latent_width, kernel_init=nn.initializers.zeros)
        self.decode_proj = dense(self.width if self.has_table else self.latent_width)
        if self.blocks:
            self.clean_in = dense(self.width)
            self.before_norm = RMSNorm()
            self.before_out = dense(self.width)
        if self.has_table:
            rows = self.vocab_size, self.width
            self.token_table = self.param("token_table", small_normal, rows)
        else:
            self.unembed = dense(self.vocab_size)
        if self.blocks and not self.has_table:
            self.next_proj = dense(self.latent_width)

    def read(self, latents, tokens, ids=None, cache=None, position=None, places=None, is_key=None):
        """Reads clean text from left to right.

        Args:
          latents: [B, T, C], of the token before each position; zero where there is none.
          tokens: [B, T] integers, these tokens; -1 where there is none.
          ids: [B] integers that name the rows for dropout. None: their places.
          cache, position, places, is_key: see `Backbone`.

        Returns:
          (hidden states [B, T, D], the cache with these positions too).
        """
        text = self.clean_in(latents.astype(self.dtype))
        if self.has_table:
            learned = self.token_table.astype(self.dtype)[tokens]
            text = text + jnp.where((tokens >= 0)[..., None], learned, 0)
        return self.backbone(text, None, None, ids, cache, position, places, is_key)

    def __call__(self, inputs, t, w, is_decode, ids=None, before: Before | None = None):
        """Hidden states of the text before the final norm. Dropout needs the RNG "dropout".

        Args:
          inputs: [B, L, 2C], [z, x_prev].
          t, w: [B] float32, time and guidance scale.
          is_decode: [B] bool, the mode of each row.
          ids: [B] integers that name the rows for dropout. None: their places.
          before: for a network with blocks, the clean text; None: the text is a whole row.

        Returns:
          [B, L, D].
        """
        text = self.text_out(self.text_in(self.self_cond_proj(inputs.astype(self.dtype))))
        signals = {"time": t, "guidance": w}, {"mode": is_decode}, ids
        if before is None:
            return self.backbone(text, *signals)
        said = self.before_out(self.before_norm(before.hidden))
        text = text + jnp.repeat(said, text.shape[1] // said.shape[1], axis=1)
        return self.backbone.within(text, *signals, before.cache, before.places, before.sees)

    def x_head(self, hidden):
        """x-prediction in float32, [B, L, C], from hidden states [B, L, D]."""
        return self.x_out(self.final_norm(hidden)).astype(jnp.float32)

    def logit_head(self, hidden):
        """Token logits in float32, [B, L, V], from hidden states [B, L, D]."""
        return self._to_tokens(nn.gelu(self.decode_proj(hidden), approximate=True))

    def next_logits(self, hidden):
        """Logits in float32, [B, T, V], of the token at each position of clean text, from the
        hidden states [B, T, D] of `read`.
        """
        hidden = self.before_norm(hidden)
        if not self.has_table:
            hidden = nn.gelu(self.next_proj(hidden), approximate=True)
        return self._to_tokens(hidden)

    def _to_tokens(self, hidden):
        if not self.has_table:
            return self.unembed(hidden).astype(jnp.float32)
        kernel = self.token_table.T.astype(self.dtype)
        return product(hidden.astype(self.dtype), kernel, self.mesh).astype(jnp.float32)

    def everything(self, inputs, t, w, is_decode):
        """All parts at once. Initialisation calls it, so that all parameters are made."""
        hidden = self(inputs, t, w, is_decode)
        heads = self.x_head(hidden), self.logit_head(hidden)
        if not self.blocks:
            return heads
        clean = self.clean_in(inputs[..., : self.latent_width].astype(self.dtype))
        return *heads, self.before_out(self.before_norm(clean)), self.next_logits(clean)
