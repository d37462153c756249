"""Diffusion of learned embeddings, trained by cross-entropy (CDCD, arXiv 2211.15089).

    e     = sqrt(d) raw / |raw|           embedding of a token
    x     = e + t n                       n standard normal; t is the standard deviation
    input = x / sqrt(t^2 + 1)             and the estimate of e by an earlier pass, or zero
    loss  = -log p(token | x), the mean over all positions, without weights

Where a token is given, x is e and so is the estimate. In a share of the rows, the estimate is that
of a first pass without gradient (self-conditioning, arXiv 2208.04202).

With unit embeddings and noise t n / 16 the published numbers of d = 256 are the same. A program
that keeps the 16 for another d has times that are 16 / sqrt(d) times these.

B batch, L length, d embedding width, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np


def embeddings(table):
    """[V, d] of norm sqrt(d), from parameters [V, d]."""
    norm = jnp.linalg.norm(table, axis=-1, keepdims=True)
    return table / norm * np.sqrt(table.shape[-1])


def noisy(clean, noise, t):
    """x at times t [B], of embeddings and standard normal noise [B, L, d]."""
    return clean + t[:, None, None] * noise


def scaled(x, t, is_given=None):
    """x [B, L, d] over its standard deviation at times t [B], per position: 1 where the token is
    given.
    """
    std = jnp.sqrt(t * t + 1)[:, None, None]
    return x / (std if is_given is None else jnp.where(is_given[..., None], 1.0, std))


def mean_embedding(logits, table):
    """E[e] [..., d] by the probabilities of logits [..., V] and embeddings [V, d]."""
    return jax.nn.softmax(logits) @ table


def cross_entropy(logits, tokens):
    """-log p [B, L] of tokens [B, L] by logits [B, L, V], in nats."""
    right = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - right


def quantiles(start, ids, rows):
    """u [B] on [0, 1): (start + i / n) mod 1, evenly spaced over the whole batch.

    Args:
      start: uniform on [0, 1), the same for all rows. ids: [B] integers i, places of the rows in
        the whole batch. rows: n.

    Each u alone is uniform, so a row that is chosen by its place has any time.
    """
    return (start + ids / rows) % 1


def chosen_places(rows, fraction):
    """Which places of a batch have self-conditioning: [rows] bool of NumPy, evenly spread; None if
    the share of so many rows is no whole number.
    """
    if abs(rows * fraction - round(rows * fraction)) > 1e-6:
        return None
    steps = np.floor(np.arange(rows + 1) * fraction + 1e-6)
    return np.diff(steps) > 0


def take(array, parts, places):
    """The rows at these places of each of so many equal parts of an array [B, ...]. No row moves to
    another device, if a part is what one device has.
    """
    chosen = array.reshape(parts, -1, *array.shape[1:])[:, places]
    return chosen.reshape(-1, *array.shape[1:])


def spread(chosen, parts, places, like):
    """The inverse of `take`: an array shaped like `like` [B, ...], zero in the other rows."""
    rest = like.shape[1:]
    rows = jnp.zeros((parts, len(like) // parts, *rest), chosen.dtype)
    return rows.at[:, places].set(chosen.reshape(parts, -1, *rest)).reshape(like.shape)
