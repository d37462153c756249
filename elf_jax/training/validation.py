"""Losses on held-out rows. The random draws are always the same, so steps can be compared."""

import jax

from elf_jax.core import rng, sharding
from elf_jax.core.types import Batch, counted_positions
from elf_jax.training.step import make_eval_step

PREFIX = "validation_"


def sum_over_held_out(method, sums, rows, batch_size, batches, mesh):
    """The metrics of a method over held-out rows.

    Args:
      method: a `Method`, of which `metrics` is used.
      sums: function (fields of the rows, real [B] on the devices, number of the batch) -> the
        result of the step of `make_eval_step`.
      rows: held-out rows. batch_size: rows of a batch, at most. batches: their number, at most.
      mesh: the devices.

    Returns:
      {"validation_" + metric: value}.
    """
    # Few rows are filled up to whole groups, not only to whole rows of the devices. So 1, 2, 4 and
    # 8 devices have the same batch, and make the same random choices between its rows.
    full = -(-len(rows) // rng.GROUPS) * rng.GROUPS
    size = sharding.whole_rows(min(batch_size, full), mesh)
    totals = None
    for index, (fields, real) in enumerate(rows.batches(size)):
        if index == batches:
            break
        found = sums(fields, sharding.share_rows(real, mesh), index)
        totals = found if totals is None else jax.tree.map(lambda a, b: a + b, totals, found)
    loss, sums, positions = jax.device_get(totals)
    metrics = method.metrics(loss / positions, sums, positions)
    return {f"{PREFIX}{name}": float(value) for name, value in metrics.items()}


def jit_eval_step(method, config):
    """`make_eval_step` for the rows of a whole config, compiled once for all calls."""
    pad_in_loss = config.data.pad == "eos"
    return jax.jit(make_eval_step(method, lambda batch: counted_positions(batch, pad_in_loss)))


def held_out_losses(method, eval_step, params, frozen, rows, config, mesh):
    """The metrics of a method over at most config.train.validation_batches batches.

    Args:
      method: a `Method`. eval_step: from `jit_eval_step`.
      params, frozen: parameters, and arrays that are not trained.
      rows: held-out rows. config: whole config. mesh: the devices.

    Returns:
      {"validation_" + metric: value}.
    """
    key = rng.stream(jax.random.key(config.seed), "validation")

    def sums(fields, real, index):
        batch = sharding.share_rows(Batch(**fields), mesh)
        return eval_step(params, frozen, batch, jax.random.fold_in(key, index), real)

    train = config.train
    return sum_over_held_out(method, sums, rows, train.batch_size, train.validation_batches, mesh)
