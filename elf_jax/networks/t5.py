"""T5 (v1.0: arXiv 1910.10683; v1.1 with gated GELU: arXiv 2002.05202) as Flax modules.

    x += Attention(RMSNorm(x))     softmax(q k^T + bias[bucket(key - query)]) v: no 1/sqrt(K)
    x += FeedForward(RMSNorm(x))   W_o relu(W x)   or   W_o (gelu(W_0 x) * W_1 x)

No layer has a bias vector. Each stack has one table of relative-position biases for all its layers.
The residual stream, the norms and the softmax are float32; the matrix products are in `dtype`.
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
from elf_jax.networks.kernel_parts import row_major
from elf_jax.networks.layers import RMSNorm


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes, named as in Hugging Face's config.json.

    Attributes:
      vocab_size: rows of the embedding table; the tokenizer may have fewer tokens.
      d_kv: width of a head; num_heads * d_kv need not equal d_model.
      gated, activation: (False, "relu") in v1.0, (True, "gelu_new") in v1.1.
      tie_word_embeddings: True (v1.0): the output matrix of the decoder is the embedding, and its
        input is scaled by d_model^-1/2. False (v1.1): the output has its own matrix.
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
    """Bucket of each pair (query, key) by the distance between the two (T5, section 2.1).

    Bidirectional: half of the buckets are for keys to the right of the query. Otherwise all keys to
    the right share the bucket of distance 0. Within each direction, the first half of the buckets
    hold one distance each; the others hold ranges that grow logarithmically up to `max_distance`.

    Returns:
      [length, length] integers, query by key.
    """
    offset = np.arange(length)[None, :] - np.arange(length)[:, None]
    if bidirectional:
        num_buckets //= 2
        right, distance = np.where(offset > 0, num_buckets, 0), np.abs(offset)
    else:
        right, distance = 0, np.maximum(-offset, 0)
    exact = num_buckets // 2
    # NumPy in float32 puts the edges of the buckets where the original has them. Accelerators may
    # round the logarithm in another way.
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
    """x + Attention(RMSNorm(x)); the keys and values come from x itself or from a memory."""

    config: T5Config
    dtype: jnp.dtype
    mesh: jax.sharding.Mesh | None = None

    @nn.compact
    def __call__(self, x, mask, bias=None, memory=None):
        """[B, T, D] float32.

        Args:
          x: [B, T, D] float32.
          mask: [B or 1, 1, T or 1, L], True where attention is allowed; or `Groups`.
          bias: [1, H, T, L] float32, or None.
          memory: [B, L, D]; None: attention to x itself.
        """
        config = self.config
        inner = config.num_heads * config.d_kv
        y = RMSNorm(config.layer_norm_epsilon, name="norm")(x)
        memory = y if memory is None else memory

        # The factor 1/sqrt(K) is part of the initial queries, not of the logits.
        q = _dense(inner, self.dtype, (config.d_model * config.d_kv) ** -0.5, "q")(y)
        k = _dense(inner, self.dtype, config.d_model**-0.5, "k")(memory)
        v = _dense(inner, self.dtype, config.d_model**-0.5, "v")(memory)
        y = None
        if isinstance(mask, Groups):
            y = biased_attention(q, k, v, bias, mask, config.num_heads, self.mesh)
            mask = mask.mask()[:, None]
        if y is None:
            q, k, v = (a.reshape(*a.shape[:2], config.num_heads, config.d_kv) for a in (q, k, v))
            # A query that may attend to nothing gets the mean of all values, not NaN.
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
    """One layer of the encoder, as the body of a scan over layers."""

    config: T5Config
    dtype: jnp.dtype
    mesh: jax.sharding.Mesh | None

    @nn.compact
    def __call__(self, x, mask, bias):
        attention = T5Attention(self.config, self.dtype, self.mesh, name="self_attention")
        x = row_major(attention(x, mask, bias), self.mesh)
        x = T5FeedForward(self.config, self.dtype, name="feed_forward")(x)
        return row_major(x, self.mesh), None


class DecoderBlock(nn.Module):
    """One layer of the decoder, as the body of a scan over layers."""

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
    # This is table[buckets] as a product: TPUs are slow at gathering so many short rows.
    chosen = (jnp.arange(len(table))[:, None, None] == buckets).astype(jnp.float32)
    return jnp.einsum("nh,nqk->hqk", table, chosen, precision=jax.lax.Precision.HIGHEST)[None]


class T5Encoder(nn.Module):
    """The encoder: tokens to contextual embeddings. Parameters are float32, with stacked layers.

    Attributes:
      config: `T5Config`.
      dtype: of the matrix products.
      mesh: the devices; the attention kernel needs them.
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
        """Contextual embeddings of tokens.

        Args:
          tokens: [B, L] below vocab_size; larger ones give NaN.
          mask: [B, L, L], True where a query may attend to a key; or the same as `Groups`, which
            lets the kernel do without a mask of all pairs.

        Returns:
          [B, L, d_model] float32; finite even where a query may attend to nothing.
        """
        bias = _position_bias(self.config, self.relative_bias, tokens.shape[1], True)
        mask = mask if isinstance(mask, Groups) else mask[:, None]
        x, _ = self.blocks(self.embed(tokens), mask, bias)
        return self.final_norm(x)


class T5Decoder(nn.Module):
    """The layers of the decoder: embedded targets and a memory to hidden states.

    Parameters are float32, with stacked layers. Attributes as in `T5Encoder`.
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
        """Hidden states. Position t attends to x up to t, and to the valid positions of the memory.

        Args:
          x: [B, T, D], embedded targets.
          memory: [B, L, D], output of the encoder.
          memory_valid: [B, L], True at the positions of memory that may be attended to.

        Returns:
          [B, T, D] float32.
        """
        length = x.shape[1]
        bias = _position_bias(self.config, self.relative_bias, length, False)
        causal = np.tril(np.ones((1, 1, length, length), bool))
        x, _ = self.blocks(x, causal, bias, memory_valid[:, None, None], memory)
        return self.final_norm(x)


class T5(nn.Module):
    """Encoder and decoder with one embedding table, as T5 is pretrained.

    `hidden` gives the hidden states of the decoder, and `logit_head` reads them.
    """

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
    def hidden(
        self,
        inputs: Tokens,
        mask: AttentionMask,
        valid: Mask,
        previous: Int[Array, "B T"],
    ) -> Float[Array, "B T D"]:
        """Hidden states of the decoder.

        Args:
          inputs: [B, L], tokens of the encoder.
          mask: [B, L, L], see `T5Encoder`.
          valid: [B, L], True at the inputs that the decoder may attend to.
          previous: [B, T], the targets shifted right by one. T5 starts them with padding.

        Returns:
          [B, T, d_model] float32.
        """
        memory = self.encoder(inputs, mask)
        return self.decoder(self.encoder.embed(previous), memory, valid)

    @typed
    def logit_head(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Logits of the next target token, [B, T, V] float32, from `hidden` [B, T, d_model]."""
        if self.config.tie_word_embeddings:
            hidden, matrix = hidden * self.config.d_model**-0.5, self.encoder.embed.embedding.T
        else:
            matrix = self.lm_head
        hidden, matrix = hidden.astype(self.dtype), matrix.astype(self.dtype)
        return jnp.dot(hidden, matrix, preferred_element_type=jnp.float32)

    def __call__(self, inputs, mask, valid, previous):
        """Logits [B, T, V]; arguments as in `hidden`. Initialisation calls it."""
        return self.logit_head(self.hidden(inputs, mask, valid, previous))
