"""Attention of all networks but GPT-2's, with the implementation that suits the device.

    self-attention  x -> [q | k | v] -> RMSNorm and rotary embedding on q and k -> softmax -> values
                    by XLA (anywhere), by cuDNN's flash attention (NVIDIA GPUs), or by fused
                    kernels: `fused_attention.py` (TPUs), `gpu_heads.py` and `gpu_attention.py`
                    (GPUs)
    cached          the same, for new positions beside positions whose keys and values are kept: by
                    XLA; for noisy blocks beside their clean text also by cuDNN, or by `splash.py`
                    (TPUs)
    T5              softmax(q k^T + bias, where allowed) v
                    by XLA, or by the kernels of `fused_biased_attention.py` (TPUs) and
                    `gpu_biased_attention.py` (GPUs)

B batch, T positions, D width, H heads of width K.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from elf_jax.networks import fused_attention as fused
from elf_jax.networks import fused_biased_attention as biased
from elf_jax.networks import gpu_attention, gpu_biased_attention, gpu_heads, splash
from elf_jax.networks.block_mask import BlockMask, padded
from elf_jax.networks.kernel_parts import LANES, HeadLayout
from elf_jax.networks.layers import add_bias, normalize, product, rotate

IMPLEMENTATIONS = ("auto", "xla", "cudnn", "fused")
# cuDNN needs multiples of these.
CUDNN_WIDTH = 8  # of head widths
CUDNN_LENGTH = 2  # of lengths, where there is a mask
ROWS = ("data", "fsdp")  # axes of the mesh that rows are split over


def choose(name, platform, dtype, heads, head_width, tensor=1):
    """The implementation of self-attention that a setting means on a platform.

    Args:
      name: one of IMPLEMENTATIONS.
      platform: "cpu", "gpu" or "tpu".
      dtype: of the computation.
      heads, head_width: H and K.
      tensor: how many devices the heads are split over.

    Returns:
      `name` itself, or for "auto" the fastest of "xla", "cudnn" and "fused" that can do it. All
      three can also do causal attention.
    """
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"no attention {name!r}; known are {', '.join(IMPLEMENTATIONS)}")
    if name != "auto":
        return name
    if platform == "tpu":
        blocks = HeadLayout(heads, head_width).blocks
        return "fused" if blocks % tensor == 0 and head_width <= LANES else "xla"
    # Both have fast kernels for 16-bit types only. Where there is cuDNN, it is the faster one.
    if platform != "gpu" or dtype != jnp.bfloat16:
        return "xla"
    return "cudnn" if _has_cudnn() else "fused" if heads % tensor == 0 else "xla"


@functools.cache
def _has_cudnn():
    """Whether JAX finds cuDNN. A program for a GPU that is not there may have to do without it."""
    array = jax.ShapeDtypeStruct((1, 8, 1, CUDNN_WIDTH), jnp.bfloat16)
    attend = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    try:
        jax.eval_shape(attend, array, array, array)
    except RuntimeError:  # JAX asks for its version
        return False
    return True


class Cache(NamedTuple):
    """Keys and values of the first positions of a row, which other positions attend to.

    Attributes:
      keys, values: [B, L, H, K] of one layer, or [depth, B, L, H, K] of all layers. The keys have
        been normed and rotated. L is the largest number of positions.
      is_key: [B, L] or [depth, B, L] bool, which of them may be attended to; None: all.
    """

    keys: jax.Array
    values: jax.Array
    is_key: jax.Array | None = None

    @classmethod
    def empty(cls, depth, rows, length, heads, head_width, dtype, mesh=None, has_is_key=False):
        """A cache [depth, B, L, H, K] of zeros, split over the mesh like rows and heads. With
        `has_is_key` some of its positions can be hidden.
        """
        zeros = jnp.zeros((depth, rows, length, heads, head_width), dtype)
        if mesh is not None:
            split = heads % mesh.shape["tensor"] == 0
            spec = P(
                None, ROWS if _splits(zeros[0], mesh) else None, None, "tensor" if split else None
            )
            zeros = jax.lax.with_sharding_constraint(zeros, jax.sharding.NamedSharding(mesh, spec))
        return cls(zeros, zeros, jnp.ones(zeros.shape[:3], bool) if has_is_key else None)

    def write(self, new, position):
        """The cache [depth, ...] with another one of fewer positions written into it, from a
        position on.
        """

        def put(old, part):
            part = part.astype(old.dtype)
            return jax.lax.dynamic_update_slice_in_dim(old, part, position, axis=2)

        is_key = None if self.is_key is None else put(self.is_key, new.which_keys())
        return Cache(put(self.keys, new.keys), put(self.values, new.values), is_key)

    def and_then(self, new):
        """The cache [B, ...] with the positions of another one after its own."""
        keys, values = (
            jnp.concatenate(parts, axis=1) for parts in zip(self[:2], new[:2], strict=True)
        )
        return Cache(keys, values, self.keys_and_then(new))

    def keys_and_then(self, new):
        """`is_key` of `and_then`."""
        if self.is_key is None and new.is_key is None:
            return None
        return jnp.concatenate([self.which_keys(), new.which_keys()], axis=1)

    def which_keys(self):
        """`is_key` as an array."""
        return jnp.ones(self.keys.shape[:-2], bool) if self.is_key is None else self.is_key


class Groups(NamedTuple):
    """Which position may attend to which, without a mask of all pairs.

    Attributes:
      queries, keys: [B, L] int32; query q may attend to key k if they have a bit in common.
    """

    queries: jax.Array
    keys: jax.Array

    def mask(self):
        """[B, L, L], True where a query may attend to a key."""
        return (self.queries[:, :, None] & self.keys[:, None, :]) != 0


def self_attention(
    x,
    kernel,
    bias,
    q_scale,
    k_scale,
    angles,
    heads,
    implementation="xla",
    mesh=None,
    causal=False,
    is_key=None,
):
    """Self-attention before the output projection.

    Args:
      x: [B, T, D].
      kernel: [D, 3 D] in the dtype of x, columns [q | k | v] with heads inside.
      bias: [3 D] float32.
      q_scale, k_scale: [K] float32, scales of the two norms, K = D / H.
      angles: [T, K / 2], of the rotary embedding.
      heads: H.
      implementation: "xla", "cudnn" or "fused".
      mesh: for "fused": rows are split over its axes data and fsdp, heads over tensor. It decides
        between the kernels for TPUs and for GPUs.
      causal: whether a position attends to earlier positions and itself only.
      is_key: [B, T] bool, which positions may be attended to; None: all. Every position must see
        one. With it "fused" is `splash.py` on TPUs, and XLA on GPUs.

    Returns:
      [B, T, D] in the dtype of x; norms, rotation and softmax are float32. What a backward pass
      needs beside the inputs is named "qkv" and "attended", for rematerialisation.
    """
    head_width = x.shape[-1] // heads
    on_gpu = _platform(mesh) == "gpu"
    is_fused = implementation == "fused" and is_key is None and _splits(x, mesh)
    if is_fused and not on_gpu:
        layout = HeadLayout(heads, head_width)
        # Without the barrier XLA moves the packing into the product of the gradient. Then it has to
        # transpose all activations.
        packed = jax.lax.optimization_barrier(fused.pack(kernel, layout))
        qkv, bias = checkpoint_name(x @ packed, "qkv"), fused.pack(bias, layout)[None]
        tables = fused.tables(angles, layout)
        out = _fused(qkv, bias, q_scale, k_scale, tables, layout, mesh, causal)
        return checkpoint_name(out, "attended")
    if is_fused and on_gpu:
        qkv = checkpoint_name(x @ kernel, "qkv").reshape(*x.shape[:2], 3, heads, head_width)
        parameters = bias.reshape(3, heads, head_width), q_scale, k_scale
        return _flash(qkv, *parameters, angles, mesh, causal).reshape(x.shape)
    q, k, v = _heads(x, kernel, bias, q_scale, k_scale, angles, heads, mesh)
    out = _attend(q, Cache(k, v, is_key), implementation, causal, mesh)
    return checkpoint_name(out.reshape(x.shape), "attended")


def cached_attention(
    x,
    kernel,
    bias,
    q_scale,
    k_scale,
    angles,
    heads,
    implementation,
    cache,
    sees,
    mesh=None,
    is_key=None,
):
    """`self_attention` of new positions, which may see those of a cache too.

    Args:
      x: [B, T, D], the new positions. angles: [T, K / 2], theirs.
      cache: `Cache` of one layer, of S positions.
      sees: which positions of the cache and which new ones each new position may see: a
        `BlockMask`, or [T, S + T] bool, for which it is always XLA. None: nothing of the cache, and
        the new ones causally.
      kernel, bias, q_scale, k_scale, heads, implementation, mesh: as for `self_attention`.
      is_key: [B, T] bool, which of the new positions may be attended to; None: all. The first one
        always may, so that every position sees one.

    Returns:
      ([B, T, D] in the dtype of x, `Cache` of the T new positions). The result is named "attended",
      for rematerialisation.
    """
    q, k, v = _heads(x, kernel, bias, q_scale, k_scale, angles, heads, mesh)
    new = Cache(k, v, is_key)
    mask = sees.array() if isinstance(sees, BlockMask) else sees
    has_kernel = _has_splash(q, implementation, mesh)
    if sees is None:
        out = _attend(q, new, implementation, True, mesh)
    elif isinstance(sees, BlockMask) and (has_kernel or implementation == "cudnn"):
        both = cache.and_then(new)
        if has_kernel:
            out = _masked(q, both, mask, mesh)
        else:
            k, v, is_key = both
            out = softmax_attention(q, k, v, implementation, mask=mask, is_key=is_key)
    else:
        out = _attend_to_both(q, cache, new, mask)
    return checkpoint_name(out.reshape(x.shape), "attended"), new


def _attend(q, seen, implementation, causal, mesh):
    """Attention of positions to themselves, whose keys and values are the `Cache` `seen`."""
    if _has_splash(q, implementation, mesh):
        full = np.ones((q.shape[1], q.shape[1]), bool)
        return _masked(q, seen, np.tril(full) if causal else full, mesh)
    implementation = "xla" if implementation == "fused" else implementation
    return softmax_attention(q, *seen[:2], implementation, causal, is_key=seen.is_key)


def _has_splash(q, implementation, mesh):
    """Whether "fused" means the kernel of `splash.py` here."""
    return implementation == "fused" and _platform(mesh) != "gpu" and _splits(q, mesh)


def _masked(q, seen, mask, mesh):
    """Attention to the `Cache` `seen` with a mask [T, L] of numpy, by `splash.py`."""

    def attend(q, k, v, is_key=None):
        return splash.masked_attention(q, k, v, mask, _interpret(mesh), "attended", is_key)

    spec, arrays = P(ROWS, None, "tensor"), [array for array in (q, *seen) if array is not None]
    specs = (spec, spec, spec, P(ROWS))[: len(arrays)]
    return _on_every_device(attend, mesh, specs, spec)(*arrays)


def _attend_to_both(q, cache, new, sees):
    """Attention to the positions of the cache and to the new ones, as far as [T, S + T] says.

    The scores of both are joined, not their keys: new keys written into those of a layer would be a
    copy of the whole layer, in a layout that products are slow with.
    """
    size = cache.keys.shape[1]
    scores = jnp.concatenate(
        [
            jnp.einsum("bthk,blhk->bhtl", q, part.keys, preferred_element_type=jnp.float32)
            for part in (cache, new)
        ],
        axis=-1,
    )
    is_key = cache.keys_and_then(new)
    sees = sees if is_key is None else sees & is_key[:, None, None]
    scores = jnp.where(sees, scores * q.shape[-1] ** -0.5, -jnp.inf)
    p = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    # A weight of zero does not hide a value that is not finite, so the cache must have none.
    return sum(
        jnp.einsum("bhtl,blhk->bthk", weights, part.values)
        for weights, part in zip(jnp.split(p, [size], axis=-1), (cache, new), strict=True)
    )


def _heads(x, kernel, bias, q_scale, k_scale, angles, heads, mesh=None):
    """q, k and v, each [B, T, H, K]; q and k are normed and rotated."""
    head_width = x.shape[-1] // heads
    qkv = checkpoint_name(add_bias(product(x, kernel, mesh), bias), "qkv").reshape(
        *x.shape[:2], 3, heads, head_width
    )
    q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    q, k = (
        rotate(normalize(part, scale), angles).astype(x.dtype)
        for part, scale in ((q, q_scale), (k, k_scale))
    )
    return q, k, v


def softmax_attention(q, k, v, implementation="xla", causal=False, mask=None, is_key=None):
    """softmax(q k^T / sqrt(K)) v.

    Args:
      q: [B, T, H, K]. k, v: [B, L, H, K]. implementation: "xla", or "cudnn" for 16-bit types.
      causal: whether a position attends to earlier positions and itself only.
      mask: [T, L] numpy bool, True where a query may attend to a key. None: everywhere.
      is_key: [B, L] bool, which keys may be attended to at all; None: all. Every query must see
        one.

    Returns:
      [B, T, H, K] in the dtype of q.
    """
    length, width = q.shape[1], q.shape[-1]
    if is_key is not None and mask is None:  # one mask for all, which cuDNN needs as [T, L]
        mask = np.ones((length, k.shape[1]), bool)
        mask, causal = np.tril(mask) if causal else mask, False
    if implementation == "cudnn":
        more = [0 if mask is None else -a.shape[1] % CUDNN_LENGTH for a in (q, k, v)]
        q, k, v = (
            jnp.pad(a, [(0, 0), (0, extra), (0, 0), (0, -width % CUDNN_WIDTH)])
            for a, extra in zip((q, k, v), more, strict=True)
        )
        mask = None if mask is None else padded(mask, q.shape[1], k.shape[1])
        if is_key is not None:
            is_key = jnp.pad(is_key, [(0, 0), (0, k.shape[1] - is_key.shape[1])])
    mask = None if mask is None else jnp.asarray(mask)[None, None]
    if is_key is not None:
        mask = mask & is_key[:, None, None]
    how = dict(scale=width**-0.5, is_causal=causal, implementation=implementation)
    out = jax.nn.dot_product_attention(q, k, v, mask=mask, **how)
    return out[:, :length, :, :width]


def biased_attention(q, k, v, bias, groups, heads, mesh):
    """softmax(q k^T + bias, where allowed) v by the kernel.

    Args:
      q, k, v: [B, L, H K]. bias: [1, H, L, L] float32. groups: `Groups`. heads: H.
      mesh: rows are split over its axes data and fsdp.

    Returns:
      [B, L, H K], or None if no kernel can do it: the rows do not divide over the mesh, the heads
      do not fill a TPU's lanes, or a GPU would compute in float32.
    """
    on_gpu = _platform(mesh) == "gpu"
    fits = q.dtype.itemsize == 2 if on_gpu else biased.fits(heads, q.shape[-1] // heads)
    if not _splits(q, mesh) or not fits:
        return None

    def attend(q, k, v, bias, queries, keys):
        if on_gpu:
            split = (array.reshape(*array.shape[:2], heads, -1) for array in (q, k, v))
            inputs = (*split, bias[0], queries, keys, _interpret(mesh))
            return gpu_biased_attention.flash_biased_attention(*inputs).reshape(q.shape)
        return biased.fused_biased_attention(
            q, k, v, bias[0], queries, keys, heads, _interpret(mesh)
        )

    rows, whole = P(ROWS), P()
    specs = (rows, rows, rows, whole, rows, rows)
    return _on_every_device(attend, mesh, specs, rows)(q, k, v, bias, *groups)


def _splits(x, mesh):
    """Whether the rows of x divide over the mesh. The single row of an initialisation may not."""
    return mesh is None or len(x) % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0


def _platform(mesh):
    return "cpu" if mesh is None else mesh.devices.flat[0].platform


def _interpret(mesh):
    return mesh is None or mesh.devices.flat[0].platform == "cpu"


def _on_every_device(function, mesh, in_specs, out_specs):
    """The function, run by each device on its own part: XLA cannot split a kernel by itself."""
    if mesh is None:
        return function
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )


def _fused(qkv, bias, q_scale, k_scale, tables, layout, mesh, causal):
    tensor = 1 if mesh is None else mesh.shape["tensor"]
    local = HeadLayout(layout.heads // tensor, layout.width)
    how = local, _interpret(mesh), causal

    def attend(qkv, bias, q_scale, k_scale, cos, sin):
        out = fused.fused_attention(qkv, bias, q_scale, k_scale, (cos, sin), *how)
        return fused.unpack_output(out, local)

    columns = P(ROWS, None, "tensor")
    specs = (columns, P(None, "tensor"), P(), P(), P(), P())
    return _on_every_device(attend, mesh, specs, columns)(qkv, bias, q_scale, k_scale, *tables)


def _flash(qkv, bias, q_scale, k_scale, angles, mesh, causal):
    """The kernels for GPUs, [B, T, 3, H, K] -> [B, T, H, K]. They name what the backward pass needs
    themselves.
    """

    interpret = _interpret(mesh)

    def attend(qkv, bias, q_scale, k_scale, *tables):
        q, k, v = gpu_heads.make_heads(qkv, bias, q_scale, k_scale, tables, interpret)
        return gpu_attention.flash_attention(q, k, v, causal, interpret)

    tables = gpu_heads.tables(angles)
    specs = P(ROWS, None, None, "tensor"), P(None, "tensor"), P(), P(), P(), P()
    out = P(ROWS, None, "tensor")
    return _on_every_device(attend, mesh, specs, out)(qkv, bias, q_scale, k_scale, *tables)
