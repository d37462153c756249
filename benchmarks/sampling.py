"""Sampling, compared with the published sampler.

    python -m benchmarks.sampling --config=configs/quickstart.py
    python -m benchmarks.sampling --config=configs/owt.py --config.sample.batch_size=125

The weights are random, because the time does not depend on them. `plain.py` has the published
sampler, without a condition; with pairs, ours is timed alone.
"""

import jax
import numpy as np

from benchmarks import plain
from benchmarks.common import (
    compare,
    compiled_program,
    random_batch,
    random_method,
    random_params,
    run,
)
from elf_jax.core import sharding
from elf_jax.generation.generate import scales


def main(config):
    """Times both on one batch and prints the table."""
    mesh, rows, length = (
        sharding.make_mesh(config.mesh),
        config.sample.batch_size,
        config.data.length,
    )
    sharding.check_batch(rows, 1, mesh, "config.sample.batch_size")
    method, frozen = random_method(config, mesh)
    params = random_params(method, config, mesh)
    ids = sharding.share_rows(np.arange(rows, dtype=np.int32), mesh)
    conditional = bool(config.data.source_field)
    given = random_batch(config, method.vocab_size, rows, mesh) if conditional else None
    sampler = method.sampler(config.sample, length)
    replicated, options = sharding.replicated(mesh), sharding.compiler_options(mesh)
    sampler = jax.jit(sampler, out_shardings=replicated)
    key, settings = jax.random.key(0), scales(method, config.sample)
    arguments = params, frozen, ids, given, key, settings
    ours = compiled_program(sampler.trace(*arguments), options)
    candidates = {"one scan": (ours, lambda: ours.compiled(*arguments))}
    if not conditional:
        theirs = jax.jit(plain.make_sampler(method, config.sample, rows, length))
        loose = plain.from_ours(params)
        published = compiled_program(theirs.trace(loose, key))
        candidates["published"] = published, lambda: published.compiled(loose, key)
    baseline = "one scan" if conditional else "published"
    title = f"{config.sample.steps} {config.sample.sampler} steps, {rows} samples of {length}"
    compare(title, candidates, "samples", rows, baseline)


if __name__ == "__main__":
    run(main, __doc__)
