"""Batches from packed rows, through Grain: shuffled, endless, and able to go on from any place.

The global batch of step k has the same rows for any number of processes. Each process reads its
own part of the batch.
"""

import grain
import numpy as np

# Batches that are made ahead, at least; with more reading threads, one for each. Grain's default is
# 16 threads and 500 batches, which is 1.5 GB at 512 rows of 1024 tokens.
AHEAD = 4


def make_iterator(rows, batch_size, seed, process_index=0, process_count=1, buckets=None):
    """An endless iterator over training batches. Its state can be saved and restored.

    Args:
      rows: `Rows` or `PreparedRows`.
      batch_size: global; this process gets batch_size / process_count rows of every batch.
      seed: of the shuffle. Every epoch has another order.
      process_index, process_count: which of how many processes this is.
      buckets: a tuple of `Bucket`, whose rows make up a batch; None: batches are of all rows.

    Returns:
      A grain.DatasetIterator of dicts with the fields of a `Batch`, numpy arrays; with buckets, of
      tuples with such a dict for each bucket.
    """

    def part(order):
        local = len(order) // process_count
        return order[process_index * local : (process_index + 1) * local]

    threads = rows.read_threads
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(AHEAD, threads))
    if buckets is None:
        batches = _order(len(rows), batch_size, seed).map(lambda order: rows.take(part(order)))
        return iter(batches.to_iter_dataset(read))
    first, *others = (
        _order(len(bucket.index), bucket.rows, (seed, number))
        for number, bucket in enumerate(buckets)
    )

    def take(step, order):
        orders = order, *(other[step] for other in others)
        return tuple(
            bucket.cut(rows.take(bucket.index[part(order)]))
            for bucket, order in zip(buckets, orders, strict=True)
        )

    return iter(first.map_with_index(take).to_iter_dataset(read))


def first_batch(rows, batch_size, process_count=1, buckets=None):
    """What `make_iterator` yields, with the first row in every place: the shapes, for little."""

    def fields(count, bucket=None):
        first = rows.take(np.zeros(count // process_count, int))
        return first if bucket is None else bucket.cut(first)

    if buckets is None:
        return fields(batch_size)
    return tuple(fields(bucket.rows, bucket) for bucket in buckets)


def _order(count, batch_size, seed):
    """The numbers of `count` rows in an endless order, in batches: a dataset of [batch_size]. Every
    epoch has another order.
    """
    seed = int(np.random.SeedSequence(seed).generate_state(1)[0])  # Grain needs 32 bits
    order = grain.MapDataset.range(count).shuffle(seed=seed).repeat(None)
    # Position k * batch_size + i of the endless order is row i of batch k.
    return order.batch(batch_size, drop_remainder=True)
