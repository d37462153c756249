"""Attention of both networks, ELF's and T5's, whatever computes it.

ELF: x -> [q | k | v] -> RMSNorm and rotary embedding on q and k -> softmax -> values, of every
position to every position. Three ways: XLA anywhere, cuDNN's flash attention on NVIDIA GPUs, and
the fused kernels of `fused_attention.py` on TPUs. T5: with a bias and a mask, by XLA or a kernel.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from elf_jax.networks import fused_attention as fused
from elf_jax.networks.layers import add_bias, normalize, rotate

IMPLEMENTATIONS = ("auto", "xla", "cudnn", "fused")
CUDNN_WIDTH = 8  # head widths are multiples of this for cuDNN


def choose(name, platform, dtype, heads, head_width, tensor=1):
    """The implementation for "auto", and the given one otherwise.

    Args:
      name: of IMPLEMENTATIONS. platform: "cpu", "gpu" or "tpu". dtype: of the computation.
      heads, head_width: H and K. tensor: devices that the heads are split over.
    """
    if name != "auto":
        return name
    if platform == "tpu":
        blocks = fused.HeadLayout(heads, head_width).blocks
        return "fused" if blocks % tensor == 0 and head_width <= fused.LANES else "xla"
    # cuDNN knows 16-bit types only.
    return "cudnn" if platform == "gpu" and dtype == jnp.bfloat16 else "xla"


class Groups(NamedTuple):
    """Which position may attend to which, without a mask of every pair.

    Attributes:
      queries, keys: [B, L] int32; query q may attend to key k if their bits overlap.
    """

    queries: jax.Array
    keys: jax.Array

    def mask(self):
        """[B, L, L], True where a query may attend to a key."""
        return (self.queries[:, :, None] & self.keys[:, None, :]) != 0


def self_attention(
    x, kernel, bias, q_scale, k_scale, angles, heads, implementation="xla", mesh=None
):
    """Values that every position of x gathers, before the output projection.

    Args:
      x: [B, T, D].
      kernel: [D, 3 D] in x's dtype, columns [q | k | v] with heads inside. bias: [3 D] float32.
      q_scale, k_scale: [K] float32, scales of the two norms, K = D / heads.
      angles: [T, K / 2], of the rotary embedding. heads: H.
      implementation: "xla", "cudnn" or "fused". mesh: "fused": rows lie over its axes data and
        fsdp and heads over tensor.

    Returns:
      [B, T, D] in the dtype of x; norms, rotation and softmax are float32.
    """
    head_width = x.shape[-1] // heads
    if implementation == "fused" and _splits(x, mesh):
        layout = fused.HeadLayout(heads, head_width)
        # Without the barrier XLA moves the packing into the gradient's product, and transposes all
        # activations for it.
        packed = jax.lax.optimization_barrier(fused.pack(kernel, layout))
        qkv, bias = checkpoint_name(x @ packed, "qkv"), fused.pack(bias, layout)[None]
        return _fused(qkv, bias, q_scale, k_scale, fused.tables(angles, layout), layout, mesh)
    implementation = "xla" if implementation == "fused" else implementation
    qkv = checkpoint_name(add_bias(x @ kernel, bias), "qkv").reshape(
        *x.shape[:2], 3, heads, head_width
    )
    q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    q, k = (
        rotate(normalize(part, scale), angles).astype(x.dtype)
        for part, scale in ((q, q_scale), (k, k_scale))
    )
    return softmax_attention(q, k, v, implementation).reshape(x.shape)


def softmax_attention(q, k, v, implementation="xla"):
    """softmax(q k^T / sqrt(K)) v for q, k, v [B, T, H, K]; "xla" or "cudnn" (16-bit types only)."""
    width = q.shape[-1]
    if implementation == "cudnn":
        padding = [(0, 0)] * 3 + [(0, -width % CUDNN_WIDTH)]
        q, k, v = (jnp.pad(array, padding) for array in (q, k, v))
    out = jax.nn.dot_product_attention(q, k, v, scale=width**-0.5, implementation=implementation)
    return out[..., :width]


def biased_attention(q, k, v, bias, groups, heads, mesh):
    """softmax(q k^T + bias, where allowed) v by the kernel, or None where it does not fit.

    Args:
      q, k, v: [B, L, H K]. bias: [1, H, L, L] float32. groups: `Groups`. heads: H.
      mesh: its axes data and fsdp split the rows.
    """
    if not _splits(q, mesh) or not fused.fits_biased(heads, q.shape[-1] // heads):
        return None

    def attend(q, k, v, bias, queries, keys):
        return fused.fused_biased_attention(
            q, k, v, bias[0], queries, keys, heads, _interpret(mesh)
        )

    rows, whole = P(ROWS), P()
    specs = (rows, rows, rows, whole, rows, rows)
    return _on_every_device(attend, mesh, specs, rows)(q, k, v, bias, *groups)


ROWS = ("data", "fsdp")  # axes of the mesh that rows are split over


def _splits(x, mesh):
    """Whether the rows of x split evenly over the mesh; those of an initialisation do not."""
    return mesh is None or len(x) % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0


def _interpret(mesh):
    return mesh is None or mesh.devices.flat[0].platform != "tpu"


def _on_every_device(function, mesh, in_specs, out_specs):
    """The function on every device's own part: XLA cannot split a kernel by itself."""
    if mesh is None:
        return function
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )


def _fused(qkv, bias, q_scale, k_scale, tables, layout, mesh):
    tensor = 1 if mesh is None else mesh.shape["tensor"]
    local = fused.HeadLayout(layout.heads // tensor, layout.width)
    call = functools.partial(fused.fused_attention, layout=local, interpret=_interpret(mesh))

    def attend(qkv, bias, q_scale, k_scale, cos, sin):
        return fused.unpack_output(call(qkv, bias, q_scale, k_scale, (cos, sin)), local)

    columns = P(ROWS, None, "tensor")
    specs = (columns, P(None, "tensor"), P(), P(), P(), P())
    return _on_every_device(attend, mesh, specs, columns)(qkv, bias, q_scale, k_scale, *tables)
