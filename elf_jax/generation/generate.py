"""Generates text with a trained model, batch by batch.

Sample i depends only on the seed and on i, not on the batch that it is made in. With
config.sample.candidates there are several candidates for each sample. The first one is what would
be made without them, and `consensus.choose` says which one is kept. If nothing is drawn, all would
be equal, and only one is made.
"""

import jax
import numpy as np

from elf_jax.core import rng, sharding
from elf_jax.core.ahead import compiled_ahead
from elf_jax.core.averaging import warn_of_first_weights
from elf_jax.core.types import Batch
from elf_jax.data.tokenizer import decode
from elf_jax.generation.consensus import choose, how_many


def jit_sampler(trained):
    """The model's sampler, jitted. Settings with the same `Method.compiled_for` compile it once."""
    config = trained.config
    return compiled(trained, trained.method.sampler(config.sample, config.data.length))


def sampler_ahead(model, num_samples):
    """A `jit_sampler` that begins to be compiled for so many texts without conditions.

    Args:
      model: a `TrainedModel`, whose parameters may be ShapeDtypeStructs with shardings.
    """
    ids = np.zeros(batch_rows(model, num_samples), np.int32)
    return compiled_ahead(
        jit_sampler(model),
        model.params,
        model.frozen,
        sharding.share_rows(ids, model.mesh),
        None,
        jax.random.key(0),
        scales(model.method, model.config.sample),
    )


def compiled(trained, function):
    """The function, jitted for the devices of a `TrainedModel`; every process gets the result."""
    return jax.jit(
        function,
        out_shardings=sharding.replicated(trained.mesh),
        compiler_options=sharding.compiler_options(trained.mesh),
    )


def scales(method, settings):
    """The settings of a section `sample` that a sampler takes as traced arrays, {name: array}."""
    return {name: np.float32(settings[name]) for name in method.traced}


def generate(trained, num_samples, seed, rows=None, progress=lambda count: None, run=None):
    """Token ids of samples, each cut at its EOS.

    Args:
      trained: a `TrainedModel`.
      num_samples: how many. seed: of all their randomness.
      rows: `Rows` with the conditions, at least num_samples of them; None for unconditional text.
      progress: called with the number of samples made after each batch.
      run: a `jit_sampler`, so that several calls compile once; None: a new one.

    Returns:
      A list of num_samples integer arrays.
    """
    size = batch_rows(trained, num_samples)
    starts = range(0, num_samples, size)
    conditions = ({} if rows is None else take(rows, start, size) for start in starts)
    out = []
    for tokens in stream(trained, conditions, size, seed, run):
        # Samples that only fill the last batch are dropped.
        tokens = tokens[: num_samples - len(out)]
        out += tokens
        progress(len(tokens))
    return out


def generate_texts(trained, num_samples, seed, rows=None, run=None):
    """The samples of `generate` as a list of texts."""
    warn_of_first_weights(trained.config, trained.step)
    return decode(trained.tokenizer, generate(trained, num_samples, seed, rows, run=run))


def batch_rows(trained, num_samples):
    """The number of rows of every batch: config.sample.batch_size, or num_samples if that is less,
    rounded up to a multiple of the number of parts that the mesh splits rows into.
    """
    return sharding.whole_rows(min(trained.config.sample.batch_size, num_samples), trained.mesh)


def take(rows, start, size):
    """The fields of a `Batch` for `size` rows from `start`; at the end the last row is repeated."""
    return rows.take(np.minimum(np.arange(start, start + size), len(rows) - 1))


def stream(trained, conditions, size, seed, run=None):
    """Yields samples batch by batch, each batch as soon as it is made. It compiles once.

    Args:
      trained: a `TrainedModel`.
      conditions: for each batch the fields of a `Batch` of `size` rows, or {} for unconditional
        text. Sample i belongs to row i, counted over all batches.
      size: rows of every batch. seed: of all randomness. run: as for `generate`.

    Yields:
      A list of `size` integer arrays, each cut at its EOS.
    """
    run = jit_sampler(trained) if run is None else run
    for index, fields in enumerate(conditions):
        yield _samples(trained, run, fields, np.arange(index * size, (index + 1) * size), seed)


def _samples(trained, run, fields, ids, seed):
    """The samples of a batch, each cut at its EOS. Arguments: see `run_batch`."""
    eos, is_cond = trained.tokenizer.eos_token_id, fields.get("is_cond")
    made = [
        cut(run_batch(trained, run, fields, ids, key), eos, is_cond)
        for key in _keys(seed, how_many(trained.method, trained.config.sample))
    ]
    if len(made) == 1:
        return made[0]
    return [candidates[choose(candidates)] for candidates in zip(*made, strict=True)]


def _keys(seed, candidates):
    """A key for each candidate. The first is that of samples without further candidates."""
    first = jax.random.key(seed)
    return [first, *(rng.stream(first, "candidate", place) for place in range(1, candidates))]


def whole_rows(trained, fields, seed, progress=lambda count: None, run=None):
    """Rows in which all positions that are not given are sampled. Nothing is cut or removed.

    Args:
      trained: a `TrainedModel`.
      fields: of a `Batch` of N rows; `is_cond` marks the given positions, at any place. Sample i
        belongs to row i. seed, progress, run: as for `generate`.

    Returns:
      [N, L] int32.
    """
    run = jit_sampler(trained) if run is None else run
    count = len(fields["tokens"])
    size = batch_rows(trained, count)
    out = []
    for start in range(0, count, size):
        places = np.minimum(np.arange(start, start + size), count - 1)
        part = jax.tree.map(lambda field, places=places: field[places], fields)
        ids = np.arange(start, start + size)
        out.append(run_batch(trained, run, part, ids, seed)[: count - start])
        progress(len(out[-1]))
    return np.concatenate(out)


def run_batch(trained, run, fields, ids, seed, *more):
    """Tokens [B, L] of a batch, a NumPy array.

    Args:
      trained: a `TrainedModel`. run: a `jit_sampler`, or another such function of its method.
      fields: of a `Batch`; {}: nothing is given. ids: [B] integers that name the samples.
      seed: of all randomness, an integer or a JAX key. more: further arguments of `run`.
    """
    tokens = run(
        trained.params,
        trained.frozen,
        sharding.share_rows(ids.astype(np.int32), trained.mesh),
        sharding.share_rows(Batch(**fields), trained.mesh) if fields else None,
        jax.random.key(seed) if isinstance(seed, int | np.integer) else seed,
        scales(trained.method, trained.config.sample),
        *more,
    )
    return np.asarray(jax.device_get(tokens))


def cut(tokens, eos_id, is_cond=None):
    """The sampled tokens of each row, up to its first EOS (not included).

    Args:
      tokens: [B, L] integers.
      eos_id: id of the end-of-sequence token.
      is_cond: [B, L] bool, positions of the condition, removed before the EOS is searched; or None.

    Returns:
      A list of B integer arrays.
    """
    rows = []
    for index, row in enumerate(np.asarray(tokens)):
        if is_cond is not None:
            row = row[~np.asarray(is_cond[index])]
        ends = np.flatnonzero(row == eos_id)
        rows.append(row[: ends[0]] if len(ends) else row)
    return rows
