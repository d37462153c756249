"""Beam search, with the exact conditionals of toy distributions in place of the network."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core.types import Batch
from elf_jax.methods.ar import beam, sampler
from tests.methods.ar import exact
from tests.methods.toy import Toy

V, L, EOS = 3, 4, 2


@partial(jax.jit, static_argnames=("beams", "eos_id"))
def search(tables, given, penalty, beams, eos_id=EOS):
    count = 1 if given is None else len(given.tokens)
    decoder = exact.decoder(tables)
    return beam.search(decoder, given, count, L, V, beams, penalty, eos_id)


@jax.jit
def greedy(tables, given):
    count = 1 if given is None else len(given.tokens)

    def choose(logits, position):
        return jnp.argmax(logits, axis=-1)

    return sampler.sample(exact.decoder(tables), given, count, L, V, choose, EOS)


def prefixes(rows, length):
    tokens = jnp.asarray(rows, jnp.int32)
    is_cond = jnp.broadcast_to(jnp.arange(L) < jnp.asarray(length)[..., None], tokens.shape)
    return Batch(tokens, is_cond, jnp.ones_like(is_cond))


def best_by_hand(tables, penalty, prefix=(), eos_id=EOS):
    """(the best hypothesis of all, its score)."""
    best, score = None, -np.inf

    def visit(tokens, total):
        nonlocal best, score
        size = len(tokens) - len(prefix)
        if len(tokens) == L or (size and tokens[-1] == eos_id):
            if total / size**penalty > score:
                best, score = tokens + [eos_id] * (L - len(tokens)), total / size**penalty
            return
        code = int(np.dot(tokens, V ** np.arange(len(tokens))[::-1])) if tokens else 0
        for token, value in enumerate(np.asarray(tables[len(tokens)][code], np.float64)):
            visit([*tokens, token], total + value)

    visit(list(prefix), 0.0)
    return best, score


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0])
def test_a_wide_search_finds_the_best_of_all_hypotheses(penalty):
    found = []
    for seed in range(12):
        tables = exact.conditionals(Toy(V, L, seed))
        tokens = search(tables, None, penalty, V**L)[0]
        best, _ = best_by_hand(tables, penalty)
        np.testing.assert_array_equal(tokens, best, err_msg=f"seed {seed}")
        found.append(best)
        prefix = (2, 1)
        tokens = search(tables, prefixes([[*prefix, 0, 0]], 2), penalty, V**L)[0]
        np.testing.assert_array_equal(tokens, best_by_hand(tables, penalty, prefix)[0])
    # Hypotheses of different lengths win, so the length counts.
    assert len({row.count(EOS) for row in found}) > 1 or penalty == 1.0


def test_the_length_penalty_counts():
    """Short texts are likelier in sum, long ones for each token."""
    results = {}
    for penalty in (0.0, 1.0):
        rows = [
            search(exact.conditionals(Toy(V, L, seed)), None, penalty, V**L)[0]
            for seed in range(12)
        ]
        results[penalty] = np.mean([np.sum(np.asarray(row) != EOS) for row in rows])
    assert results[1.0] > results[0.0] + 0.5


def trap():
    """Tables where the likeliest first token leads to unlikely texts: p(0) = 0.6, then uniform;
    p(1) = 0.4, then 1 and 1 and EOS for certain.
    """
    low = np.log(1e-9)
    uniform = np.log(np.full(V, 1 / V))
    tables = [np.array([[np.log(0.6), np.log(0.4), low]])]
    for index in range(1, L):
        table = np.tile(uniform, (V**index, 1))
        table[V ** (index - 1) : 2 * V ** (index - 1)] = (
            (low, 0, low) if index < 3 else (low, low, 0)
        )
        tables.append(table)
    return [jnp.asarray(table, jnp.float32) for table in tables]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_it_finds_the_likeliest_text_where_greedy_fails(penalty):
    tables = trap()
    assert greedy(tables, None)[0, 0] == 0
    for beams in (2, 4):
        np.testing.assert_array_equal(search(tables, None, penalty, beams)[0], [1, 1, 1, EOS])
    np.testing.assert_array_equal(search(tables, None, penalty, 1), greedy(tables, None))


def test_a_finished_hypothesis_is_kept():
    """The text [EOS] has probability 0.3. All others are likelier at first, and none at the end."""
    tables = [jnp.log(jnp.array([[0.36, 0.34, 0.3]]))]
    tables += [jnp.log(jnp.tile(jnp.array([0.4, 0.35, 0.25]), (V**i, 1))) for i in range(1, L)]
    np.testing.assert_array_equal(search(tables, None, 0.0, 3)[0], [EOS] * L)
    # With two beams it is never among the best.
    assert search(tables, None, 0.0, 2)[0, 0] != EOS


@pytest.mark.parametrize("seed", range(4))
def test_a_search_of_width_one_is_greedy(seed):
    tables = exact.conditionals(Toy(V, L, seed))
    rows = np.array(np.meshgrid(*[range(V)] * 2)).reshape(2, -1).T
    given = prefixes(np.pad(rows, ((0, 0), (0, 2))), np.arange(len(rows)) % 3)
    for penalty in (0.0, 1.0):
        np.testing.assert_array_equal(search(tables, given, penalty, 1), greedy(tables, given))


def test_given_tokens_stay_and_do_not_depend_on_the_rows_beside_them():
    tables = exact.conditionals(Toy(V, L, 5))
    rows = [[2, 1, 0, 0], [0, 0, 2, 1], [1, 2, 1, 0], [1, 1, 1, 1]]
    lengths = np.array([2, 0, 3, 4])
    given = prefixes(rows, lengths)
    both = search(tables, given, 1.0, 2)
    is_cond = np.asarray(given.is_cond)
    np.testing.assert_array_equal(np.asarray(both)[is_cond], np.asarray(rows)[is_cond])
    for index in range(len(rows)):
        one = jax.tree.map(lambda array: array[index : index + 1], given)  # noqa: B023
        np.testing.assert_array_equal(search(tables, one, 1.0, 2)[0], both[index])
    np.testing.assert_array_equal(search(tables, None, 1.0, 2)[0], both[1])


def test_without_an_end_the_likeliest_row_is_found():
    toy = Toy(V, L, 1)
    tokens = search(exact.conditionals(toy), None, 1.0, V**L, eos_id=None)
    np.testing.assert_array_equal(tokens[0], toy.rows[np.argmax(toy.p)])
