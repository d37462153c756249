"""Bidirectional attention behind one function, whatever computes it."""

import jax

IMPLEMENTATIONS = ("xla", "cudnn")


def attend(q, k, v, implementation="xla"):
    """Softmax attention of every position to every position.

    Args:
      q, k, v: [B, T, H, K], queries, keys, values of H heads; q is scaled by K^-1/2 here.
      implementation: "xla" anywhere, "cudnn" on NVIDIA GPUs (bfloat16 or float16 only).

    Returns:
      [B, T, H, K] in the dtype of `v`; the softmax is float32.

    Raises:
      ValueError: for an unknown implementation.
    """
    if implementation not in IMPLEMENTATIONS:
        known = ", ".join(IMPLEMENTATIONS)
        raise ValueError(f"unknown attention {implementation!r}; known are {known}")
    return jax.nn.dot_product_attention(q, k, v, implementation=implementation)
