"""The ELF network: a Transformer over [time | guidance | mode | text] with two heads (arXiv
2605.10938).

    text    Dense(2C -> C), Dense(C -> bottleneck, no bias), Dense(bottleneck -> D)
    hidden  `Backbone` over the control tokens and the text
    x_hat   Dense(RMSNorm(hidden))              to predict clean latents
    logits  Dense(GELU(Dense(hidden)))          to read tokens, in decode mode

B batch, L text length, C latent width, D network width, V vocabulary.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from elf_jax.networks.backbone import Backbone
from elf_jax.networks.layers import Dense, RMSNorm


class ELF(nn.Module):
    """The network. `__call__` gives hidden states; `x_head` and `logit_head` read them.

    Attributes:
      latent_width: C.
      vocab_size: V.
      depth, width (D), heads: the size of the Transformer.
      bottleneck: width between the two input projections.
      time_tokens, guidance_tokens, mode_tokens: how many control tokens carry each signal.
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
        self.decode_proj = dense(self.latent_width)
        self.unembed = dense(self.vocab_size)

    def __call__(self, inputs, t, w, is_decode, ids=None):
        """Hidden states of the text before the final norm. Dropout needs the RNG "dropout".

        Args:
          inputs: [B, L, 2C], [z, x_prev].
          t, w: [B] float32, time and guidance scale.
          is_decode: [B] bool, the mode of each row.
          ids: [B] integers that name the rows for dropout. None: their places.

        Returns:
          [B, L, D].
        """
        text = self.text_out(self.text_in(self.self_cond_proj(inputs.astype(self.dtype))))
        return self.backbone(text, {"time": t, "guidance": w}, {"mode": is_decode}, ids)

    def x_head(self, hidden):
        """x-prediction in float32, [B, L, C], from hidden states [B, L, D]."""
        return self.x_out(self.final_norm(hidden)).astype(jnp.float32)

    def logit_head(self, hidden):
        """Token logits in float32, [B, L, V], from hidden states [B, L, D]."""
        return self.unembed(nn.gelu(self.decode_proj(hidden), approximate=True)).astype(jnp.float32)

    def everything(self, inputs, t, w, is_decode):
        """Both heads at once. Initialisation calls it, so that all parameters are made."""
        hidden = self(inputs, t, w, is_decode)
        return self.x_head(hidden), self.logit_head(hidden)
