"""Random times and tokens of the methods on tokens.

Tokens are drawn by the inverse of the distribution function, in two levels: first a block of the
vocabulary, then a token in it. This takes two uniforms for each token. With one Gumbel value for
each token of the vocabulary, as in `argmax(log p + gumbel)`, float32 uniforms would cut off the
tail: they are multiples of 2^-23, so a token with much less probability is drawn too rarely. Text
then has a lower temperature than the model (arXiv 2409.02908).
"""

import jax
import jax.numpy as jnp

from elf_jax.core import rng

BLOCK = 128  # tokens of a block


def stratified(keys, ids, rows):
    """[B] uniforms on [0, 1), row i in the stratum [i / n, (i + 1) / n): low-discrepancy times
    (arXiv 2107.00630, appendix I.1).

    Args:
      keys: [B] JAX keys. ids: [B] integers, places of the rows in the whole batch. rows: n, of
        those that count.
    """
    return antithetic(rng.uniform(keys), ids, rows)


def antithetic(u, ids, rows):
    """(u / n + i / n) mod 1 of uniforms u [B]; i are the `ids` [B], n is `rows`."""
    return (u / rows + ids / rows) % 1


def positions(keys, length):
    """[B, L] keys, one for each position, of [B] keys, one for each row."""
    return jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(length)))(
        keys
    )


def uniforms(keys, shape, name):
    """[B, *shape] uniforms of the stream `name` of [B] keys."""
    return rng.uniform(jax.vmap(lambda key: rng.stream(key, name))(keys), shape)


def categorical(log_p, u):
    """Tokens drawn from a distribution.

    Args:
      log_p: [..., V], logarithms of probabilities; they need no normalisation.
      u: [..., 2], uniforms on [0, 1).

    Returns:
      [...] int32.
    """
    size = log_p.shape[-1]
    weights = jnp.exp(log_p - jnp.max(log_p, axis=-1, keepdims=True))
    if size <= BLOCK:
        return _inverse(weights, u[..., 0])
    padding = [(0, 0)] * (log_p.ndim - 1) + [(0, -size % BLOCK)]
    blocks = jnp.pad(weights, padding).reshape(*log_p.shape[:-1], -1, BLOCK)
    block = _inverse(jnp.sum(blocks, axis=-1), u[..., 0])
    within = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    return block * BLOCK + _inverse(within, u[..., 1])


def _inverse(weights, u):
    """The index where the running sum of weights [..., n] passes u [...] of the whole."""
    sums = jnp.cumsum(weights, axis=-1)
    passed = sums <= (u * sums[..., -1])[..., None]
    # Rounding must not lead to an index behind the last weight that is not zero.
    index = jnp.sum(passed, axis=-1)
    last = weights.shape[-1] - 1 - jnp.argmax(weights[..., ::-1] > 0, axis=-1)
    return jnp.minimum(index, last).astype(jnp.int32)


def nucleus(log_p, top_p):
    """Logarithms of probabilities [..., V] with -inf outside the nucleus (arXiv 1904.09751).

    A token stays if the likelier tokens have together at most `top_p`. The likeliest one always
    stays.
    """
    log_p = jax.nn.log_softmax(log_p)
    order = jnp.argsort(-log_p, axis=-1)
    p = jnp.exp(jnp.take_along_axis(log_p, order, axis=-1))
    before = jnp.cumsum(p, axis=-1) - p
    stays = (before <= top_p).at[..., 0].set(True)
    stays = jnp.take_along_axis(stays, jnp.argsort(order, axis=-1), axis=-1)
    return jnp.where(stays, log_p, -jnp.inf)
