"""Attention for TPUs in one Pallas kernel: RMSNorm and rotation of q and k, softmax, values.

What XLA would write to memory and read again (normed and rotated q and k, the scores of every pair
of positions) stays on the chip. A sequence of ELF is short enough that a whole row of scores fits
there, so nothing has to be rescaled on the way as in FlashAttention (arXiv 2205.14135), and the
backward pass needs nothing but q, k and v: it computes the softmax again.

Layout: a TPU works on blocks of 128 lanes. `heads_per_block` heads of width K <= 64 share one
block; inside, a head is singled out by zeroing the lanes of the others, which costs the matrix unit
nothing. The input holds [q | k | v] of one block side by side, [B, T, blocks x 3 x 128], so that
one copy brings all three; `pack` arranges the columns of the projection's kernel that way.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128
QUERY_ROWS = 256  # queries worked on at once: [256, T] float32 scores are 1 MiB at T = 1024
EPSILON = 1e-6
NEVER = -1e30  # the score of a pair that may not attend; finite, so that no softmax is NaN
VMEM_LIMIT = 64 * 2**20  # bytes of on-chip memory the kernel may use; v4 and later have 128 MiB
MAX_LENGTH = 4096  # positions whose keys, values and scores fit there


@dataclasses.dataclass(frozen=True)
class HeadLayout:
    """How heads of width `width` lie in blocks of 128 lanes.

    Attributes:
      heads: H. width: K, channels of a head.
    """

    heads: int
    width: int

    @property
    def padded(self):
        """Lanes of one head: its width where several fit into a block, else a whole block."""
        return self.width if LANES % self.width == 0 and self._fits else LANES

    @property
    def _fits(self):
        return self.heads % (LANES // self.width) == 0

    @property
    def per_block(self):
        """Heads that share a block."""
        return LANES // self.padded

    @property
    def blocks(self):
        """Blocks of 128 lanes for all heads."""
        return self.heads // self.per_block


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
    array = _pad_lanes(array, layout)
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
    return tuple(jnp.tile(_pad_lanes(table, layout), (1, layout.per_block)) for table in (cos, sin))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def fused_attention(qkv, bias, q_scale, k_scale, angles, layout, interpret=False):
    """softmax(rotate(RMSNorm(q)) rotate(RMSNorm(k))^T / sqrt(K)) v for every head, of q, k and v
    with their biases.

    Args:
      qkv: [B, T, blocks x 3 x 128], columns in the order of `pack`, without the bias: its gradient
        is a sum that the kernel has at hand.
      bias: [1, blocks x 3 x 128] float32.
      q_scale, k_scale: [K] float32, scales of the norms.
      angles: the pair of `tables`.
      layout: the `HeadLayout`. interpret: run without a TPU, for tests.

    Returns:
      [B, T, blocks x 128] in the dtype of `qkv`; norms, rotation and softmax are float32.
    """
    return _call(_forward_kernel, qkv, bias, (q_scale, k_scale), angles, (), layout, interpret)


def _forward(qkv, bias, q_scale, k_scale, angles, layout, interpret):
    out = fused_attention(qkv, bias, q_scale, k_scale, angles, layout, interpret)
    return out, (qkv, bias, q_scale, k_scale, angles)


def _backward(layout, interpret, residuals, d_out):
    qkv, bias, q_scale, k_scale, angles = residuals
    d_qkv, sums = _call(
        _backward_kernel, qkv, bias, (q_scale, k_scale), angles, (d_out,), layout, interpret
    )
    sums = jnp.sum(sums, axis=0)  # of every block; one row of sums per sequence came out
    # Of the scales, lanes of all heads add up as well.
    d_scales = jnp.sum(sums[:, :2], axis=0).reshape(2, layout.per_block, layout.padded)
    d_q_scale, d_k_scale = jnp.sum(d_scales, axis=1)[:, : layout.width]
    return d_qkv, sums[:, 2:5].reshape(bias.shape), d_q_scale, d_k_scale, None


fused_attention.defvjp(_forward, _backward)


def _pad_lanes(array, layout):
    padding = [(0, 0)] * (array.ndim - 1) + [(0, layout.padded - layout.width)]
    return jnp.pad(array, padding)


def _call(kernel, qkv, bias, scales, angles, extra, layout, interpret):
    batch, length, _ = qkv.shape
    if length > MAX_LENGTH:
        raise ValueError(f"{length} positions: the fused kernel holds at most {MAX_LENGTH}")
    scales = [jnp.tile(_pad_lanes(scale, layout), layout.per_block)[None] for scale in scales]
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
        functools.partial(kernel, layout=layout),
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


def fused_biased_attention(q, k, v, bias, queries, keys, heads, interpret=False):
    """softmax(q k^T + bias, where allowed) v for every head: T5's attention, forward only.

    Args:
      q, k, v: [B, T, H K], heads inside; K = 64, or another width that fills 128 lanes evenly.
      bias: [H, T, T] float32.
      queries, keys: [B, T] int32; query q may attend to key k if their bits overlap.
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
        functools.partial(_biased_kernel, layout=layout),
        # Rows of the batch come last: the large bias is brought in once for all of them.
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


