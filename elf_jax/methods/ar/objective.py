"""Autoregression: inputs and loss (arXiv 1706.03762, section 3.1).

    log p(x) = sum over i of log p(x_i | x_0 ... x_{i-1})

Position i of a causal network gets the token before it, x_{i-1}, and predicts x_i. Position 0 gets
a start token, so that the likelihood of all positions is exact.

B batch, L length, V vocabulary.
"""

import jax
import jax.numpy as jnp


def shifted(array, first):
    """[first, x_0 ... x_{L-2}]: each position of an array [B, L] gets the value before it."""
    start = jnp.full_like(array[:, :1], first)
    return jnp.concatenate([start, array[:, :-1]], axis=1)


def cross_entropy(logits, x):
    """-log p(x), [B, L] float32 in nats, of logits [B, L, V] and tokens x [B, L]."""
    right = jnp.take_along_axis(logits, x[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - right


def losses(predict, x, start_id):
    """-log p(x_i | x_0 ... x_{i-1}), [B, L] float32 in nats.

    Args:
      predict: function (inputs, t) -> read, see `tokens.predictor`.
      x: [B, L] integers. start_id: id of the start token.
    """
    return predict(shifted(x, start_id), None)(cross_entropy, x)
