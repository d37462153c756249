"""One-hot flow matching (FLM, arXiv 2602.16813): the noise and the loss.

    x = (1 - g) noise + g onehot(token) in R^V      noise of std 1, g = gamma(t) of `time_map`
    loss = -log p(token)                            not weighted, at every position

The network sees x E, with E its table of tokens. The product is linear, so it can be formed from
the products of the noise and of the one-hot, and x itself is never needed:

    x E = (1 - g) (noise E) + g E[token]

The reference's learned weights of the loss, and the distillation to few steps, are not built.
B batch, L length, V vocabulary, D network width.
"""

import jax
import jax.numpy as jnp


def between(noise, clean, gamma):
    """(1 - g) noise + g clean, [B, L, N].

    Args:
      noise, clean: [B, L, N] over the vocabulary, or both times the table.
      gamma: [B].
    """
    gamma = gamma[:, None, None]
    return (1 - gamma) * noise + gamma * clean


def cross_entropy(logits, tokens):
    """-log p(token) in nats, [B, L], of logits [B, L, V] and tokens [B, L]."""
    right = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - right
