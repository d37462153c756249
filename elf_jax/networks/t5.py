"""T5 (v1.0: arXiv 1910.10683; v1.1 with gated GELU: arXiv 2002.05202) as Flax modules.

    x += Attention(RMSNorm(x))     softmax(q k^T + bias[bucket(key - query)]) v: no 1/sqrt(K)
    x += FeedForward(RMSNorm(x))   W_o relu(W x)   or   W_o (gelu(W_0 x) * W_1 x)

Nothing has a bias vector; each stack has one table of relative-position biases for all its layers.
The residual stream, the norms and the softmax are float32, the matrix products are in `dtype`.
B batch, L input length, T target length, H heads, V vocabulary.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from elf_jax.core.types import Array, AttentionMask, Mask, Tokens, typed
from elf_jax.networks.attention import Groups, biased_attention
from elf_jax.networks.layers import RMSNorm


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes, named as in Hugging Face's config.json.

    Attributes:
      vocab_size: rows of the embedding table; the tokenizer may have fewer tokens.
      d_kv: width of a head; num_heads * d_kv need not equal d_model.
      tie_word_embeddings: the decoder's output matrix is the embedding, its input scaled by
        d_model^-1/2 (v1.0), or a matrix of its own (v1.1).
    """

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
    num_decoder_layers: int = 0
    tie_word_embeddings: bool = True


def relative_buckets(length, num_buckets, max_distance, bidirectional=True):
    """[length, length] bucket of key position minus query position (T5, section 2.1).

    In both directions, half of the buckets are for keys to the right; in one, those share the
    bucket of distance 0. Of each half the first half holds exact distances, the rest grows
    logarithmically up to `max_distance`.
    """
    offset = np.arange(length)[None, :] - np.arange(length)[:, None]
    if bidirectional:
        num_buckets //= 2
        right, distance = np.where(offset > 0, num_buckets, 0), np.abs(offset)
    else:
        right, distance = 0, np.maximum(-offset, 0)
    exact = num_buckets // 2
    # In NumPy and float32: the edges lie where the original has them, on any accelerator.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / exact)
    ratio = ratio / np.float32(np.log(max_distance / exact))
    logarithmic = exact + (ratio * (num_buckets - exact)).astype(np.int32)
    logarithmic = np.minimum(logarithmic, num_buckets - 1)
    return right + np.where(distance < exact, distance, logarithmic)


def _dense(features, dtype, scale, name):
    """A matrix whose initial entries have standard deviation `scale`."""
    init = nn.initializers.normal(scale)
    return nn.Dense(features, use_bias=False, dtype=dtype, kernel_init=init, name=name)


class T5Attention(nn.Module):
    """x + Attention(RMSNorm(x)), to x itself or to a memory."""

    config: T5Config
    dtype: jnp.dtype
    mesh: jax.sharding.Mesh | None = None

    @nn.compact
    def __call__(self, x, mask, bias=None, memory=None):
        """x [B, T, D] float32, mask [B or 1, 1, T or 1, L] or `Groups`, bias [1, H, T, L], memory
        [B, L, D].
        """
        config = self.config
        inner = config.num_heads * config.d_kv
        y = RMSNorm(config.layer_norm_epsilon, name="norm")(x)
        memory = y if memory is None else memory

        # 1/sqrt(K) is not in the logits but in the initial queries.
        q = _dense(inner, self.dtype, (config.d_model * config.d_kv) ** -0.5, "q")(y)
        k = _dense(inner, self.dtype, config.d_model**-0.5, "k")(memory)
        v = _dense(inner, self.dtype, config.d_model**-0.5, "v")(memory)
        y = None
        if isinstance(mask, Groups):
            y = biased_attention(q, k, v, bias, mask, config.num_heads, self.mesh)
            mask = mask.mask()[:, None]
        if y is None:
            q, k, v = (a.reshape(*a.shape[:2], config.num_heads, config.d_kv) for a in (q, k, v))
            # A query that may attend to nothing gets the average of all values, not NaN.
            y = jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask, scale=1.0)
            y = y.reshape(*x.shape[:2], inner)
        return x + _dense(config.d_model, self.dtype, inner**-0.5, "o")(y)


class T5FeedForward(nn.Module):
    """x + FeedForward(RMSNorm(x)), x [B, L, D] float32."""

    config: T5Config
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        config = self.config
        activation = jax.nn.relu if config.activation == "relu" else jax.nn.gelu
        y = RMSNorm(config.layer_norm_epsilon, name="norm")(x)
        hidden = activation(_dense(config.d_ff, self.dtype, config.d_model**-0.5, "wi")(y))
        if config.gated:
            hidden *= _dense(config.d_ff, self.dtype, config.d_model**-0.5, "wi_value")(y)
        return x + _dense(config.d_model, self.dtype, config.d_ff**-0.5, "wo")(hidden)


class EncoderBlock(nn.Module):
    """A layer of the encoder, as the body of a scan over layers."""

    config: T5Config
    dtype: jnp.dtype
    mesh: jax.sharding.Mesh | None

    @nn.compact
    def __call__(self, x, mask, bias):
        attention = T5Attention(self.config, self.dtype, self.mesh, name="self_attention")
        x = attention(x, mask, bias)
        return T5FeedForward(self.config, self.dtype, name="feed_forward")(x), None


