"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners") in Flax.

B batch, L length, D width, V vocabulary. Pre-norm, learned positions, causal attention, the head
tied to the token embedding.
"""

import dataclasses
import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from elf_jax.networks.layers import small_normal

# Names as in Hugging Face's config.json; "gelu_new" is the tanh form.
ACTIVATIONS = {
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "gelu": partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
}
CHUNK = 64  # positions whose logits exist at the same time


@dataclasses.dataclass(frozen=True)
class GPT2Config:
    """Sizes, named as in Hugging Face's config.json; the defaults are those it has where a key is
    missing.
    """

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
        """[n_layer] float32, what the attention logits of each layer are multiplied by."""
        scale = (self.n_embd // self.n_head) ** -0.5 if self.scale_attn_weights else 1.0
        layer = jnp.arange(1, self.n_layer + 1, dtype=jnp.float32)
        by_layer = layer if self.scale_attn_by_inverse_layer_idx else jnp.ones_like(layer)
        return scale / by_layer


class CausalAttention(nn.Module):
    """Every position attends to itself and those before it; [B, L, D] -> [B, L, D]."""

    config: GPT2Config
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, scale):
        batch, length, width = x.shape
        qkv = nn.Dense(3 * width, dtype=self.dtype, kernel_init=small_normal, name="qkv")(x)
        qkv = qkv.reshape(batch, length, 3, self.config.n_head, -1)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        q = (q * scale).astype(self.dtype)  # scanned layers may differ in their scale
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
    """x += Attention(LayerNorm(x)); x += FeedForward(LayerNorm(x)). The carry of the scan over
    layers.
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
    """The network. `__call__` gives hidden states, `logits` reads them, `nll` scores tokens.

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
        """Hidden states [B, L, D] after the final norm, of tokens [B, L]; L is at most
        n_positions.
        """
        positions = jnp.arange(tokens.shape[1])
        x = self.token_embedding(tokens) + self.position_embedding(positions)
        x, _ = self.blocks(x, self.config.attention_scales())
        return self.final_norm(x)

    def logits(self, tokens):
        """Next-token logits [B, L, V] float32, all at once: for small sizes."""
        return _logits(self(tokens), self._head())

    def nll(self, tokens):
        """Negative log-likelihood in nats of each token given those before it, [B, L - 1]
        float32: the first token has none.
        """
        return chunked_nll(self(tokens)[:, :-1], self._head(), tokens[:, 1:])

    def _head(self):
        return self.token_embedding.embedding.astype(self.dtype)


def chunked_nll(hidden, head, targets, chunk=CHUNK):
    """-log softmax(hidden head^T) at the targets, over `chunk` positions at a time.

    The logits of 16 rows of 1024 positions and 50257 tokens are 3.3 GB; those of 64 positions are
    0.2 GB. They are computed again in the backward pass rather than kept.

    Args:
      hidden: [B, L, D]. head: [V, D]. targets: [B, L] integers.

    Returns:
      [B, L] float32, nats.
    """
    batch, length = targets.shape
    chunk = min(chunk, length)
    pad = -length % chunk

    def split(array):
        array = jnp.pad(array, [(0, 0), (0, pad)] + [(0, 0)] * (array.ndim - 2))
        return jnp.moveaxis(array.reshape(batch, -1, chunk, *array.shape[2:]), 1, 0)

    @jax.checkpoint
    def one(part):
        hidden, targets = part
        logits = _logits(hidden, head)
        picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - picked

    values = jax.lax.map(one, (split(hidden), split(targets)))
    return jnp.moveaxis(values, 0, 1).reshape(batch, -1)[:, :length]


def _logits(hidden, head):
    return jnp.einsum("bld,vd->blv", hidden, head, preferred_element_type=jnp.float32)


def _layer_norm(config, dtype, **kwargs):
    # The variance as the mean of squares minus the squared mean would lose digits.
    return nn.LayerNorm(config.layer_norm_epsilon, dtype=dtype, use_fast_variance=False, **kwargs)


def _residual_init(config):
    """Smaller by the root of the number of residual additions (GPT-2, section 2.3)."""
    return nn.initializers.normal(0.02 / math.sqrt(2 * config.n_layer))