def fits_biased(heads, width):
    """Whether `fused_biased_attention` takes heads of this width."""
    return HeadLayout(heads, width).padded == width


def cost(batch, length, layout, itemsize, backward):
    """What one call computes and moves: matrix products of real channels, once through q, k, v."""
    products = 5 if backward else 2
    pairs = batch * layout.heads * length * length
    columns = batch * length * layout.blocks * LANES * itemsize
    return pl.CostEstimate(
        flops=2 * products * pairs * layout.width,
        transcendentals=pairs,
        # q, k, v in and the output out; backward: those and d_out in, three gradients out.
        bytes_accessed=columns * (7 if backward else 4),
    )


def _dot(a, b, contract):
    """Matrix product over the axes `contract` of a and b, accumulated in float32."""
    return jax.lax.dot_general(
        a, b, (((contract[0],), (contract[1],)), ((), ())), preferred_element_type=jnp.float32
    )


class _Block:
    """The parts of a block of heads that both kernels need."""

    def __init__(self, layout):
        lane = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
        self.layout = layout
        self.masks = [lane // layout.padded == head for head in range(layout.per_block)]
        self.is_even = lane % 2 == 0

    def only(self, x, head):
        """x with the lanes of the other heads zeroed."""
        return x if self.layout.per_block == 1 else jnp.where(self.masks[head], x, 0)

    def head_mean(self, x):
        """Mean over the channels of each head, on all its lanes."""
        sums = [jnp.sum(self.only(x, head), -1, keepdims=True) for head in range(len(self.masks))]
        out = sums[0]
        for mask, value in zip(self.masks[1:], sums[1:], strict=True):
            out = jnp.where(mask, value, out)
        return out / self.layout.width

    def swap(self, x):
        """Exchanges the lanes of every pair (0, 1), (2, 3), ..."""
        return jnp.where(self.is_even, pltpu.roll(x, LANES - 1, 1), pltpu.roll(x, 1, 1))

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


def _softmax(scores):
    """exp(scores - max) and the inverse of its sum, over the last axis."""
    p = jnp.exp(scores - jnp.max(scores, -1, keepdims=True))
    return p, 1.0 / jnp.sum(p, -1, keepdims=True)


def _for_chunks(length, work):
    """Calls work(rows) for every chunk of queries: a loop, for the code to stay small, and what is
    left over.
    """
    whole = length // QUERY_ROWS

    def step(index, _):
        work(pl.ds(pl.multiple_of(index * QUERY_ROWS, QUERY_ROWS), QUERY_ROWS))
        return 0

    if whole:  # an empty loop would be traced all the same, with slices that do not fit
        jax.lax.fori_loop(0, whole, step, 0)
    if length % QUERY_ROWS:
        work(pl.ds(whole * QUERY_ROWS, length % QUERY_ROWS))


_Q, _K, _V = (pl.ds(index * LANES, LANES) for index in range(3))  # where they lie in a block


def _with_bias(qkv, bias, rows, part):
    """q, k or v of some rows, float32."""
    return qkv[0, rows, part].astype(jnp.float32) + bias[:, part]


def _forward_kernel(qkv, bias, q_scale, k_scale, cos, sin, out, *, layout):
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
            p, inverse = _softmax(_dot(block.only(q, head), k, (1, 1)))
            value = _dot(p.astype(v.dtype), v, (1, 0)) * inverse
            values += block.only(value, head)
        out[0, rows] = values.astype(out.dtype)

    _for_chunks(qkv.shape[1], work)


def _backward_kernel(
    qkv, bias, q_scale, k_scale, cos, sin, d_out, d_qkv, sums, d_k, d_v, d_q_scale, d_q_bias,
    *, layout,
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
            p, inverse = _softmax(_dot(q_head, k, (1, 1)))
            p = p * inverse
            d_v[...] += _dot(p.astype(dtype), d_head, (0, 0))
            d_p = _dot(d_head, v, (1, 1))
            d_scores = (p * (d_p - jnp.sum(p * d_p, -1, keepdims=True))).astype(dtype)
            d_q += block.only(_dot(d_scores, k, (1, 0)), head)
            d_k[...] += _dot(d_scores, q_head, (0, 0))
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


def _biased_kernel(q, k, v, bias, queries, keys, out, *, layout):
    block = _Block(layout)
    allowed = (queries[0] & keys[0]) != 0
    values = 0.0
    for head in range(layout.per_block):
        scores = _dot(block.only(q[0], head), k[0], (1, 1)) + bias[head]
        p, inverse = _softmax(jnp.where(allowed, scores, NEVER))
        values += block.only(_dot(p.astype(v.dtype), v[0], (1, 0)) * inverse, head)
    out[0] = values.astype(out.dtype)
