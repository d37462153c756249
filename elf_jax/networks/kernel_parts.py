"""What the TPU kernels of attention share: heads in blocks of 128 lanes, products, the softmax.

A TPU works on 128 lanes at a time. Heads of width K <= 64 share one block of 128 lanes. A kernel
picks one head of a block by setting the lanes of the other heads to zero. A product takes the
matrix unit the same time for one head as for a whole block, so the zeros cost nothing.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

LANES = 128
QUERY_ROWS = 256  # queries of one step: [256, T] float32 scores are 1 MiB at T = 1024
NEVER = -1e30  # the score of a forbidden pair; finite, so that no softmax is NaN
VMEM_LIMIT = 64 * 2**20  # bytes of on-chip memory that a kernel may use; v4 and later have 128 MiB


@dataclasses.dataclass(frozen=True)
class HeadLayout:
    """How heads lie in blocks of 128 lanes.

    Attributes:
      heads: H. width: K, channels of a head.
    """

    heads: int
    width: int

    @property
    def padded(self):
        """Lanes of one head: its width where heads fill a block evenly, else a whole block."""
        return self.width if LANES % self.width == 0 and self._fits else LANES

    @property
    def _fits(self):
        return self.heads % (LANES // self.width) == 0

    @property
    def per_block(self):
        """How many heads share a block."""
        return LANES // self.padded

    @property
    def blocks(self):
        """How many blocks all heads need."""
        return self.heads // self.per_block


class HeadBlock:
    """Inside a kernel: the heads of one block."""

    def __init__(self, layout):
        self.layout = layout
        self.lane = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
        self.masks = [self.lane // layout.padded == head for head in range(layout.per_block)]

    def only(self, x, head):
        """x [..., 128] with zeros in the lanes of the other heads."""
        return x if self.layout.per_block == 1 else jnp.where(self.masks[head], x, 0)


def pad_lanes(array, layout):
    """[..., K] to [..., layout.padded], with zeros."""
    padding = [(0, 0)] * (array.ndim - 1) + [(0, layout.padded - layout.width)]
    return jnp.pad(array, padding)


def dot(a, b, contract):
    """Matrix product over axis contract[0] of a and contract[1] of b, accumulated in float32."""
    return jax.lax.dot_general(
        a, b, (((contract[0],), (contract[1],)), ((), ())), preferred_element_type=jnp.float32
    )


def softmax(scores):
    """(exp(scores - max), 1 / its sum) over the last axis; the softmax is their product."""
    p = jnp.exp(scores - jnp.max(scores, -1, keepdims=True))
    return p, 1.0 / jnp.sum(p, -1, keepdims=True)


def row_major(x, mesh):
    """x; in a TPU's memory with its last axis innermost, as the kernels read it.

    XLA may choose another order for an array that only its own operations use. Then it copies what
    it computes from it for each kernel.
    """
    if mesh is None or mesh.devices.flat[0].platform != "tpu":
        return x
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))
