"""Rows of like length together: every batch is made of buckets, each computed at its own length.

Pairs differ in length, and more than half of the positions of their rows may be padding. A batch of
B rows takes a fixed number of rows from each bucket. So every row is as likely as any other, there
is one program, and the loss is that of the same rows at their whole length, if nothing of a row
depends on its padding. Where padding counts in the loss (data.pad=eos), that of a bucket does.

A network that sees a whole row must learn from the padding after a target how long targets are. For
such a network only sources are cut.

B rows of a batch, N rows in all, L positions of a whole row.
"""

import math
from typing import NamedTuple

import numpy as np

from elf_jax.core.allowed import BUCKET_PARTS as PARTS

ROUND = 8  # lengths are multiples of it, or the whole length


class Bucket(NamedTuple):
    """Rows of like length.

    Attributes:
      index: [n] integers, the numbers of the rows.
      rows: how many of them are in every batch.
      places: the places of a whole row that they need, increasing integers, a tuple.
    """

    index: np.ndarray
    rows: int
    places: tuple[int, ...]

    def cut(self, fields):
        """The fields of a `Batch` of whole rows, cut to these places."""
        places = np.asarray(self.places)
        return {name: field[..., places] for name, field in fields.items()}


class Buckets(NamedTuple):
    """The buckets of a data set.

    Attributes:
      each: a tuple of `Bucket`, short rows first.
      computed: positions that a network computes of a batch, as a share of those of whole rows.
    """

    each: tuple[Bucket, ...]
    computed: float

    def __str__(self):
        """What a user may want to know, as one line."""
        lengths = ", ".join(f"{one.rows} of {len(one.places)}" for one in self.each)
        return (
            f"rows of a batch by their lengths: {lengths}, which are {self.computed:.0%} of the "
            "positions of whole rows"
        )


class _Form(NamedTuple):
    """How long rows are.

    Attributes:
      source: the width of padded sources, 0 without them. target: L - source.
      unit: targets are cut to multiples of it; 0: they stay whole.
      weight: positions that the network computes for one of a target.
    """

    source: int
    target: int
    unit: int
    weight: int

    def shape(self, source, target):
        """(width of the sources, length of the targets) for the longest ones of a bucket. A source
        keeps one position of its padding, if it has any: there a network begins the target.
        """
        width = min(_up(source + 1, ROUND), self.source) if self.source else 0
        return width, min(_up(target, self.unit or self.target), self.target)

    def cost(self, source, target):
        """Positions that the network computes of a row of `shape`."""
        width, length = self.shape(source, target)
        return width + self.weight * length

    def places(self, source, target):
        """See `Bucket`."""
        width, length = self.shape(source, target)
        return *range(width), *range(self.source, self.source + length)


def make_buckets(rows, batch_size, most, block_length=0, cuts_targets=True):
    """The buckets in which rows need the fewest positions.

    Args:
      rows: `Rows` or `PreparedRows`. batch_size: B, a multiple of PARTS.
      most: at most so many buckets.
      block_length: of a network that writes in blocks, which computes targets twice; 0: of others.
      cuts_targets: whether the network can do without the padding after a target.

    Returns:
      `Buckets`.
    """
    source, target = (length.astype(np.int64) for length in rows.lengths())
    width = rows.source_width
    if not width:
        source, target = np.zeros_like(source), source + target
    unit = math.lcm(ROUND, max(block_length, 1)) if cuts_targets else 0
    form = _Form(width, rows.length - width, unit, 2 if block_length else 1)
    share = source / max(form.source, 1)
    share = np.maximum(share, target / form.target) if cuts_targets else share
    order = np.argsort(share, kind="stable")
    ends = np.arange(PARTS + 1) * len(order) // PARTS
    cuts = (
        [0, PARTS] if len(order) < PARTS else _cuts(form, source[order], target[order], ends, most)
    )
    buckets, cost = [], 0
    for first, end in zip(cuts, cuts[1:], strict=False):
        index = np.sort(order[ends[first] : ends[end]])
        longest = source[index].max(), target[index].max()
        buckets.append(Bucket(index, (end - first) * batch_size // PARTS, form.places(*longest)))
        cost += (end - first) / PARTS * form.cost(*longest)
    return Buckets(tuple(buckets), cost / form.cost(form.source, form.target))


def _cuts(form, source, target, ends, most):
    """The best increasing numbers of parts, from 0 to PARTS, at which buckets begin and end.

    Args:
      source, target: [N] lengths of the sorted rows. ends: [PARTS + 1], where their parts end.
    """

    def cost(first, end):
        part = slice(ends[first], ends[end])
        return (end - first) * form.cost(source[part].max(), target[part].max())

    # best[end]: (cost, cuts) of the rows up to `end`, in as many buckets as there were rounds.
    best = {end: (cost(0, end), [0, end]) for end in range(1, PARTS + 1)}
    for _ in range(most - 1):
        longer = {
            end: [(best[cut][0] + cost(cut, end), [*best[cut][1], end]) for cut in range(1, end)]
            for end in best
        }
        best = {end: min([best[end], *longer[end]], key=lambda one: one[0]) for end in best}
    return best[PARTS][1]


def _up(length, unit):
    return -(-int(length) // unit) * unit
