"""Packed rows to batches, through Grain: shuffled by seed, endless, seekable, split over processes.

The global batch of step k holds the same rows however many processes there are; process p reads
its p-th part.
"""

import grain
import numpy as np

# Batches made ahead, at least, and one for each reading thread; Grain's own default is 16 threads
# and 500 batches, 1.5 GB of them at 512 rows of 1024 tokens.
AHEAD = 4


def make_iterator(rows, batch_size, seed, process_index=0, process_count=1):
    """An endless iterator of training batches whose state can be saved and restored.

    Args:
      rows: `Rows` or `PreparedRows`.
      batch_size: global; this process gets batch_size / process_count rows of every batch.
      seed: of the shuffle, which is new in every epoch.
      process_index, process_count: of this process.

    Returns:
      A grain.DatasetIterator of dicts with the fields of a `Batch`, numpy arrays.
    """
    local = batch_size // process_count
    seed = int(np.random.SeedSequence(seed).generate_state(1)[0])  # Grain wants 32 bits
    index = grain.MapDataset.range(len(rows)).shuffle(seed=seed).repeat(None)
    # Position k * batch_size + i of the endless order is row i of batch k.
    index = index.batch(batch_size, drop_remainder=True)
    part = slice(process_index * local, (process_index + 1) * local)
    threads = rows.read_threads
    # Of rows in memory one thread keeps ahead of the device, of rows on disk several.
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(AHEAD, threads))
    return iter(index.map(lambda order: rows.take(order[part])).to_iter_dataset(read))
