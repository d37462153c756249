"""Texts made from lines, several for each line, in the order of the lines.

A text depends on the seed, on the place of its line and on its own number only: not on the batch
that it is made in, and not on how many texts are made. All batches have one shape. Each batch is
returned as soon as it is made.
"""

import dataclasses
import itertools
from collections.abc import Callable

import jax
import numpy as np

from elf_jax.core.errors import UserError
from elf_jax.generation.generate import batch_rows, run_batch

# Numbers of texts go to ids that are far apart, so that they meet no place of another line.
SPREAD = 0x9E3779B1


@dataclasses.dataclass(frozen=True)
class Job:
    """A text to be made.

    Attributes:
      place: of its line, from 0. number: of the text among those of its line, from 0.
      fields: of a `Batch`, one row [L] each; None: the model is not needed.
      record: function from the row's tokens [L] (or None) to what is returned.
    """

    place: int
    number: int
    fields: dict | None
    record: Callable


def check_takes_text(config, what):
    """Raises UserError if the model has no texts of one kind, but pairs. what: of `what`."""
    if config.data.source_field:
        raise UserError(
            f"this model was trained on pairs (config.data.source_field) and takes no {what}: "
            "use --mode=sample with --source, or a model of text"
        )


def sample_id(place, number):
    """The id of the random draws of a text, an int32: number 0 of a line has the line's place."""
    return np.array((place + number * SPREAD) % 2**32, np.uint32).astype(np.int32)


def made(trained, jobs, seed, run, *more):
    """Yields what the jobs make, as lists, batch by batch.

    Args:
      trained: a `TrainedModel`. jobs: iterable of `Job`s, which is read as far as a batch needs.
      seed, run, more: see `generate.run_batch`.
    """
    jobs = iter(jobs)
    batch = list(itertools.islice(jobs, trained.config.sample.batch_size))
    size = batch_rows(trained, max(len(batch), 1))  # fewer texts than a batch: a smaller batch
    while batch:
        yield _records(trained, batch, size, seed, run, *more)
        batch = list(itertools.islice(jobs, size))


def _records(trained, batch, size, seed, run, *more):
    rows = [job for job in batch if job.fields is not None]
    tokens = iter(())
    if rows:
        filled = [rows[min(index, len(rows) - 1)] for index in range(size)]
        fields = {name: _stacked([job.fields[name] for job in filled]) for name in rows[0].fields}
        ids = np.array([sample_id(job.place, job.number) for job in filled])
        tokens = iter(run_batch(trained, run, fields, ids, seed, *more)[: len(rows)])
    return [job.record(None if job.fields is None else next(tokens)) for job in batch]


def _stacked(rows):
    """Arrays of rows, or structures of them, with a new first axis."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *rows)
