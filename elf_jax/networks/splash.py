"""Attention on TPUs with a mask that is known before the program runs, by JAX's splash attention.

Splash attention is FlashAttention (arXiv 2205.14135) that leaves out blocks of pairs where nothing
is allowed. Noisy blocks beside their clean text need it: most of their mask is empty.

B batch, T queries, L keys, H heads of width K.
"""

import jax
import jax.numpy as jnp

from elf_jax.networks.block_mask import padded
from elf_jax.networks.kernel_parts import LANES

LARGEST = 512  # queries or keys of one block


def masked_attention(q, k, v, mask, interpret=False, kept_as=None, is_key=None):
    """softmax(q k^T / sqrt(K), where allowed) v.

    Args:
      q: [B, T, H, K]. k, v: [B, L, H, K].
      mask: [T, L] numpy bool, True where a query may attend to a key. Every query has a key.
      interpret: run without a TPU, for tests.
      kept_as: the name of what the backward pass needs, for rematerialisation.
      is_key: [B, L] bool, which keys may be attended to at all; None: all. The first one always
        may.

    Returns:
      [B, T, H, K] in the dtype of q. Sums and softmax are float32.
    """
    # Here, because no other device needs it and it takes a moment to import.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel,
        splash_attention_mask,
    )

    (queries, rows), (keys, columns) = map(_blocks, mask.shape)
    one = splash_attention_mask.NumpyMask(padded(mask, queries, keys))
    attend = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([one] * q.shape[2]),
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=rows,
            block_kv=columns,
            block_kv_compute=columns,
            block_q_dkv=rows,
            block_kv_dkv=columns,
            block_kv_dkv_compute=columns,
            block_q_dq=rows,
            block_kv_dq=columns,
        ),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=kept_as,
        interpret=interpret,
    )
    q = (q * q.shape[-1] ** -0.5).astype(q.dtype)
    q, k, v = (_heads_first(a, size) for a, size in ((q, queries), (k, keys), (v, keys)))
    segments = None
    if is_key is not None:  # a query attends to the keys of its own segment
        of_keys = jnp.pad(~is_key, [(0, 0), (0, keys - is_key.shape[1])]).astype(jnp.int32)
        of_queries = jnp.zeros((len(q), queries), jnp.int32)
        segments = splash_attention_kernel.SegmentIds(of_queries, of_keys)
    out = jnp.swapaxes(jax.vmap(attend)(q, k, v, segments), 1, 2)
    return out[:, : mask.shape[0]]


def _blocks(length):
    """(a length padded to whole blocks, the length of a block)."""
    count = -(-length // LARGEST)
    size = -(-length // (count * LANES)) * LANES
    return count * size, size


def _heads_first(array, length):
    """[B, T, H, K] to [B, H, length, K], with zeros at the end."""
    padding = [(0, 0), (0, length - array.shape[1]), (0, 0), (0, 0)]
    return jnp.swapaxes(jnp.pad(array, padding), 1, 2)
