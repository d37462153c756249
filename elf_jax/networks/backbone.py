"""The Transformer of all methods: [control tokens | text] through a stack of blocks.

    x += Attention(RMSNorm(x))     RMSNorm and rotary embedding on q and k, per head
    x += SwiGLU(RMSNorm(x))

A control token tells the network one thing about the whole row. It is a learned token plus an
embedding of a scalar (the time), or a learned token that is switched on or off (the mode). This is
the network of ELF (arXiv 2605.10938); without control tokens and with causal attention it is one
for autoregression. A `Cache` keeps the keys and values of positions that have been read from left
to right. Then positions after them can be computed alone, and so can a noisy copy of them, which
sees the text before it (`within`).

B batch, L text length, T = control tokens + L, D width.
"""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from elf_jax.core import rng
from elf_jax.networks.attention import cached_attention, self_attention
from elf_jax.networks.block_mask import BlockMask
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

# Rematerialisation: what the forward pass of a block keeps in memory for the backward pass, which
# computes the rest of the block again.
REMAT = {
    "none": None,  # everything is kept
    "matmuls": jax.checkpoint_policies.save_only_these_names("qkv", "attended", "mlp_in"),
    "full": jax.checkpoint_policies.nothing_saveable,  # only the input of the block is kept
}


class Attention(nn.Module):
    """Multi-head self-attention; see `attention.self_attention`, and `attention.cached_attention`
    for its form with a cache.

    Returns:
      ([B, T, D], of x [B, T, D]; the `Cache` of these positions, or None without a cache).
    """

    heads: int
    dtype: jnp.dtype
    implementation: str
    mesh: jax.sharding.Mesh | None
    causal: bool

    @nn.compact
    def __call__(self, x, angles, cache=None, sees=None, is_key=None):
        width = x.shape[-1]
        kernel, bias = Weights(3 * width, self.dtype, name="qkv")(width)
        scales = [Scale(width // self.heads, name=name)() for name in ("q_norm", "k_norm")]
        inputs = x, kernel, bias, *scales, angles, self.heads, self.implementation
        if cache is None:
            out, new = self_attention(*inputs, self.mesh, self.causal, is_key), None
        else:
            out, new = cached_attention(*inputs, cache, sees, self.mesh, is_key)
        return Dense(width, self.dtype, mesh=self.mesh, name="out")(out), new


class Block(nn.Module):
    """One layer, [B, T, D] -> [B, T, D], as the body of a scan over layers. It also returns what
    `Attention` does.
    """

    heads: int
    dtype: jnp.dtype
    attention: str
    mesh: jax.sharding.Mesh | None
    causal: bool

    @nn.compact
    def __call__(self, x, dropout_rate, angles, ids, cache, sees, is_key):
        has_dropout = self.has_rng("dropout")
        drop = partial(_drop, self, rate=dropout_rate, ids=ids) if has_dropout else _keep
        how = self.attention, self.mesh, self.causal
        attention = Attention(self.heads, self.dtype, *how, name="attn")
        attended, new = attention(RMSNorm(name="norm1")(x), angles, cache, sees, is_key)
        x = x + drop(attended)
        mlp = SwiGLU(int(4 * x.shape[-1] * 2 / 3), self.dtype, self.mesh, name="mlp")
        return x + mlp(RMSNorm(name="norm2")(x), drop), new


class Backbone(nn.Module):
    """Control tokens and blocks. `__call__` gives hidden states of the text.

    Attributes:
      depth, width (D), heads: the sizes.
      scalars: pairs (name, count) of control signals that are a number for each row. Such a signal
        has `count` tokens, each a learned token plus the same embedding of the number.
      switches: pairs (name, count) of control signals that are on or off for each row. Such a
        signal has `count` learned tokens, which are zero where it is off.
      causal: whether a position attends to earlier positions and itself only. Text always attends
        to all control tokens, because they come first.
      dropout: rate in the middle half of the depth; the other layers have none.
      remat: see REMAT.
      unroll: layers in one iteration of the loop over layers. unroll=depth gives the fastest code
        and the longest compilation.
      attention: the implementation, see `attention.self_attention`.
      dtype: of the computation; parameters are float32.
      mesh: the devices; the fused attention needs them.

    Parameters: for a signal "time", `time_token` [count, D] and `time_embedder` (scalars only);
    `blocks`, with the layers stacked along the first axis.
    """

    depth: int
    width: int
    heads: int
    scalars: tuple[tuple[str, int], ...] = ()
    switches: tuple[tuple[str, int], ...] = ()
    causal: bool = False
    dropout: float = 0.0
    remat: str = "none"
    unroll: int = 1
    attention: str = "xla"
    dtype: jnp.dtype = jnp.float32
    mesh: jax.sharding.Mesh | None = None

    def setup(self):
        for name, count in (*self.scalars, *self.switches):
            token = self.param(f"{name}_token", small_normal, (count, self.width))
            setattr(self, f"{name}_token", token)
        for name, _ in self.scalars:
            setattr(self, f"{name}_embedder", ScalarEmbedder(self.width, dtype=self.dtype))
        policy = REMAT[self.remat]
        # The compiler could replace what is computed again by what was computed before. It cannot
        # inside a loop. In unrolled layers "full" needs a barrier against it; for "matmuls" the
        # little that the compiler takes back makes the step faster.
        prevent = self.remat == "full" and self.unroll > 1
        block = nn.remat(Block, prevent_cse=prevent, policy=policy) if policy else Block
        self.blocks = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast, 0, nn.broadcast, nn.broadcast),
            length=self.depth,
            unroll=self.unroll,
        )(self.heads, self.dtype, self.attention, self.mesh, self.causal)

    def __call__(
        self,
        text,
        scalars=None,
        switches=None,
        ids=None,
        cache=None,
        position=None,
        places=None,
        is_key=None,
    ):
        """Hidden states of the text after the last block, without a final norm.

        Args:
          text: [B, L, D] in the dtype of the computation.
          scalars: dict of [B] float32, one for each name in `self.scalars`.
          switches: dict of [B] bool, one for each name in `self.switches`.
          ids: [B] integers that name the rows: the dropout of a row depends on the RNG and on its
            name. None: the rows are named by their places.
          cache: `Cache` [depth, B, positions, H, K] of the positions before the text. Text with a
            cache is read causally, without control tokens. None: the text is the whole row.
          position: with a cache, the position of the first of the L, an integer, traced or not.
            None: the text begins the row, and what the cache has is not seen.
          places: [L] numpy integers, the place in a row of each position of text that begins it.
            None: they count from 0.
          is_key: [B, L] bool, which positions may be attended to; where text is read causally, the
            first one always may. None: all.

        Returns:
          [B, L, D]; with a cache (this, the cache with these positions too). Dropout needs the RNG
          "dropout".
        """
        if cache is not None and (scalars or switches):
            raise ValueError("text with a cache is read without control tokens")
        if cache is not None:
            return self._next(text, ids, cache, position, places, is_key)
        control = self._control_tokens(scalars or {}, switches or {})
        if is_key is not None:
            is_key = jnp.pad(is_key, ((0, 0), (_count(control), 0)), constant_values=True)
        places = text.shape[1] if places is None else places
        angles = rotary_angles(_count(control), places, self.width // self.heads)
        x, _ = self._run([*control, text], angles, ids, is_key=is_key)
        return x[:, _count(control) :]

    def _next(self, text, ids, cache, position, places, is_key):
        """`__call__` with a cache."""
        size, count = cache.keys.shape[2], text.shape[1]
        start = 0 if position is None else position
        if places is None:
            places = start + np.arange(count)
        angles = rotary_angles(0, places, self.width // self.heads)
        sees = None
        if position is not None:
            before = jnp.broadcast_to(jnp.arange(size) < position, (count, size))
            sees = jnp.concatenate([before, jnp.tri(count, dtype=bool)], axis=1)
        # The layers only read the cache. It is written once, outside their loop, so that a loop
        # over positions can reuse its memory.
        x, new = self._run([text], angles, ids, cache, sees, is_key)
        return x, cache.write(new, start)

    def within(self, text, scalars, switches, ids, cache, places, sees):
        """Hidden states [B, L, D] of a text beside the text of a cache, which it may see.

        Args:
          text, scalars, switches, ids: as for `__call__`.
          cache: `Cache` [depth, B, S, H, K]. It does not see the control tokens or this text.
          places: [L], the place of each position in its row, traced or not.
          sees: a `BlockMask` without control tokens, or [L, S + L] bool, which positions of the
            cache and of the text each position may see. All positions of the text see the control
            tokens, which see only each other.
        """
        control = self._control_tokens(scalars, switches)
        count = _count(control)
        angles = rotary_angles(count, places, self.width // self.heads)
        if isinstance(sees, BlockMask):
            sees = dataclasses.replace(sees, control=count)
        else:
            sees = _with_control(sees, count, cache.keys.shape[2])
        x, _ = self._run([*control, text], angles, ids, cache, sees)
        return x[:, count:]

    def _run(self, parts, angles, ids, cache=None, sees=None, is_key=None):
        """What the blocks return of the parts [B, ..., D] of a row."""
        x = jnp.concatenate(parts, axis=1)
        ids = jnp.arange(len(x)) if ids is None and self.has_rng("dropout") else ids
        return self.blocks(x, self._dropout_rates(), angles, ids, cache, sees, is_key)

    def _control_tokens(self, scalars, switches):
        """List of [B, count, D], one for each signal."""
        tokens = []
        for name, _ in self.scalars:
            embedded = getattr(self, f"{name}_embedder")(scalars[name])
            tokens.append(getattr(self, f"{name}_token") + embedded[:, None])
        for name, _ in self.switches:
            is_on = switches[name][:, None, None]
            tokens.append(jnp.where(is_on, getattr(self, f"{name}_token"), 0.0))
        return [token.astype(self.dtype) for token in tokens]

    def _dropout_rates(self):
        layer = np.arange(self.depth)
        middle = (layer >= self.depth // 4) & (layer < self.depth // 4 * 3)
        return jnp.where(middle, self.dropout, 0.0)


def _with_control(sees, count, size):
    """A mask [L, S + L] with `count` control tokens, [count + L, S + count + L]. size: S."""
    length = len(sees)
    of_cache, of_text = sees[:, :size], sees[:, size:]
    of_text = jnp.concatenate([of_cache, jnp.ones((length, count), bool), of_text], axis=1)
    is_control = jnp.arange(size + count + length)[None] - size
    is_control = (is_control >= 0) & (is_control < count)
    return jnp.concatenate([jnp.broadcast_to(is_control, (count, is_control.size)), of_text])


def _count(control):
    """Number of control tokens."""
    return sum(tokens.shape[1] for tokens in control)


def _drop(module, x, rate, ids):
    """Dropout with a traced rate: the layers of a scan have different rates. The values of a row
    depend on its name in `ids` [B], not on the rows beside it.
    """
    keys = rng.per_example(module.make_rng("dropout"), ids)
    keep = rng.uniform(keys, x.shape[1:]) < 1 - rate
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def _keep(x):
    return x
