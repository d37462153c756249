"""Times and tokens that the methods on tokens draw."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from elf_jax.core import rng
from elf_jax.methods.tokens import draws


def test_one_time_lies_in_each_stratum():
    keys = jax.random.split(jax.random.key(0), 16)
    u = draws.stratified(keys, jnp.arange(16), 16)
    assert (np.floor(u * 16) == np.arange(16)).all()


def test_times_do_not_depend_on_the_part_of_the_batch():
    keys, ids = rng.per_example(jax.random.key(0), jnp.arange(8)), jnp.arange(8)
    whole = draws.stratified(keys, ids, 8)
    np.testing.assert_array_equal(draws.stratified(keys[4:], ids[4:], 8), whole[4:])


def test_tokens_follow_the_distribution():
    p = np.random.default_rng(0).dirichlet(np.full(300, 0.3))
    u = jax.random.uniform(jax.random.key(0), (200_000, 2))
    tokens = draws.categorical(jnp.log(jnp.asarray(p, jnp.float32))[None], u)
    counts = np.bincount(tokens, minlength=300)
    often = p * len(u) >= 5
    seen = np.append(counts[often], counts[~often].sum())
    expected = np.append(p[often], p[~often].sum()) * len(u)
    assert stats.chisquare(seen, expected).pvalue > 0.01
    assert stats.chisquare(seen, np.roll(expected, 1)).pvalue < 1e-6


def test_tokens_without_probability_are_never_drawn():
    log_p = jnp.full(400, -jnp.inf).at[jnp.array([3, 200, 390])].set(0.0)
    u = jnp.stack(jnp.meshgrid(jnp.linspace(0, 1, 65), jnp.linspace(0, 1, 65)), -1).reshape(-1, 2)
    u = jnp.minimum(u, 1 - 2**-24)  # the largest uniform
    assert set(np.asarray(draws.categorical(log_p[None], u)).tolist()) == {3, 200, 390}


def one_stage_gumbel(groups, count):
    """How often each group of tokens is drawn by argmax(log q + Gumbel) with float32 uniforms.

    Args:
      groups: [(number of tokens, probability of each)]. Of a group, the token with the largest
        uniform is the only one that can win.
    """
    random, wins = np.random.default_rng(0), np.zeros(len(groups), int)
    for _ in range(0, count, 2000):
        best = [random.random((2000, size), np.float32).max(axis=1) for size, _ in groups]
        best = [np.floor(u * 2**23) / 2**23 for u in best]  # JAX's uniforms have 23 bits
        scores = [np.log(q) - np.log(-np.log(u)) for u, (_, q) in zip(best, groups, strict=True)]
        wins += np.bincount(np.argmax(scores, axis=0), minlength=len(groups))
    return wins


def test_rare_tokens_are_drawn_as_often_as_they_should():
    """A step of masked diffusion: a mask stays with probability 1 - h, or becomes one of 8 common
    or 1,024 rare tokens. Both kinds have the same probability.

    In one stage a rare token needs a Gumbel value that is larger than float32 uniforms can give, so
    the text has too few rare tokens: its temperature is too low. In two stages, first whether to
    unmask and then which token, it is right.
    """
    h, common, rare, count = 1e-4, 8, 1024, 400_000
    groups = [(1, 1 - h), (common, h / 2 / common), (rare, h / 2 / rare)]
    expected = h / 2 * count  # 20
    _, _, found = one_stage_gumbel(groups, count)
    assert found < expected - 2.5 * expected**0.5

    p = np.concatenate([np.full(common, 0.5 / common), np.full(rare, 0.5 / rare)])
    moves = jnp.sum(jax.random.uniform(jax.random.key(1), (10 * count,)) < h)
    u = jax.random.uniform(jax.random.key(2), (int(moves), 2))
    two = draws.categorical(jnp.log(jnp.asarray(p, jnp.float32))[None], u)
    expected = 10 * expected  # 200
    for found in (jnp.sum(two < common), jnp.sum(two >= common)):
        assert abs(found - expected) < 3 * expected**0.5


def test_the_nucleus():
    p = jnp.array([0.1, 0.5, 0.15, 0.25])
    kept = {0.0: [1], 0.4: [1], 0.5: [1, 3], 0.76: [1, 2, 3], 1.0: [0, 1, 2, 3]}
    for top_p, tokens in kept.items():
        log_p = draws.nucleus(jnp.log(p), top_p)
        assert np.flatnonzero(np.isfinite(log_p)).tolist() == tokens
