"""The groups of rows inside which random choices between rows are made."""

import pytest

from elf_jax.core.sharding import group_rows


@pytest.mark.parametrize(
    "batch, groups",
    [(512, 8), (128, 8), (64, 8), (40, 8), (32, 4), (20, 4), (16, 2), (8, 1), (100, 4), (125, 1)],
)
def test_the_groups_depend_on_the_batch_alone(batch, groups):
    """So many groups, on any number of devices and micro-batches that divides them."""
    for parts in (1, 2, 4, 8):
        if groups % parts == 0:
            assert group_rows(batch, batch // parts) == batch // groups, parts


@pytest.mark.parametrize("batch, parts", [(512, 16), (512, 32), (96, 3), (96, 6), (16, 4), (8, 8)])
def test_parts_that_are_not_whole_groups_are_the_groups(batch, parts):
    assert group_rows(batch, batch // parts) == batch // parts


def test_a_group_is_never_larger_than_a_part():
    for batch in range(1, 200):
        for parts in (one for one in range(1, batch + 1) if batch % one == 0):
            part = batch // parts
            assert part % group_rows(batch, part) == 0, (batch, parts)
