"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners") in Flax.

The norms come before each layer, positions are learned, attention is causal, and the output matrix
is the token embedding. B batch, L length, D width, V vocabulary.
"""

import dataclasses
import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from elf_jax.networks.layers import small_normal
from elf_jax.networks.vocabulary import token_losses

# Names as in Hugging Face's config.json; "gelu_new" is the tanh form.
ACTIVATIONS = {
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "gelu": partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
}


@dataclasses.dataclass(frozen=True)
class GPT2Config:
    """Sizes, named as in Hugging Face's config.json, with the defaults of keys missing there."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None  # None: 4 n_embd
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False

    @property
    def hidden(self):
        """Width of the feed-forward layer."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    def attention_scales(self):
        """[n_layer] float32: the attention logits of a layer are multiplied by its scale."""
        scale = (self.n_embd // self.n_head) ** -0.5 if self.scale_attn_weights else 1.0
        layer = jnp.arange(1, self.n_layer + 1, dtype=jnp.float32)
        by_layer = layer if self.scale_attn_by_inverse_layer_idx else jnp.ones_like(layer)
        return scale / by_layer


class CausalAttention(nn.Module):
    """Each position attends to itself and to the positions before it; [B, L, D] -> [B, L, D]."""

    config: GPT2Config
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, scale):
        batch, length, width = x.shape
        qkv = nn.Dense(3 * width, dtype=self.dtype, kernel_init=small_normal, name="qkv")(x)
        qkv = qkv.reshape(batch, length, 3, self.config.n_head, -1)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        q = (q * scale).astype(
            self.dtype
        )  # not an argument below: layers of a scan have traced scales
        y = jax.nn.dot_product_attention(q, k, v, scale=1.0, is_causal=True).reshape(x.shape)
        return nn.Dense(
            width, dtype=self.dtype, kernel_init=_residual_init(self.config), name="out"
        )(y)


class FeedForward(nn.Module):
    """Dense, activation, Dense."""

    config: GPT2Config
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        dense = partial(nn.Dense, dtype=self.dtype)
        hidden = dense(self.config.hidden, kernel_init=small_normal, name="in")(x)
        hidden = ACTIVATIONS[self.config.activation_function](hidden)
        return dense(x.shape[-1], kernel_init=_residual_init(self.config), name="out")(hidden)


class GPT2Block(nn.Module):
    """One layer, as the body of a scan over layers.

    x += Attention(LayerNorm(x)); x += FeedForward(LayerNorm(x)).
    """

    config: GPT2Config
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, scale):
        norm = partial(_layer_norm, self.config, self.dtype)
        x = x + CausalAttention(self.config, self.dtype, name="attn")(norm(name="norm1")(x), scale)
        x = x + FeedForward(self.config, self.dtype, name="mlp")(norm(name="norm2")(x))
        return x, None


class GPT2(nn.Module):
    """The network. `__call__` gives hidden states, `logit_head` reads them, `nll` scores tokens.

    Attributes:
      config: the sizes. dtype: of the computation; parameters, softmax, norms and logits are
        float32.
    """

    config: GPT2Config
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        config = self.config
        embed = partial(nn.Embed, dtype=self.dtype, embedding_init=small_normal)
        self.token_embedding = embed(config.vocab_size, config.n_embd)
        self.position_embedding = embed(config.n_positions, config.n_embd)
        self.blocks = nn.scan(
            GPT2Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=config.n_layer,
        )(config, self.dtype)
        self.final_norm = _layer_norm(config, self.dtype)

    def __call__(self, tokens):
        """Hidden states [B, L, D] after the final norm, from tokens [B, L]; L <= n_positions."""
        positions = jnp.arange(tokens.shape[1])
        x = self.token_embedding(tokens) + self.position_embedding(positions)
        x, _ = self.blocks(x, self.config.attention_scales())
        return self.final_norm(x)

    def logit_head(self, hidden):
        """Logits of the next token, [B, L, V] float32, from hidden states [B, L, D]."""
        head = self.token_embedding.embedding.astype(self.dtype)
        return jnp.einsum("bld,vd->blv", hidden, head, preferred_element_type=jnp.float32)

    def nll(self, tokens, rows=None):
        """Negative log-likelihood of each token given the tokens before it.

        Args:
          tokens: [B, L] integers. rows: see `vocabulary.in_parts`.

        Returns:
          [B, L - 1] float32 in nats; the first token has none.
        """
        hidden, vocab_size = self(tokens)[:, :-1], self.config.vocab_size
        return token_losses(self.logit_head, hidden, tokens[:, 1:], vocab_size, rows)[0]


def row_nll(network, params, tokens, lengths, rows=None):
    """Summed negative log-likelihood of each row: of all its tokens but the first.

    Args:
      network: a `GPT2`. params: its parameters.
      tokens: [B, L] integers.
      lengths: [B] integers, how many tokens each row has; what follows is padding.
      rows: see `vocabulary.in_parts`.

    Returns:
      [B] float32 in nats, of max(lengths - 1, 0) tokens each.
    """
    # Accelerators compute float32 products with fewer bits unless they are told otherwise.
    precision = "highest" if network.dtype == jnp.float32 else "default"
    with jax.default_matmul_precision(precision):
        nll = network.apply({"params": params}, tokens, rows, method=GPT2.nll)
    scored = jnp.arange(1, tokens.shape[1]) < lengths[:, None]
    return jnp.sum(jnp.where(scored, nll, 0.0), axis=1)


def _layer_norm(config, dtype, **kwargs):
    # The fast variance is the mean of squares minus the squared mean, which loses digits.
    return nn.LayerNorm(config.layer_norm_epsilon, dtype=dtype, use_fast_variance=False, **kwargs)


def _residual_init(config):
    """Divided by the square root of the number of residual additions (GPT-2, section 2.3)."""
    return nn.initializers.normal(0.02 / math.sqrt(2 * config.n_layer))
