"""The ELF network: one Transformer over [time | guidance | mode | text] with two heads (arXiv
2605.10938).

B batch, L text length, C latent width, D network width, V vocabulary.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from elf_jax.networks.attention import self_attention
from elf_jax.networks.layers import (
    Dense,
    RMSNorm,
    ScalarEmbedder,
    Scale,
    SwiGLU,
    Weights,
    rotary_angles,
    small_normal,
)

# What the backward pass of a block finds in memory; the rest of the block is computed again.
REMAT = {
    "none": None,  # everything
    "matmuls": jax.checkpoint_policies.save_only_these_names("qkv", "attended", "mlp_in"),
    "full": jax.checkpoint_policies.nothing_saveable,  # only the block's input
}


def _drop(module, x, rate):
    """Dropout whose rate may be traced, as it is when layers with different rates are scanned."""
    keep = jax.random.bernoulli(module.make_rng("dropout"), 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def _keep(x):
    return x


class Attention(nn.Module):
    """Multi-head self-attention with RMSNorm and rotary embedding on q and k; [B, T, D] -> [B, T,
    D].
    """

    heads: int
    dtype: jnp.dtype
    implementation: str
    mesh: jax.sharding.Mesh | None

    @nn.compact
    def __call__(self, x, angles):
        width = x.shape[-1]
        kernel, bias = Weights(3 * width, self.dtype, name="qkv")(width)
        scales = [Scale(width // self.heads, name=name)() for name in ("q_norm", "k_norm")]
        how = self.implementation, self.mesh
        out = self_attention(x, kernel, bias, *scales, angles, self.heads, *how)
        out = checkpoint_name(out, "attended")
        return Dense(width, self.dtype, name="out")(out)


class Block(nn.Module):
    """x += Attention(RMSNorm(x)); x += SwiGLU(RMSNorm(x)). The carry of the scan over layers."""

    heads: int
    dtype: jnp.dtype
    attention: str
    mesh: jax.sharding.Mesh | None

    @nn.compact
    def __call__(self, x, dropout_rate, angles):
        drop = partial(_drop, self, rate=dropout_rate) if self.has_rng("dropout") else _keep
        attention = Attention(self.heads, self.dtype, self.attention, self.mesh, name="attn")
        x = x + drop(attention(RMSNorm(name="norm1")(x), angles))
        mlp = SwiGLU(int(4 * x.shape[-1] * 2 / 3), self.dtype, name="mlp")
        return x + mlp(RMSNorm(name="norm2")(x), drop), None


class ELF(nn.Module):
    """The network. `__call__` gives hidden states; `x_head` and `logit_head` read them in the two
    modes.

    Attributes:
      latent_width: C. vocab_size: V. depth, width (D), heads: the Transformer's size.
      bottleneck: width between the two input projections.
      time_tokens, guidance_tokens, mode_tokens: how many control tokens carry each signal.
      dropout: rate in the middle half of the depth. remat: what the backward pass computes again,
        see REMAT.
      unroll: layers in the body of the scan over layers; the depth gives the fastest code and the
        longest compilation.
      attention: see `attention.self_attention`. dtype: of the computation; parameters are float32.
      mesh: the devices, for the attention that needs to know them.
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
        dense = partial(Dense, dtype=self.dtype)
        self.self_cond_proj = dense(self.latent_width)
        self.text_in = dense(self.bottleneck, use_bias=False)
        self.text_out = dense(self.width)
        for name in ("time", "guidance", "mode"):
            shape = (getattr(self, f"{name}_tokens"), self.width)
            setattr(self, f"{name}_token", self.param(f"{name}_token", small_normal, shape))
        self.time_embedder = ScalarEmbedder(self.width, dtype=self.dtype)
        self.guidance_embedder = ScalarEmbedder(self.width, dtype=self.dtype)
        policy = REMAT[self.remat]
        # Inside a loop XLA cannot take what is computed again for what was computed before. Where
        # there is none it may: of "matmuls" that is little, and faster.
        keep_apart = self.remat == "full" and self.unroll > 1
        block = nn.remat(Block, prevent_cse=keep_apart, policy=policy) if policy else Block
        self.blocks = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            length=self.depth,
            unroll=self.unroll,
        )(self.heads, self.dtype, self.attention, self.mesh)
        self.final_norm = RMSNorm()
        self.x_out = dense(self.latent_width, kernel_init=nn.initializers.zeros)
        self.decode_proj = dense(self.latent_width)
        self.unembed = dense(self.vocab_size)

    def control_tokens(self, t, w, is_decode):
        """[B, T_c, D] control tokens of times t [B], guidance scales w [B] and modes is_decode
        [B] (bool).
        """
        mode = jnp.where(is_decode[:, None, None], self.mode_token, 0.0)
        tokens = [
            self.time_token + self.time_embedder(t)[:, None],
            self.guidance_token + self.guidance_embedder(w)[:, None],
            mode,
        ]
        return jnp.concatenate([token.astype(self.dtype) for token in tokens], axis=1)

    def __call__(self, inputs, t, w, is_decode):
        """Hidden states of the text positions before the final norm. Dropout needs the RNG
        "dropout".

        Args:
          inputs: [B, L, 2C], [z, x_prev].
          t, w: [B] float32, time and guidance scale.
          is_decode: [B] bool, the mode of each example.

        Returns:
          [B, L, D].
        """
        text = self.text_out(self.text_in(self.self_cond_proj(inputs.astype(self.dtype))))
        control = self.control_tokens(t, w, is_decode)
        num_control = control.shape[1]
        angles = rotary_angles(num_control, inputs.shape[1], self.width // self.heads)
        x = jnp.concatenate([control, text], axis=1)
        x, _ = self.blocks(x, self._dropout_rates(), angles)
        return x[:, num_control:]

    def _dropout_rates(self):
        layer = np.arange(self.depth)
        middle = (layer >= self.depth // 4) & (layer < self.depth // 4 * 3)
        return jnp.where(middle, self.dropout, 0.0)

    def x_head(self, hidden):
        """x-prediction in float32, [B, L, C], from hidden states [B, L, D]."""
        return self.x_out(self.final_norm(hidden)).astype(jnp.float32)

    def logit_head(self, hidden):
        """Token logits in float32, [B, L, V], from hidden states [B, L, D]."""
        return self.unembed(nn.gelu(self.decode_proj(hidden), approximate=True)).astype(jnp.float32)

    def everything(self, inputs, t, w, is_decode):
        """Both heads at once: what initialisation calls, so that every parameter is made."""
        hidden = self(inputs, t, w, is_decode)
        return self.x_head(hidden), self.logit_head(hidden)
