"""A toy distribution over rows of tokens, with exact posteriors in place of a network.

Its tokens depend on each other, so a sampler that treats positions as independent is found out.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats


class Toy:
    """All rows of L tokens out of V, with random probabilities.

    Attributes:
      rows: [V ** L, L] integers. p: [V ** L], probabilities. entropy: in nats, of a row.
    """

    def __init__(self, vocab_size=3, length=3, seed=0):
        self.vocab_size, self.length = vocab_size, length
        self.rows = np.array(list(itertools.product(range(vocab_size), repeat=length)), np.int32)
        weights = np.random.default_rng(seed).exponential(size=len(self.rows)) ** 2 + 0.02
        self.p = weights / weights.sum()
        self.entropy = -np.sum(self.p * np.log(self.p))

    def draw(self, count, seed=0):
        """[count, L] rows from the distribution."""
        index = np.random.default_rng(seed).choice(len(self.rows), size=count, p=self.p)
        return jnp.asarray(self.rows[index])

    def posterior(self, likelihood):
        """log p(token at each position | what was seen), [B, L, V].

        Args:
          likelihood: [B, V ** L], log-likelihood of what was seen for every row, or -inf.
        """
        weights = jax.nn.softmax(likelihood + jnp.log(jnp.asarray(self.p)), axis=-1)
        onehot = jax.nn.one_hot(self.rows, self.vocab_size)
        return jnp.log(jnp.maximum(jnp.einsum("br,rlv->blv", weights, onehot), 1e-30))

    def p_value(self, samples):
        """Of a chi-square test that samples [N, L] follow the distribution."""
        samples = np.asarray(samples)
        index = samples @ self.vocab_size ** np.arange(self.length)[::-1]
        counts = np.bincount(index, minlength=len(self.p))
        return stats.chisquare(counts, self.p * len(samples)).pvalue
