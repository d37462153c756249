"""ELF's self-attention behind one function, whatever computes it.

x -> [q | k | v] -> RMSNorm and rotary embedding on q and k -> softmax -> values, of every position
to every position. Three ways: XLA anywhere, cuDNN's flash attention on NVIDIA GPUs, and the fused
kernel of `fused_attention.py` on TPUs.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from elf_jax.networks import fused_attention as fused
from elf_jax.networks.layers import normalize, rotate

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


def self_attention(
    x, kernel, bias, q_scale, k_scale, angles, heads, implementation="xla", mesh=None
):
    """Values that every position of x gathers, before the output projection.

    Args:
      x: [B, T, D].
      kernel, bias: [D, 3 D] and [3 D], columns [q | k | v] with heads inside, in x's dtype.
      q_scale, k_scale: [K] float32, scales of the two norms, K = D / heads.
      angles: [T, K / 2], of the rotary embedding. heads: H.
      implementation: "xla", "cudnn" or "fused". mesh: "fused": rows lie over its axes data and
        fsdp and heads over tensor.

    Returns:
      [B, T, D] in the dtype of x; norms, rotation and softmax are float32.
    """
    head_width = x.shape[-1] // heads
    if implementation == "fused":
        layout = fused.HeadLayout(heads, head_width)
        qkv = checkpoint_name(x @ fused.pack(kernel, layout) + fused.pack(bias, layout), "qkv")
        return _fused(qkv, q_scale, k_scale, fused.tables(angles, layout), layout, mesh)
    qkv = checkpoint_name(x @ kernel + bias, "qkv").reshape(*x.shape[:2], 3, heads, head_width)
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


def _fused(qkv, q_scale, k_scale, tables, layout, mesh):
    """The kernel on every device's own rows and heads: XLA cannot split a kernel by itself."""
    interpret = mesh is None or mesh.devices.flat[0].platform != "tpu"
    tensor = 1 if mesh is None else mesh.shape["tensor"]
    local = fused.HeadLayout(layout.heads // tensor, layout.width)
    call = functools.partial(fused.fused_attention, layout=local, interpret=interpret)

    def attend(qkv, q_scale, k_scale, cos, sin):
        return fused.unpack_output(call(qkv, q_scale, k_scale, (cos, sin)), local)

    if mesh is not None:
        columns = P(("data", "fsdp"), None, "tensor")
        attend = jax.shard_map(
            attend,
            mesh=mesh,
            in_specs=(columns, P(), P(), P(), P()),
            out_specs=columns,
            check_vma=False,
        )
    return attend(qkv, q_scale, k_scale, *tables)
