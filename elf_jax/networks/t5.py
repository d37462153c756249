"""The T5 encoder (v1.0: arXiv 1910.10683; v1.1 with gated GELU: arXiv 2002.05202) as a Flax module.

B batch, L length. Pre-norm, RMS norms without mean or bias, no biases anywhere, attention logits
not scaled, one table of relative-position biases shared by all layers.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from elf_jax.networks.layers import RMSNorm


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes, named as in Hugging Face's config.json."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    gated: bool = False
    activation: str = "relu"  # relu | gelu_new
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6


def relative_buckets(length, num_buckets, max_distance):
    """[L, L] bucket of key position minus query position, for attention in both directions.

    Half of the buckets are for keys to the right. Of each half the first half holds exact
    distances, the rest
    grows logarithmically up to `max_distance` (T5, section 2.1).
    """
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = num_buckets // 2
    exact = half // 2
    size = np.abs(distance)
    ratio = np.log(np.maximum(size, 1).astype(np.float32) / exact) / math.log(max_distance / exact)
    logarithmic = np.minimum(exact + (ratio * (half - exact)).astype(np.int32), half - 1)
    return np.where(distance > 0, half, 0) + np.where(size < exact, size, logarithmic)


class T5Block(nn.Module):
    """x += Attention(RMSNorm(x)); x += FeedForward(RMSNorm(x)). The carry of the scan over
    layers.
    """

    config: T5Config
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, bias):
        config = self.config
        inner = config.num_heads * config.d_kv
        heads = x.shape[:2] + (config.num_heads, config.d_kv)

        def dense(width, name):
            return nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)

        y = RMSNorm(config.layer_norm_epsilon, name="attn_norm")(x)
        q, k, v = (dense(inner, name)(y).reshape(heads) for name in ("q", "k", "v"))
        y = jax.nn.dot_product_attention(q, k, v, bias=bias, scale=1.0)
        x = x + dense(config.d_model, "o")(y.reshape(x.shape[:2] + (inner,)))

        y = RMSNorm(config.layer_norm_epsilon, name="mlp_norm")(x)
        activation = jax.nn.relu if config.activation == "relu" else jax.nn.gelu
        hidden = activation(dense(config.d_ff, "wi")(y))
        if config.gated:
            hidden = hidden * dense(config.d_ff, "wi_gate_value")(y)
        return x + dense(config.d_model, "wo")(hidden), None


class T5Encoder(nn.Module):
    """Tokens [B, L] and mask [B, L, L] (True where query b, q may attend to key k) to [B, L,
    d_model].
    """

    config: T5Config
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens, mask):
        config = self.config
        embed = nn.Embed(config.vocab_size, config.d_model, dtype=self.dtype, name="embed")
        table = self.param(
            "relative_bias",
            nn.initializers.normal(1.0),
            (config.relative_attention_num_buckets, config.num_heads),
        )
        buckets = relative_buckets(
            tokens.shape[1],
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
        )
        position_bias = jnp.transpose(table[buckets], (2, 0, 1))[None]
        # Finite, so that a row that may attend to nothing gets an average instead of NaN.
        bias = position_bias + jnp.where(mask[:, None], 0.0, jnp.finfo(jnp.float32).min / 2)
        blocks = nn.scan(
            T5Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=config.num_layers,
        )
        x, _ = blocks(config, self.dtype, name="blocks")(embed(tokens), bias)
        return RMSNorm(config.layer_norm_epsilon, name="final_norm")(x)
