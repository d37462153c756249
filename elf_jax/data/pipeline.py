"""Batches from packed rows, through Grain: shuffled, endless, and able to go on from any place.

The global batch of step k has the same rows for any number of processes. Each process reads its
own part of the batch.
"""

import grain
import numpy as np

# Batches that are made ahead, at least; with more reading threads, one for each. Grain's default is
# 16 threads and 500 batches, which is 1.5 GB at 512 rows of 1024 tokens.
AHEAD = 4


def make_iterator(rows, batch_size, seed, process_index=0, process_count=1):
    """An endless iterator over training batches. Its state can be saved and restored.

    Args:
      rows: `Rows` or `PreparedRows`.
      batch_size: global; this process gets batch_size / process_count rows of every batch.
      seed: of the shuffle. Every epoch has another order.
      process_index, process_count: which of how many processes this is.

    Returns:
      A grain.DatasetIterator of dicts with the fields of a `Batch`, numpy arrays.
    """
    local = batch_size // process_count
    seed = int(np.random.SeedSequence(seed).generate_state(1)[0])  # Grain needs 32 bits
    index = grain.MapDataset.range(len(rows)).shuffle(seed=seed).repeat(None)
    # Position k * batch_size + i of the endless order is row i of batch k.
    index = index.batch(batch_size, drop_remainder=True)
    part = slice(process_index * local, (process_index + 1) * local)
    threads = rows.read_threads
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(AHEAD, threads))
    return iter(index.map(lambda order: rows.take(order[part])).to_iter_dataset(read))
