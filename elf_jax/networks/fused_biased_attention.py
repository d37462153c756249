"""T5's attention for TPUs in one Pallas kernel: scores, bias, mask, softmax, values.

The scores of all pairs of positions stay on the chip. There is no backward pass: the encoder is
frozen. The arrangement of heads in lanes is that of `kernel_parts.py`.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from elf_jax.networks.kernel_parts import (
    LANES,
    NEVER,
    QUERY_ROWS,
    VMEM_LIMIT,
    HeadBlock,
    HeadLayout,
    dot,
    softmax,
)


def fits(heads, width):
    """Whether the kernel can compute `heads` heads of this width."""
    return HeadLayout(heads, width).padded == width


def fused_biased_attention(q, k, v, bias, queries, keys, heads, interpret=False):
    """softmax(q k^T + bias, where allowed) v for every head.

    Args:
      q, k, v: [B, T, H K], heads inside; see `fits` for K.
      bias: [H, T, T] float32.
      queries, keys: [B, T] int32; query q may attend to key k if they have a bit in common.
      heads: H. interpret: run without a TPU, for tests.

    Returns:
      [B, T, H K] in the dtype of v. A query that may attend to nothing gets the mean of all values.
    """
    batch, length, width = q.shape
    layout = HeadLayout(heads, width // heads)
    rows = min(QUERY_ROWS, length)
    at = lambda size, row: pl.BlockSpec((1, size, LANES), lambda h, i, b: (b, i * row, h))  # noqa: E731
    pairs = batch * heads * length * length
    return pl.pallas_call(
        functools.partial(_kernel, layout=layout),
        # The batch is the innermost loop: the large bias is loaded once for all of its rows.
        grid=(layout.blocks, pl.cdiv(length, rows), batch),
        in_specs=[
            at(rows, 1),
            at(length, 0),
            at(length, 0),
            pl.BlockSpec((layout.per_block, rows, length), lambda h, i, b: (h, i, 0)),
            pl.BlockSpec((1, rows, 1), lambda h, i, b: (b, i, 0)),
            pl.BlockSpec((1, 1, length), lambda h, i, b: (b, 0, 0)),
        ],
        out_specs=at(rows, 1),
        out_shape=jax.ShapeDtypeStruct(v.shape, v.dtype),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=VMEM_LIMIT
        ),
        cost_estimate=pl.CostEstimate(
            flops=4 * pairs * layout.width,
            transcendentals=pairs,
            bytes_accessed=4 * batch * length * width * v.dtype.itemsize + bias.size * 4,
        ),
        interpret=interpret,
        name="biased_attention",
    )(q, k, v, bias, queries[..., None], keys[:, None])


def _kernel(q, k, v, bias, queries, keys, out, *, layout):
    block = HeadBlock(layout)
    allowed = (queries[0] & keys[0]) != 0
    values = 0.0
    for head in range(layout.per_block):
        scores = dot(block.only(q[0], head), k[0], (1, 1)) + bias[head]
        p, inverse = softmax(jnp.where(allowed, scores, NEVER))
        values += block.only(dot(p.astype(v.dtype), v[0], (1, 0)) * inverse, head)
    out[0] = values.astype(out.dtype)
