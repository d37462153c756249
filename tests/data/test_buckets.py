"""Buckets of rows of like length: which rows they have, where they are cut, and batches of them."""

import itertools

import numpy as np
import pytest

from elf_jax.data.buckets import PARTS, ROUND, make_buckets
from elf_jax.data.packing import Rows
from elf_jax.data.pipeline import first_batch, make_iterator

SOURCE, TARGET, PAD = 40, 48, 0


def pairs(count=400, source_width=SOURCE, seed=0):
    """`Rows` whose tokens are 1, 2, ... in the source and -1, -2, ... in the target."""
    draw = np.random.default_rng(seed)
    source = np.minimum(draw.geometric(0.08, count), SOURCE)
    target = np.minimum(np.maximum(source + draw.integers(-3, 9, count), 1), TARGET)
    place = np.arange(SOURCE + TARGET)
    is_cond, is_valid = place < source[:, None], place < (source + target)[:, None]
    tokens = np.where(is_cond, place + 1, np.where(is_valid, source[:, None] - place - 1, PAD))
    lengths = source.astype(np.int32), (source + target).astype(np.int32)
    return Rows(tokens.astype(np.int32), *lengths, source_width, PAD)


def texts(fields):
    """[(tokens of the source, tokens of the target)] of rows."""
    found = []
    for tokens, is_cond, is_valid in zip(*fields.values(), strict=True):
        parts = tokens[is_cond & is_valid], tokens[~is_cond & is_valid]
        found.append(tuple(tuple(part.tolist()) for part in parts))
    return found


@pytest.mark.parametrize("source_width", [SOURCE, 0])
@pytest.mark.parametrize("most", [1, 3, PARTS])
def test_every_row_is_in_one_bucket_and_loses_only_padding(most, source_width):
    rows = pairs(source_width=source_width)
    buckets = make_buckets(rows, 64, most)
    assert 1 <= len(buckets.each) <= most
    assert sum(bucket.rows for bucket in buckets.each) == 64
    index = np.concatenate([bucket.index for bucket in buckets.each])
    assert sorted(index.tolist()) == list(range(len(rows)))
    for bucket in buckets.each:
        # A row is as likely as any other.
        assert bucket.rows / 64 == pytest.approx(len(bucket.index) / len(rows), abs=0.5 / PARTS / 9)
        whole = rows.take(bucket.index)
        assert texts(bucket.cut(whole)) == texts(whole)
    assert make_buckets(rows, 64, 1).computed <= 1
    assert most == 1 or buckets.computed < 0.8


def test_a_source_keeps_a_position_of_its_padding():
    """There a network begins the target, so it must read the same as in a whole row."""
    rows = pairs()
    for bucket in make_buckets(rows, 64, 4).each:
        width = sum(place < SOURCE for place in bucket.places)
        longest = rows.cond_length[bucket.index].max()
        assert width == SOURCE or (width > longest and width % ROUND == 0)
        assert bucket.places[:width] == tuple(range(width))
        assert bucket.places[width:] == tuple(range(SOURCE, SOURCE + len(bucket.places) - width))


def test_a_source_that_fills_its_bucket_gets_a_longer_one():
    source = np.repeat(np.int32([ROUND, SOURCE]), 32)
    target = np.repeat(np.int32([ROUND, TARGET]), 32)
    tokens = np.ones((64, SOURCE + TARGET), np.int32)
    short, long = make_buckets(Rows(tokens, source, source + target, SOURCE), 8, 2).each
    assert short.places == (*range(2 * ROUND), *range(SOURCE, SOURCE + ROUND))
    assert long.places == tuple(range(SOURCE + TARGET))


def test_targets_may_stay_whole():
    """Then rows are sorted by their sources alone."""
    rows = pairs()
    buckets = make_buckets(rows, 64, 4, cuts_targets=False)
    assert len(buckets.each) == 4 and buckets.computed < 0.85
    longest = [rows.cond_length[bucket.index].max() for bucket in buckets.each]
    for bucket, before in zip(buckets.each, [0, *longest], strict=False):
        assert bucket.places[-TARGET:] == tuple(range(SOURCE, SOURCE + TARGET))
        assert rows.cond_length[bucket.index].min() >= before
        assert texts(bucket.cut(rows.take(bucket.index))) == texts(rows.take(bucket.index))


