"""q, k and v for GPUs in one Pallas kernel: bias, RMSNorm and rotary embedding.

XLA makes several kernels of it, forward and backward, with float32 arrays between them. Here the
joint projection is read once, and q, k and v are written once, as `gpu_attention.py` needs them.
The backward pass starts from the projection again.

    y = (x + bias) / rms(x + bias)    q = rotate(scale y)    so for k    v = x + bias

B batch, T positions, H heads of width K.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from elf_jax.networks import gpu_kernel_parts as parts
from elf_jax.networks.gpu_kernel_parts import Head, Tiles

EPSILON = 1e-6
TILES = Tiles(own=64, other=64, warps=8, stages=1)


def tables(angles):
    """Cosines and signed sines of the rotary embedding, [T, K] float32; angles [T, K / 2]."""
    cos = jnp.repeat(jnp.cos(angles), 2, axis=1)
    sin = jnp.stack([-jnp.sin(angles), jnp.sin(angles)], axis=-1).reshape(cos.shape)
    return cos, sin


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def make_heads(qkv, bias, q_scale, k_scale, angles, interpret=False):
    """(rotate(RMSNorm(q)), rotate(RMSNorm(k)), v), each [B, T, H, K] in the dtype of `qkv`.

    Args:
      qkv: [B, T, 3, H, K], without the bias.
      bias: [3, H, K] float32.
      q_scale, k_scale: [K] float32, scales of the norms.
      angles: the pair of `tables`.
      interpret: run without a GPU, for tests.
    """
    batch, length, _, heads, width = qkv.shape
    one = jax.ShapeDtypeStruct((batch, length, heads, width), qkv.dtype)
    inputs = (qkv, bias, q_scale, k_scale, *angles)
    return _call(_forward_kernel, "heads_forward", inputs, (one,) * 3, interpret)


def _forward(qkv, bias, q_scale, k_scale, angles, interpret):
    kept = qkv, bias, q_scale, k_scale, angles
    return make_heads(*kept, interpret), kept


def _backward(interpret, kept, gradients):
    qkv, bias, q_scale, k_scale, angles = kept
    batch, length, _, heads, width = qkv.shape
    blocks = pl.cdiv(length, TILES.own)
    # Of each block: the gradients of the two scales and of the three biases.
    sums = jax.ShapeDtypeStruct((batch, blocks, 5, heads, width), jnp.float32)
    inputs = (qkv, bias, q_scale, k_scale, *angles, *gradients)
    results = (jax.ShapeDtypeStruct(qkv.shape, qkv.dtype), sums)
    d_qkv, sums = _call(_backward_kernel, "heads_backward", inputs, results, interpret)
    sums = jnp.sum(sums, axis=(0, 1))
    d_q_scale, d_k_scale = jnp.sum(sums[:2], axis=1)  # all heads share the two scales
    return d_qkv, sums[2:], d_q_scale, d_k_scale, None


make_heads.defvjp(_forward, _backward)


def _call(kernel, name, inputs, results, interpret):
    batch, length, _, heads, width = inputs[0].shape
    head = Head(length, width)
    rows, columns = head.padded(TILES.own)

    def spec(array):
        if array.ndim == 5 and array.shape[1] == length:
            return pl.BlockSpec((None, rows, 3, None, columns), lambda i, h, b: (b, 0, 0, h, 0))
        if array.ndim == 5:
            return pl.BlockSpec((None, None, 5, None, columns), lambda i, h, b: (b, i, 0, h, 0))
        if array.ndim == 4:
            return parts.whole_head(rows, columns)
        if array.ndim == 3:
            return pl.BlockSpec((3, None, columns), lambda i, h, b: (0, h, 0))
        if array.ndim == 2:
            return pl.BlockSpec((rows, columns), lambda i, h, b: (0, 0))
        return pl.BlockSpec((columns,), lambda i, h, b: (0,))

    return pl.pallas_call(
        functools.partial(kernel, head=head),
        grid=(pl.cdiv(length, TILES.own), heads, batch),
        in_specs=[spec(array) for array in inputs],
        out_specs=[spec(array) for array in results],
        out_shape=results,
        compiler_params=parts.compiler_params(TILES),
        cost_estimate=pl.CostEstimate(
            flops=30 * inputs[0].size,
            transcendentals=0,
            bytes_accessed=sum(a.size * a.dtype.itemsize for a in (*inputs, *results)),
        ),
        interpret=interpret,
        name=name,
    )(*inputs)


class _Part:
    """q (index 0), k (1) or v (2) of one head, at the positions of one program, float32."""

    def __init__(self, head, qkv, bias, index):
        self.head, self.qkv, self.bias, self.index = head, qkv, bias, index
        self.first = pl.program_id(0) * TILES.own

    def values(self, swapped=False):
        """x + bias, a list of [rows, size]; with the columns of every pair exchanged if asked."""
        x = self.head.load(self.qkv, self.first, TILES.own, self.index, swapped)
        bias = self.head.load_columns(self.bias, self.index, swapped)
        return [a.astype(jnp.float32) + b for a, b in zip(x, bias, strict=True)]

    def normed(self):
        """(y = x / rms(x), 1 / rms(x) [rows, 1])."""
        x = self.values()
        inverse = jax.lax.rsqrt(_mean([a * a for a in x], self.head.width) + EPSILON)
        return [a * inverse for a in x], inverse

    def rotated(self, scale, cos, sin):
        """rotate(scale y)."""
        y, inverse = self.normed()
        straight = _times(y, self.head.load_columns(scale), cos)
        other = _times(self.values(swapped=True), self.head.load_columns(scale, swapped=True), sin)
        return [a + b * inverse for a, b in zip(straight, other, strict=True)]

    def backward(self, scale, cos, sin, gradient):
        """Gradients of `rotated` with respect to x and to the scale, of the latter [size]."""
        g = self.head.load(gradient, self.first, TILES.own)
        swapped = self.head.load(gradient, self.first, TILES.own, swapped=True)
        # The rotation turned back.
        g = [a - b for a, b in zip(_times(g, cos), _times(swapped, sin), strict=True)]
        y, inverse = self.normed()
        d_y = _times(g, self.head.load_columns(scale))
        mean = _mean(_times(y, d_y), self.head.width)
        d_x = [(a - b * mean) * inverse for a, b in zip(d_y, y, strict=True)]
        return d_x, [jnp.sum(a, axis=0) for a in _times(g, y)]


def _times(*factors):
    """Product of lists of arrays, part by part; a vector stands for all rows."""
    products = factors[0]
    for factor in factors[1:]:
        products = [
            a * (b[None] if b.ndim == 1 else b) for a, b in zip(products, factor, strict=True)
        ]
    return products


def _mean(values, width):
    return sum(jnp.sum(a, axis=1, keepdims=True) for a in values) / width


def _forward_kernel(qkv, bias, q_scale, k_scale, cos, sin, q, k, v, *, head):
    first = pl.program_id(0) * TILES.own
    angles = [head.load(table, first, TILES.own) for table in (cos, sin)]
    for index, (scale, out) in enumerate([(q_scale, q), (k_scale, k)]):
        head.store(out, first, _Part(head, qkv, bias, index).rotated(scale, *angles))
    head.store(v, first, _Part(head, qkv, bias, 2).values())


def _backward_kernel(
    qkv, bias, q_scale, k_scale, cos, sin, d_q, d_k, d_v, d_qkv, sums, *, head
):  # fmt: skip
    first = pl.program_id(0) * TILES.own
    angles = [head.load(table, first, TILES.own) for table in (cos, sin)]
    for index, (scale, gradient) in enumerate([(q_scale, d_q), (k_scale, d_k)]):
        d_x, d_scale = _Part(head, qkv, bias, index).backward(scale, *angles, gradient)
        head.store(d_qkv, first, d_x, index)
        head.store_columns(sums, d_scale, index)
        head.store_columns(sums, [jnp.sum(a, axis=0) for a in d_x], 2 + index)
    d_x = [a.astype(jnp.float32) for a in head.load(d_v, first, TILES.own)]
    head.store(d_qkv, first, d_x, 2)
    head.store_columns(sums, [jnp.sum(a, axis=0) for a in d_x], 4)