class DecoderBlock(nn.Module):
    """A layer of the decoder, as the body of a scan over layers."""

    config: T5Config
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, mask, bias, memory_mask, memory):
        config, dtype = self.config, self.dtype
        x = T5Attention(config, dtype, name="self_attention")(x, mask, bias)
        x = T5Attention(config, dtype, name="cross_attention")(x, memory_mask, memory=memory)
        return T5FeedForward(config, dtype, name="feed_forward")(x), None


def _stack(block, depth):
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=depth,
    )


def _bias_table(config):
    shape = config.relative_attention_num_buckets, config.num_heads
    return nn.initializers.normal(config.d_model**-0.5), shape


def _position_bias(config, table, length, bidirectional):
    """[1, H, length, length] float32."""
    buckets = relative_buckets(
        length,
        config.relative_attention_num_buckets,
        config.relative_attention_max_distance,
        bidirectional,
    )
    # A product instead of table[buckets]: TPUs are slow at gathering so many short rows.
    chosen = (jnp.arange(len(table))[:, None, None] == buckets).astype(jnp.float32)
    return jnp.einsum("nh,nqk->hqk", table, chosen, precision=jax.lax.Precision.HIGHEST)[None]


class T5Encoder(nn.Module):
    """The encoder: tokens to contextual embeddings. Parameters are float32, layers stacked.

    Attributes:
      config: `T5Config`. dtype: of the matrix products.
      mesh: the devices, for the attention that needs to know them.
    """

    config: T5Config
    dtype: jnp.dtype = jnp.float32
    mesh: jax.sharding.Mesh | None = None

    def setup(self):
        config = self.config
        normal = nn.initializers.normal(1.0)
        self.embed = nn.Embed(config.vocab_size, config.d_model, embedding_init=normal)
        self.relative_bias = self.param("relative_bias", *_bias_table(config))
        self.blocks = _stack(EncoderBlock, config.num_layers)(config, self.dtype, self.mesh)
        self.final_norm = RMSNorm(config.layer_norm_epsilon)

    @typed
    def __call__(self, tokens: Tokens, mask: AttentionMask | Groups) -> Float[Array, "B L D"]:
        """Encodes.

        Args:
          tokens: [B, L] below vocab_size; others give NaN.
          mask: [B, L, L], True where query b, q may attend to key k; or the same as `Groups`, for
            the kernel that never holds it.

        Returns:
          [B, L, d_model] float32; finite even where a query may attend to nothing.
        """
        bias = _position_bias(self.config, self.relative_bias, tokens.shape[1], True)
        mask = mask if isinstance(mask, Groups) else mask[:, None]
        x, _ = self.blocks(self.embed(tokens), mask, bias)
        return self.final_norm(x)


class T5Decoder(nn.Module):
    """The decoder's layers: embedded targets to hidden states, seeing earlier targets and a memory.

    Parameters are float32, layers stacked.
    """

    config: T5Config
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        config = self.config
        self.relative_bias = self.param("relative_bias", *_bias_table(config))
        self.blocks = _stack(DecoderBlock, config.num_decoder_layers)(config, self.dtype)
        self.final_norm = RMSNorm(config.layer_norm_epsilon)

    @typed
    def __call__(
        self,
        x: Float[Array, "B T D"],
        memory: Float[Array, "B L D"],
        memory_valid: Bool[Array, "B L"],
    ) -> Float[Array, "B T D"]:
        """[B, T, D] hidden states; position t sees x up to t, and the valid positions of memory."""
        length = x.shape[1]
        bias = _position_bias(self.config, self.relative_bias, length, False)
        causal = np.tril(np.ones((1, 1, length, length), bool))
        x, _ = self.blocks(x, causal, bias, memory_valid[:, None, None], memory)
        return self.final_norm(x)


class T5(nn.Module):
    """Encoder and decoder over one embedding table, as it is pretrained."""

    config: T5Config
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        config = self.config
        self.encoder = T5Encoder(config, self.dtype)
        self.decoder = T5Decoder(config, self.dtype)
        if not config.tie_word_embeddings:
            normal = nn.initializers.normal(config.d_model**-0.5)
            self.lm_head = self.param("lm_head", normal, (config.d_model, config.vocab_size))

    @typed
    def __call__(
        self,
        inputs: Tokens,
        mask: AttentionMask,
        valid: Mask,
        previous: Int[Array, "B T"],
    ) -> Float[Array, "B T V"]:
        """Logits of the next target token.

        Args:
          inputs: [B, L] tokens of the encoder. mask: [B, L, L], see `T5Encoder`.
          valid: [B, L], the inputs that the decoder may attend to.
          previous: [B, T], the targets shifted right by one (T5 starts with padding).

        Returns:
          [B, T, V] float32.
        """
        hidden = self.encoder(inputs, mask)
        hidden = self.decoder(self.encoder.embed(previous), hidden, valid)
        if self.config.tie_word_embeddings:
            hidden, matrix = hidden * self.config.d_model**-0.5, self.encoder.embed.embedding.T
        else:
            matrix = self.lm_head
        hidden, matrix = hidden.astype(self.dtype), matrix.astype(self.dtype)
        return jnp.dot(hidden, matrix, preferred_element_type=jnp.float32)