@pytest.mark.parametrize("block_length", [0, 1, 3])
def test_no_other_buckets_need_fewer_positions(block_length):
    """By trying all cuts of the sorted rows."""
    rows, most = pairs(), 3
    source, target = rows.lengths()
    order = np.argsort(np.maximum(source / SOURCE, target / TARGET), kind="stable")
    parts, unit, weight = np.split(order, PARTS), 24 if block_length == 3 else 8, 1
    weight = 2 if block_length else 1

    def positions(index):
        width = min(-(-(source[index].max() + 1) // 8) * 8, SOURCE)
        return len(index) * (width + weight * min(-(-target[index].max() // unit) * unit, TARGET))

    costs = []
    for cuts in itertools.combinations(range(1, PARTS), most - 1):
        edges = zip((0, *cuts), (*cuts, PARTS), strict=True)
        costs.append(sum(positions(np.concatenate(parts[a:b])) for a, b in edges))
    found = make_buckets(rows, 64, most, block_length)
    assert sum(positions(bucket.index) for bucket in found.each) == min(costs)
    whole = len(rows) * (SOURCE + weight * TARGET)
    assert found.computed == pytest.approx(min(costs) / whole)


def test_rows_of_one_length_are_one_bucket():
    rows = Rows(np.ones((50, 16), np.int32), np.zeros(50, np.int32), np.full(50, 16, np.int32))
    (bucket,), computed = make_buckets(rows, 8, 4)
    assert (bucket.rows, bucket.places, computed) == (8, tuple(range(16)), 1.0)


def test_a_few_rows_are_one_bucket():
    rows = pairs(count=PARTS - 1)
    (bucket,), _ = make_buckets(rows, 16, 4)
    assert bucket.index.tolist() == list(range(PARTS - 1)) and bucket.rows == 16


def test_every_row_comes_once_in_an_epoch():
    rows = pairs(count=128)
    buckets = make_buckets(rows, 32, 3).each
    iterator = make_iterator(rows, 32, seed=0, buckets=buckets)
    epochs = []
    for _ in range(2):
        batches = [next(iterator) for _ in range(4)]
        epochs.append([text for batch in batches for part in batch for text in texts(part)])
    for epoch in epochs:
        assert sorted(epoch) == sorted(texts(rows.take(slice(None))))
    assert epochs[0] != epochs[1]
    for part, bucket in zip(batches[0], buckets, strict=True):
        assert part["tokens"].shape == (bucket.rows, len(bucket.places))


def test_every_bucket_has_an_order_of_its_own():
    length = np.repeat(np.int32([ROUND, 2 * ROUND]), 32)
    tokens = np.arange(64, dtype=np.int32)[:, None].repeat(2 * ROUND, axis=1)
    rows = Rows(tokens, np.zeros(64, np.int32), length)
    buckets = make_buckets(rows, 16, 2).each
    iterator = make_iterator(rows, 16, 0, buckets=buckets)
    batches = [next(iterator) for _ in range(4)]
    short, long = (
        np.concatenate([batch[number]["tokens"][:, 0] for batch in batches]) for number in (0, 1)
    )
    assert sorted(short) == sorted(long - 32) == list(range(32))
    assert short.tolist() != (long - 32).tolist()


def test_processes_share_a_batch_and_go_on_where_it_was_saved():
    rows = pairs(count=100)
    buckets = make_buckets(rows, 32, 3).each
    whole = make_iterator(rows, 32, 1, buckets=buckets)
    halves = [make_iterator(rows, 32, 1, number, 2, buckets) for number in range(2)]
    for _ in range(5):
        parts = zip(next(whole), *(next(half) for half in halves), strict=True)
        for both, *each in parts:
            assert texts(both) == [text for half in each for text in texts(half)]
    state, expected = whole.get_state(), next(whole)
    again = make_iterator(rows, 32, 1, buckets=buckets)
    again.set_state(state)
    for one, two in zip(expected, next(again), strict=True):
        np.testing.assert_array_equal(one["tokens"], two["tokens"])


def test_the_first_batch_has_the_shapes_of_all():
    rows = pairs()
    buckets = make_buckets(rows, 32, 3).each
    found = first_batch(rows, 32, 2, buckets)
    real = next(make_iterator(rows, 32, 0, 1, 2, buckets))
    shapes = [{name: field.shape for name, field in part.items()} for part in found]
    assert shapes == [{name: field.shape for name, field in part.items()} for part in real]
    assert first_batch(rows, 32)["tokens"].shape == (32, SOURCE + TARGET)
