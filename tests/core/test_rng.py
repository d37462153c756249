"""Cards: random choices between rows that are the same on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from elf_jax.core import rng


def cards_of(key, batch, part):
    """[batch], the cards of all rows. Each part draws alone, as a micro-batch on a device does."""
    ids = jnp.arange(batch)
    keys = rng.per_example(key, ids)
    deck = rng.deck(batch, part)
    parts = range(0, batch, part)
    drawn = [
        rng.cards(key, keys[start : start + part], ids[start : start + part], *deck)
        for start in parts
    ]
    return np.concatenate(drawn)


@pytest.mark.parametrize("batch, groups", [(512, 8), (16, 8), (8, 8), (20, 4), (6, 2), (125, 1)])
def test_parts_draw_the_same_cards(batch, groups):
    whole = cards_of(jax.random.key(0), batch, batch)
    np.testing.assert_array_equal(np.sort(whole), np.arange(batch))
    for parts in (1, 2, 4, 8):
        if batch % parts == 0 and parts <= groups:
            assert rng.deck(batch, batch // parts) == (batch, groups)
            drawn = cards_of(jax.random.key(0), batch, batch // parts)
            np.testing.assert_array_equal(drawn, whole)


@pytest.mark.parametrize("batch, parts", [(512, 16), (96, 3), (96, 6), (12, 12), (20, 5)])
def test_parts_that_are_not_whole_groups_have_a_deck_each(batch, parts):
    part = batch // parts
    assert rng.deck(batch, part) == (part, 1)
    drawn = cards_of(jax.random.key(0), batch, part).reshape(parts, part)
    np.testing.assert_array_equal(np.sort(drawn), np.tile(np.arange(part), (parts, 1)))


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_cards_in_sequence_are_shared_out_evenly(parts):
    drawn = cards_of(jax.random.key(3), 48, 48).reshape(parts, -1)
    for start in range(48):
        for stop in range(start, 49):
            count = np.sum((drawn >= start) & (drawn < stop), axis=1)
            low = (stop - start) // parts
            assert np.all((count == low) | (count == -(-(stop - start) // parts)))


@pytest.mark.parametrize("batch", [8, 40])
def test_every_card_is_equally_likely(batch):
    keys = jax.random.split(jax.random.key(1), 4000)
    ids, deck = jnp.arange(batch), rng.deck(batch, batch)
    draw = jax.vmap(lambda key: rng.cards(key, rng.per_example(key, ids), ids, *deck))
    drawn = np.asarray(draw(keys))
    for row in (0, 1, batch - 1):
        assert stats.chisquare(np.bincount(drawn[:, row], minlength=batch)).pvalue > 1e-3
