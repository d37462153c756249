"""Sampling, with the exact conditionals of a toy distribution in place of the network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from elf_jax.core import rng, sharding
from elf_jax.core.types import Batch
from elf_jax.methods.ar.method import AR
from tests.methods.ar import exact
from tests.methods.toy import Toy
from tests.tiny import tiny_config

TOY = Toy(vocab_size=3, length=4)
TABLES = exact.conditionals(TOY)
COUNT = 20_000


def given_rows(tokens, is_cond):
    return Batch(jnp.asarray(tokens, jnp.int32), jnp.asarray(is_cond), jnp.ones_like(is_cond))


def draw(ids=None, given=None, eos_id=None, seed=0, **values):
    """Tokens of the method's sampler. `values` are settings."""
    config = tiny_config(method="ar", **{"sample.sampler": "sample"})
    config.sample.update(values)
    method = AR.create(config, TOY.vocab_size, sharding.make_mesh(config.mesh))
    method = dataclasses.replace(method, eos_id=eos_id)
    scales = {name: jnp.float32(config.sample[name]) for name in method.traced}
    ids = jnp.arange(COUNT) if ids is None else jnp.asarray(ids)

    @jax.jit
    def run(ids, given, scales):
        keys = rng.per_example(jax.random.key(seed), ids)
        decoder = exact.decoder(TABLES)
        return method.sample(decoder, given, keys, config.sample, scales, TOY.length)

    return np.asarray(run(ids, given, scales))


def test_samples_follow_the_distribution():
    assert TOY.p_value(draw()) > 0.001
    assert TOY.p_value(draw(temperature=0.8)) < 1e-6


def test_the_temperature_is_that_of_each_token():
    """Logits are divided by it, position by position."""
    wrong = [2 * table - jax.nn.logsumexp(2 * table, axis=-1, keepdims=True) for table in TABLES]
    log_p = exact.logits(wrong, jnp.asarray(TOY.rows))
    right = jnp.take_along_axis(log_p, jnp.asarray(TOY.rows)[..., None], axis=-1)[..., 0]
    cold = Toy(TOY.vocab_size, TOY.length)
    cold.p = np.exp(np.sum(np.asarray(right, np.float64), axis=1))
    np.testing.assert_allclose(cold.p.sum(), 1, rtol=1e-5)
    cold.p /= cold.p.sum()
    samples = draw(temperature=0.5)
    assert cold.p_value(samples) > 0.001 and TOY.p_value(samples) < 1e-6


def test_a_temperature_of_zero_is_greedy():
    cold, greedy = draw(np.arange(8), temperature=0.0), draw(np.arange(8), sampler="greedy")
    np.testing.assert_array_equal(cold, greedy)
    by_hand = np.zeros((1, TOY.length), np.int32)
    for index in range(TOY.length):
        by_hand[:, index] = np.argmax(exact.logits(TABLES, jnp.asarray(by_hand))[0, index])
    np.testing.assert_array_equal(greedy, np.repeat(by_hand, 8, axis=0))


@pytest.mark.parametrize("top_p", [0.5, 0.9])
def test_tokens_are_drawn_from_the_nucleus(top_p):
    samples = draw(top_p=top_p)
    p = np.exp(exact.logits(TABLES, jnp.asarray(samples)))
    mine = np.take_along_axis(p, samples[..., None], axis=-1)
    before = np.sum(np.where(p > mine, p, 0), axis=-1)
    assert np.all(before <= top_p + 1e-6)
    # All tokens in the nucleus are drawn, in their proportions.
    first = np.exp(TABLES[0][0])
    order = np.argsort(-first)
    inside = order[np.cumsum(first[order]) - first[order] <= top_p]
    shares = np.bincount(samples[:, 0], minlength=TOY.vocab_size) / COUNT
    np.testing.assert_allclose(shares[inside], first[inside] / first[inside].sum(), atol=0.015)


def test_a_sample_depends_on_its_id_alone():
    samples = draw(np.arange(64))
    np.testing.assert_array_equal(draw([40, 3, 17]), samples[[40, 3, 17]])
    assert len(np.unique(samples, axis=0)) > 10
    assert np.any(draw(np.arange(64), seed=1) != samples)


def test_given_prefixes_stay_and_the_rest_follows_from_them():
    """Rows have prefixes of different lengths, and what is not given is not seen."""
    rows = np.tile([2, 1, 0, 2], (COUNT, 1))
    lengths = np.arange(COUNT) % 3 + 1
    is_cond = np.arange(TOY.length) < lengths[:, None]
    samples = draw(given=given_rows(rows, is_cond))
    np.testing.assert_array_equal(samples[is_cond], rows[is_cond])
    other = draw(given=given_rows(np.where(is_cond, rows, 1), is_cond))
    np.testing.assert_array_equal(samples, other)
    for length in (1, 2, 3):
        toy = Toy(TOY.vocab_size, TOY.length)
        toy.p = toy.p * np.all(toy.rows[:, :length] == rows[0, :length], axis=1)
        toy.p /= toy.p.sum()
        possible = toy.p > 0
        mine = samples[lengths == length] @ 3 ** np.arange(TOY.length)[::-1]
        counts = np.bincount(mine, minlength=len(toy.p))
        assert counts[~possible].sum() == 0
        expected = toy.p[possible] * counts.sum()
        assert stats.chisquare(counts[possible], expected).pvalue > 0.001


def test_a_row_does_not_depend_on_the_prefixes_beside_it():
    rows = np.tile([2, 1, 0, 2], (6, 1))
    is_cond = np.arange(TOY.length) < np.array([0, 1, 2, 3, 4, 2])[:, None]
    both = draw(np.arange(6), given_rows(rows, is_cond))
    for index in range(6):
        one = slice(index, index + 1)
        alone = draw([index], given_rows(rows[one], is_cond[one]))
        np.testing.assert_array_equal(alone[0], both[index])
    free = draw(np.arange(6))
    np.testing.assert_array_equal(free[0], both[0])


def test_a_given_token_after_a_free_one_stays():
    rows = np.tile([2, 1, 0, 2], (64, 1))
    is_cond = np.tile([True, False, True, False], (64, 1))
    samples = draw(np.arange(64), given_rows(rows, is_cond))
    np.testing.assert_array_equal(samples[is_cond], rows[is_cond])
    assert len(np.unique(samples[:, 1])) == len(np.unique(samples[:, 3])) == 3


def test_after_its_end_a_row_has_only_the_end():
    plain, samples = draw(np.arange(256)), draw(np.arange(256), eos_id=1)
    for before, after in zip(plain, samples, strict=True):
        end = np.flatnonzero(after == 1)
        end = end[0] if len(end) else TOY.length
        assert np.all(after[end:] == 1)
        np.testing.assert_array_equal(before[:end], after[:end])
    # An end that is given, as that of a source, ends nothing.
    rows, is_cond = np.full((256, TOY.length), 1), np.arange(TOY.length)[None] < 2
    samples = draw(np.arange(256), given_rows(rows, np.tile(is_cond, (256, 1))), eos_id=1)
    assert len(np.unique(samples, axis=0)) > 4
