"""Self-attention for TPUs in one Pallas kernel: RMSNorm and rotation of q and k, softmax, values.

XLA would write the normed and rotated q and k and the scores of all pairs of positions to memory
and read them again. Here they stay on the chip. A whole row of scores fits there, because the
sequences are short. So nothing has to be rescaled as in FlashAttention (arXiv 2205.14135), and the
backward pass needs q, k and v only: it computes the softmax again.

Layout: heads lie in blocks of 128 lanes, see `kernel_parts.py`. The input holds [q | k | v] of one
block side by side, [B, T, blocks x 3 x 128], so that one copy loads all three. `pack` arranges the
columns of the projection's kernel in this order.

B batch, T positions, H heads of width K.
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
    dot,
    pad_lanes,
    softmax,
)

EPSILON = 1e-6
MAX_LENGTH = 4096  # positions whose keys, values and scores fit into VMEM_LIMIT


def pack(array, layout):
    """The columns [q | k | v] x heads x width of a kernel or bias, in the order of the blocks.

    Args:
      array: [..., 3 H K]. layout: the `HeadLayout`.

    Returns:
      [..., blocks x 3 x 128], padded with zeros where a head does not fill its lanes.
    """
    lead = array.shape[:-1]
    array = array.reshape(*lead, 3, layout.blocks, layout.per_block, layout.width)
    array = jnp.moveaxis(array, -4, -3)
    array = pad_lanes(array, layout)
    return array.reshape(*lead, layout.blocks * 3 * LANES)


def unpack_output(out, layout):
    """[B, T, blocks x 128] to [B, T, H K]."""
    if layout.padded == layout.width:
        return out
    heads = out.reshape(*out.shape[:-1], layout.heads, layout.padded)
    return heads[..., : layout.width].reshape(*out.shape[:-1], layout.heads * layout.width)


def tables(angles, layout):
    """Cosines and signed sines of the rotary embedding per lane, each [T, 128] float32.

    Args:
      angles: [T, K / 2], see `layers.rotary_angles`.
    """
    cos = jnp.repeat(jnp.cos(angles), 2, axis=1)
    sin = jnp.stack([-jnp.sin(angles), jnp.sin(angles)], axis=-1).reshape(cos.shape)
    return tuple(jnp.tile(pad_lanes(table, layout), (1, layout.per_block)) for table in (cos, sin))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def fused_attention(qkv, bias, q_scale, k_scale, angles, layout, interpret=False, causal=False):
    """softmax(rotate(RMSNorm(q)) rotate(RMSNorm(k))^T / sqrt(K)) v for every head.

    Args:
      qkv: [B, T, blocks x 3 x 128], columns in the order of `pack`, without the bias.
      bias: [1, blocks x 3 x 128] float32, added to `qkv` here: the kernel can sum up its gradient
        without another pass.
      q_scale, k_scale: [K] float32, scales of the norms.
      angles: the pair of `tables`.
      layout: the `HeadLayout`. interpret: run without a TPU, for tests.
      causal: whether a position attends to earlier positions and itself only. The scores of all
        pairs are computed in either case.

    Returns:
      [B, T, blocks x 128] in the dtype of `qkv`; norms, rotation and softmax are float32.

    Raises:
      ValueError: more than MAX_LENGTH positions.
    """
    kernel = functools.partial(_forward_kernel, layout=layout, causal=causal)
    return _call(kernel, qkv, bias, (q_scale, k_scale), angles, (), layout, interpret)


def _forward(qkv, bias, q_scale, k_scale, angles, layout, interpret, causal):
    out = fused_attention(qkv, bias, q_scale, k_scale, angles, layout, interpret, causal)
    return out, (qkv, bias, q_scale, k_scale, angles)


def _backward(layout, interpret, causal, residuals, d_out):
    qkv, bias, q_scale, k_scale, angles = residuals
    kernel = functools.partial(_backward_kernel, layout=layout, causal=causal)
    scales = q_scale, k_scale
    d_qkv, sums = _call(kernel, qkv, bias, scales, angles, (d_out,), layout, interpret)
    sums = jnp.sum(sums, axis=0)  # the kernel gives one set of sums for each sequence and block
    # All heads share the two scales: their lanes are added up.
    d_scales = jnp.sum(sums[:, :2], axis=0).reshape(2, layout.per_block, layout.padded)
    d_q_scale, d_k_scale = jnp.sum(d_scales, axis=1)[:, : layout.width]
    return d_qkv, sums[:, 2:5].reshape(bias.shape), d_q_scale, d_k_scale, None


fused_attention.defvjp(_forward, _backward)


def _call(kernel, qkv, bias, scales, angles, extra, layout, interpret):
    batch, length, _ = qkv.shape
    if length > MAX_LENGTH:
        raise ValueError(f"{length} positions: the fused kernel holds at most {MAX_LENGTH}")
    scales = [jnp.tile(pad_lanes(scale, layout), layout.per_block)[None] for scale in scales]
    whole = lambda *shape: pl.BlockSpec(shape, lambda b, h: (0,) * len(shape))  # noqa: E731
    columns = lambda width: pl.BlockSpec((1, length, width), lambda b, h: (b, 0, h))  # noqa: E731
    out_shape = jax.ShapeDtypeStruct((batch, length, layout.blocks * LANES), qkv.dtype)
    out_specs, scratch = columns(LANES), []
    if extra:
        sums = jax.ShapeDtypeStruct((batch, layout.blocks, 8, LANES), jnp.float32)
        out_shape = (jax.ShapeDtypeStruct(qkv.shape, qkv.dtype), sums)
        row = pl.BlockSpec((1, 1, 8, LANES), lambda b, h: (b, h, 0, 0))
        out_specs = (columns(3 * LANES), row)
        scratch = [pltpu.VMEM((size, LANES), jnp.float32) for size in (length, length, 1, 1)]
    return pl.pallas_call(
        kernel,
        grid=(batch, layout.blocks),
        in_specs=[
            columns(3 * LANES),
            pl.BlockSpec((1, 3 * LANES), lambda b, h: (0, h)),
            whole(1, LANES),
            whole(1, LANES),
            whole(length, LANES),
            whole(length, LANES),
            *[columns(LANES) for _ in extra],
        ],
        out_specs=out_specs,
        out_shape=out_shape,
        scratch_shapes=scratch,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=VMEM_LIMIT
        ),
        cost_estimate=cost(batch, length, layout, qkv.dtype.itemsize, backward=bool(extra)),
        interpret=interpret,
        name="attention_backward" if extra else "attention_forward",
    )(qkv, bias, *scales, *angles, *extra)


def cost(batch, length, layout, itemsize, backward):
    """What one call computes and moves; padding of heads to whole blocks is not counted."""
    products = 5 if backward else 2
    pairs = batch * layout.heads * length * length
    columns = batch * length * layout.blocks * LANES * itemsize
    return pl.CostEstimate(
        flops=2 * products * pairs * layout.width,
        transcendentals=pairs,
        # Forward: q, k, v are read and the output is written. Backward: q, k, v and d_out are read
        # and three gradients are written.
        bytes_accessed=columns * (7 if backward else 4),
    )


class _Block(HeadBlock):
    """Inside a kernel: norm and rotation of the heads of one block."""

    def head_mean(self, x):
        """Mean over the channels of each head, on all its lanes."""
        sums = [jnp.sum(self.only(x, head), -1, keepdims=True) for head in range(len(self.masks))]
        out = sums[0]
        for mask, value in zip(self.masks[1:], sums[1:], strict=True):
            out = jnp.where(mask, value, out)
        return out / self.layout.width

    def swap(self, x):
        """Exchanges the lanes of every pair (0, 1), (2, 3), ..."""
        return jnp.where(self.lane % 2 == 0, pltpu.roll(x, LANES - 1, 1), pltpu.roll(x, 1, 1))

    def normed(self, x):
        """(x / rms(x), 1 / rms(x)) of every head, float32."""
        x = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(self.head_mean(x * x) + EPSILON)
        return x * inverse, inverse

    def prepare(self, x, scale, cos, sin):
        """rotate(RMSNorm(x)), float32."""
        x = self.normed(x)[0] * scale
        return x * cos + self.swap(x) * sin

    def prepare_backward(self, x, scale, cos, sin, g):
        """Gradients of `prepare` with respect to x and to scale (a row of sums)."""
        g = g * cos - self.swap(g) * sin  # the rotation turned back
        y, inverse = self.normed(x)
        d_y = g * scale
        return (d_y - y * self.head_mean(y * d_y)) * inverse, jnp.sum(g * y, 0, keepdims=True)


def _for_chunks(length, work):
    """Calls work(rows) for every chunk of QUERY_ROWS queries and for the rest of them.

    The chunks are a loop of the kernel, so that its code stays small.
    """
    whole = length // QUERY_ROWS

    def step(index, _):
        work(pl.ds(pl.multiple_of(index * QUERY_ROWS, QUERY_ROWS), QUERY_ROWS))
        return 0

    if whole:  # JAX would trace even an empty loop, with slices that are too long
        jax.lax.fori_loop(0, whole, step, 0)
    if length % QUERY_ROWS:
        work(pl.ds(whole * QUERY_ROWS, length % QUERY_ROWS))


_Q, _K, _V = (pl.ds(index * LANES, LANES) for index in range(3))  # their columns in a block


def _with_bias(qkv, bias, rows, part):
    """q, k or v of some positions with its bias, float32."""
    return qkv[0, rows, part].astype(jnp.float32) + bias[:, part]


def _scores(q, k, rows, causal):
    """Scores of the queries `rows` with all keys, [rows, T] float32."""
    scores = dot(q, k, (1, 1))
    if not causal:
        return scores
    query = rows.start + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
    key = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    return jnp.where(key <= query, scores, NEVER)


def _forward_kernel(qkv, bias, q_scale, k_scale, cos, sin, out, *, layout, causal):
    block, every = _Block(layout), slice(None)
    k = _with_bias(qkv, bias, every, _K)
    k = block.prepare(k, k_scale[...], cos[...], sin[...]).astype(qkv.dtype)
    v = _with_bias(qkv, bias, every, _V).astype(qkv.dtype)

    def work(rows):
        q = _with_bias(qkv, bias, rows, _Q)
        q = block.prepare(q, q_scale[...], cos[rows], sin[rows])
        q = (q * layout.width**-0.5).astype(qkv.dtype)
        values = 0.0
        for head in range(layout.per_block):
            p, inverse = softmax(_scores(block.only(q, head), k, rows, causal))
            value = dot(p.astype(v.dtype), v, (1, 0)) * inverse
            values += block.only(value, head)
        out[0, rows] = values.astype(out.dtype)

    _for_chunks(qkv.shape[1], work)


def _backward_kernel(
    qkv, bias, q_scale, k_scale, cos, sin, d_out, d_qkv, sums, d_k, d_v, d_q_scale, d_q_bias,
    *, layout, causal,
):  # fmt: skip
    block, dtype, every = _Block(layout), qkv.dtype, slice(None)
    raw_k = _with_bias(qkv, bias, every, _K)
    k = block.prepare(raw_k, k_scale[...], cos[...], sin[...]).astype(dtype)
    v = _with_bias(qkv, bias, every, _V).astype(dtype)
    for total in (d_k, d_v, d_q_scale, d_q_bias):
        total[...] = jnp.zeros_like(total)

    def work(rows):
        raw_q = _with_bias(qkv, bias, rows, _Q)
        q = block.prepare(raw_q, q_scale[...], cos[rows], sin[rows])
        q = (q * layout.width**-0.5).astype(dtype)
        d_values, d_q = d_out[0, rows], 0.0
        for head in range(layout.per_block):
            q_head, d_head = block.only(q, head), block.only(d_values, head)
            p, inverse = softmax(_scores(q_head, k, rows, causal))
            p = p * inverse
            d_v[...] += dot(p.astype(dtype), d_head, (0, 0))
            d_p = dot(d_head, v, (1, 1))
            d_scores = (p * (d_p - jnp.sum(p * d_p, -1, keepdims=True))).astype(dtype)
            d_q += block.only(dot(d_scores, k, (1, 0)), head)
            d_k[...] += dot(d_scores, q_head, (0, 0))
        d_q, row = block.prepare_backward(
            raw_q, q_scale[...], cos[rows], sin[rows], d_q * layout.width**-0.5
        )
        d_qkv[0, rows, _Q] = d_q.astype(dtype)
        d_q_scale[...] += row
        d_q_bias[...] += jnp.sum(d_q, 0, keepdims=True)

    _for_chunks(qkv.shape[1], work)
    d_raw_k, d_k_scale = block.prepare_backward(raw_k, k_scale[...], cos[...], sin[...], d_k[...])
    d_qkv[0, :, _K] = d_raw_k.astype(dtype)
    d_qkv[0, :, _V] = d_v[...].astype(dtype)
    d_kv_bias = [jnp.sum(part, 0, keepdims=True) for part in (d_raw_k, d_v[...])]
    nothing = jnp.zeros((3, LANES), jnp.float32)
    sums[0, 0] = jnp.concatenate([d_q_scale[...], d_k_scale, d_q_bias[...], *d_kv_bias, nothing])
