"""T5's attention for GPUs in one Pallas kernel: scores, bias, mask, softmax, values.

It is the forward pass of `gpu_attention.py` with a bias and a mask. There is no backward pass: the
encoder is frozen. Where it is trained (`--mode=pretrain_encoder`), XLA computes the attention,
because the bias needs a gradient.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from elf_jax.networks import gpu_kernel_parts as parts
from elf_jax.networks.gpu_attention import over_keys, start, tiles, update
from elf_jax.networks.gpu_kernel_parts import LOG2_E, Head

NEVER = -1e30  # the score of a forbidden pair; finite, so that no softmax is NaN


def flash_biased_attention(q, k, v, bias, queries, keys, interpret=False):
    """softmax(q k^T + bias, where allowed) v.

    Args:
      q, k, v: [B, T, H, K].
      bias: [H, T, T] float32.
      queries, keys: [B, T] int32; query q may attend to key k if they have a bit in common.
      interpret: run without a GPU, for tests.

    Returns:
      [B, T, H, K] in the dtype of v. A query that may attend to nothing gets the mean of all
      values.
    """
    batch, length, heads, width = q.shape
    sizes, head = tiles(q.dtype, "biased", width), Head(length, width)
    rows, columns = head.padded(max(sizes.own, sizes.other))
    # The batch is the innermost loop: a block of the large bias stays in the cache for all rows.
    whole = pl.BlockSpec((None, rows, None, columns), lambda b, i, h: (b, 0, h, 0))
    group = pl.BlockSpec((None, rows), lambda b, i, h: (b, 0))
    pairs = batch * heads * length * length
    return pl.pallas_call(
        functools.partial(_kernel, head=head, sizes=sizes),
        grid=(batch, pl.cdiv(length, sizes.own), heads),
        in_specs=[
            *(whole,) * 3,
            pl.BlockSpec((None, rows, rows), lambda b, i, h: (h, 0, 0)),
            *(group,) * 2,
        ],
        out_specs=whole,
        out_shape=jax.ShapeDtypeStruct(v.shape, v.dtype),
        compiler_params=parts.compiler_params(sizes),
        cost_estimate=pl.CostEstimate(
            flops=4 * pairs * width,
            transcendentals=pairs,
            bytes_accessed=4 * v.size * v.dtype.itemsize + bias.size * 4,
        ),
        interpret=interpret,
        name="biased_attention",
    )(q, k, v, bias, queries, keys)


def _kernel(q, k, v, bias, queries, keys, out, *, head, sizes):
    first = pl.program_id(1) * sizes.own
    q, groups = head.load(q, first, sizes.own), head.load_row(queries, first, sizes.own)

    def step(key, count, masked, carry):
        scores = parts.dot_of_parts(q, head.load(k, key, count))
        scores += head.load_pairs(bias, first, sizes.own, key, count)
        allowed = (groups[:, None] & head.load_row(keys, key, count)[None]) != 0
        scores = jnp.where(allowed, scores * LOG2_E, NEVER)
        if masked:
            scores = jnp.where(key + jnp.arange(count)[None] < head.length, scores, -jnp.inf)
        return update(carry, scores, head.load(v, key, count))

    carry = start(head, sizes.own)
    values, _, total = over_keys(step, carry, first, head.length, sizes, causal=False)
    head.store(out, first, [part / total[:, None] for part in values])
