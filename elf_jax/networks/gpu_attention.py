"""Attention for GPUs in three Pallas kernels: FlashAttention (arXiv 2205.14135, 2307.08691).

The scores of all pairs of positions stay on the chip. The forward pass goes through the keys in
blocks. When a larger score comes, what was summed up before is scaled down. It keeps the logarithm
of each row's sum, so that the backward pass can compute the weights of a block from its scores:

    s = q k^T / sqrt(K)    p = exp(s - lse)    o = p v
    dv = p^T do    ds = p (do v^T - delta) / sqrt(K)    delta = sum(do o)
    dq = ds k      dk = ds^T q

One kernel gives dq and delta, each program for some queries. Another one gives dk and dv, each
program for some keys. So every sum has one owner and one order, and results can be repeated.

B batch, T positions, H heads of width K.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl

from elf_jax.networks import gpu_kernel_parts as parts
from elf_jax.networks.gpu_kernel_parts import LOG2_E, Head, Tiles

KEPT = "attended"  # the name of what the backward pass needs, for rematerialisation


def tiles(dtype, kernel, width):
    """`Tiles` of a kernel for a type and a width of the heads.

    They are such that the compiler keeps everything in registers, and that the tensor cores of an
    H100 have whole tiles of 64 rows.

    Args:
      kernel: "forward", "queries", "keys", or "biased", the one of T5.
    """
    if jnp.dtype(dtype).itemsize > 2:  # such products do without the tensor cores
        return Tiles(own=32, other=32, warps=4, stages=1)
    if width > 128:
        return Tiles(own=64, other=32, warps=8, stages=1)
    if kernel == "forward":
        return Tiles(own=128, other=64, warps=4 if width <= 64 else 8, stages=3)
    return Tiles(own=128, other=64, warps=8, stages=2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def flash_attention(q, k, v, causal=False, interpret=False):
    """softmax(q k^T / sqrt(K)) v.

    Args:
      q, k, v: [B, T, H, K], any T and K.
      causal: whether a position attends to earlier positions and itself only. Blocks of later
        positions are not computed.
      interpret: run without a GPU, for tests.

    Returns:
      [B, T, H, K] in the dtype of q. Products are in this dtype, sums and softmax in float32.
    """
    return _forward(q, k, v, causal, interpret)[0]


def _forward(q, k, v, causal, interpret):
    """(out [B, T, H, K], lse [B, H, T] float32, in powers of 2)."""
    batch, length, heads, _ = q.shape
    sums = jax.ShapeDtypeStruct((batch, heads, length), jnp.float32)
    out = jax.ShapeDtypeStruct(q.shape, q.dtype)
    return _call(_forward_kernel, "forward", (q, k, v), (out, sums), causal, interpret)


def _forward_and_keep(q, k, v, causal, interpret):
    out, lse = (checkpoint_name(a, KEPT) for a in _forward(q, k, v, causal, interpret))
    return out, (q, k, v, out, lse)


def _backward(causal, interpret, kept, d_out):
    q, k, v, out, lse = kept
    like = jax.ShapeDtypeStruct(q.shape, q.dtype)
    sums = jax.ShapeDtypeStruct(lse.shape, lse.dtype)
    inputs = (q, k, v, out, d_out, lse)
    d_q, delta = _call(_queries_kernel, "queries", inputs, (like, sums), causal, interpret)
    inputs = (q, k, v, d_out, lse, delta)
    d_k, d_v = _call(_keys_kernel, "keys", inputs, (like, like), causal, interpret)
    return d_q, d_k, d_v


flash_attention.defvjp(_forward_and_keep, _backward)


def _call(kernel, name, inputs, results, causal, interpret):
    """Runs a kernel on a grid (blocks of positions, heads, rows)."""
    batch, length, heads, width = inputs[0].shape
    sizes, head = tiles(inputs[0].dtype, name, width), Head(length, width)
    padded = head.padded(max(sizes.own, sizes.other))

    def spec(array):
        whole = array.ndim == 4
        return parts.whole_head(*padded) if whole else parts.whole_row(padded[0])

    return pl.pallas_call(
        functools.partial(kernel, head=head, sizes=sizes, causal=causal),
        grid=(pl.cdiv(length, sizes.own), heads, batch),
        in_specs=[spec(array) for array in inputs],
        out_specs=[spec(array) for array in results],
        out_shape=results,
        compiler_params=parts.compiler_params(sizes),
        cost_estimate=cost(name, inputs, results, causal),
        interpret=interpret,
        name=f"attention_{name}",
    )(*inputs)


def cost(name, inputs, results, causal):
    """What one call computes and moves."""
    batch, length, heads, width = inputs[0].shape
    products = {"forward": 2, "queries": 3, "keys": 4}[name]
    pairs = batch * heads * length * (length + 1 if causal else 2 * length) // 2
    return pl.CostEstimate(
        flops=2 * products * pairs * width,
        transcendentals=pairs,
        bytes_accessed=sum(a.size * a.dtype.itemsize for a in (*inputs, *results)),
    )


def over_keys(step, carry, first, length, sizes, causal):
    """Goes through the blocks of keys that the queries `first` to `first + sizes.own` attend to.

    Args:
      step: function (first key, how many, whether some of the pairs may be forbidden, carry) ->
        carry.
    """
    block, whole = sizes.other, length // sizes.other
    free = jnp.minimum((first + 1) // block, whole) if causal else whole  # all of it is allowed
    carry = _loop(0, free, lambda i, carry: step(i * block, block, False, carry), carry)
    if causal:
        last = jnp.minimum(pl.cdiv(first + sizes.own, block), whole)
        carry = _loop(free, last, lambda i, carry: step(i * block, block, True, carry), carry)
    rest = parts.rest_size(length, block)
    return step(whole * block, rest, True, carry) if rest else carry


def _over_queries(step, carry, first, length, sizes, causal):
    """The same for the blocks of queries that attend to the keys from `first` on."""
    block, whole, start = sizes.other, length // sizes.other, 0
    if causal:
        start = jnp.minimum(first // block, whole)
        free = jnp.minimum(pl.cdiv(first + sizes.own, block), whole)
        carry = _loop(start, free, lambda i, carry: step(i * block, block, True, carry), carry)
        start = free
    carry = _loop(start, whole, lambda i, carry: step(i * block, block, False, carry), carry)
    rest = parts.rest_size(length, block)
    return step(whole * block, rest, True, carry) if rest else carry


def _loop(start, end, step, carry):
    if isinstance(end, int) and end == 0:  # JAX would trace even an empty loop
        return carry
    return jax.lax.fori_loop(start, end, step, carry)


def _allowed(first_query, queries, first_key, keys, length, causal):
    """[queries, keys], where a query may attend to a key of a sequence of this length."""
    key = first_key + jnp.arange(keys)[None]
    inside = key < length
    if not causal:
        return jnp.broadcast_to(inside, (queries, keys))
    return inside & (key <= first_query + jnp.arange(queries)[:, None])


def update(carry, scores, v):
    """The running softmax with one more block of keys.

    Args:
      carry: (sums of weighted values, list of [queries, size]; largest score [queries]; sum of the
        weights [queries]), see `start`.
      scores: [queries, keys] float32, times log2(e); -inf where a key does not exist. The first
        block must have a key for every query.
      v: list of [keys, size].
    """
    values, largest, total = carry
    higher = jnp.maximum(largest, jnp.max(scores, axis=1))
    p = jnp.exp2(scores - higher[:, None])
    shrink = jnp.exp2(largest - higher)
    values = [part * shrink[:, None] for part in values]
    values = parts.add_products(values, p.astype(v[0].dtype), v)
    return values, higher, total * shrink + jnp.sum(p, axis=1)


def start(head, queries):
    """The carry of `update` before the first block."""
    nothing = jnp.zeros(queries, jnp.float32)
    return head.zeros(queries), nothing - jnp.inf, nothing


def _forward_kernel(q, k, v, out, lse, *, head, sizes, causal):
    length, first = head.length, pl.program_id(0) * sizes.own
    scale = head.width**-0.5 * LOG2_E
    q = head.load(q, first, sizes.own)

    def step(key, count, masked, carry):
        scores = parts.dot_of_parts(q, head.load(k, key, count)) * scale
        if masked:
            allowed = _allowed(first, sizes.own, key, count, length, causal)
            scores = jnp.where(allowed, scores, -jnp.inf)
        return update(carry, scores, head.load(v, key, count))

    carry = over_keys(step, start(head, sizes.own), first, length, sizes, causal)
    values, largest, total = carry
    head.store(out, first, [part / total[:, None] for part in values])
    head.store_row(lse, first, largest + jnp.log2(total))


def _queries_kernel(q, k, v, out, d_out, lse, d_q, delta, *, head, sizes, causal):
    length, first = head.length, pl.program_id(0) * sizes.own
    q, out, d_out = (head.load(ref, first, sizes.own) for ref in (q, out, d_out))
    lse = head.load_row(lse, first, sizes.own)
    shares = [
        jnp.sum(one.astype(jnp.float32) * two.astype(jnp.float32), axis=1)
        for one, two in zip(out, d_out, strict=True)
    ]
    found = sum(shares)

    def step(key, count, masked, carry):
        keys = head.load(k, key, count)
        scores = parts.dot_of_parts(q, keys) * (head.width**-0.5 * LOG2_E)
        if masked:
            allowed = _allowed(first, sizes.own, key, count, length, causal)
            scores = jnp.where(allowed, scores, -jnp.inf)
        p = jnp.exp2(scores - lse[:, None])
        d_p = parts.dot_of_parts(d_out, head.load(v, key, count))
        d_scores = (p * (d_p - found[:, None])).astype(keys[0].dtype)
        return parts.add_products(carry, d_scores, keys)

    carry = head.zeros(sizes.own)
    carry = over_keys(step, carry, first, length, sizes, causal)
    head.store(d_q, first, [part * head.width**-0.5 for part in carry])
    head.store_row(delta, first, found)


def _keys_kernel(q, k, v, d_out, lse, delta, d_k, d_v, *, head, sizes, causal):
    length, first = head.length, pl.program_id(0) * sizes.own
    k, v = (head.load(ref, first, sizes.own) for ref in (k, v))

    def step(query, count, masked, carry):
        d_keys, d_values = carry
        queries, d_rows = (head.load(ref, query, count) for ref in (q, d_out))
        # Everything is transposed, [keys, queries]: the weights are the first factor of a product
        # as they are. Beyond the end, queries and d_out are zero, and so is what they add.
        scores = parts.dot_of_parts(k, queries) * (head.width**-0.5 * LOG2_E)
        p = jnp.exp2(scores - head.load_row(lse, query, count)[None])
        if masked and causal:
            own = first + jnp.arange(sizes.own)[:, None]
            p = jnp.where(own <= query + jnp.arange(count)[None], p, 0.0)
        d_values = parts.add_products(d_values, p.astype(d_rows[0].dtype), d_rows)
        d_p = parts.dot_of_parts(v, d_rows)
        d_scores = (p * (d_p - head.load_row(delta, query, count)[None])).astype(queries[0].dtype)
        return parts.add_products(d_keys, d_scores, queries), d_values

    carry = head.zeros(sizes.own), head.zeros(sizes.own)
    d_keys, d_values = _over_queries(step, carry, first, length, sizes, causal)
    head.store(d_k, first, [part * head.width**-0.5 for part in d_keys])
    head.store(d_v, first, d_values)
