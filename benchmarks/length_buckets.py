"""A training step on pairs in buckets of like length, compared with whole rows.

    python -m benchmarks.length_buckets --config=configs/seq2seq.py --config.data.path=PAIRS \\
        --steps=1:1,1:4,4:1

A step is named by its number of buckets (`train.length_buckets`) and of micro-batches
(`train.accumulate`). All steps have as many rows, of the same data.
"""

import pathlib
import tempfile

from absl import flags

from benchmarks.common import FLAGS, Ours, compare, run
from elf_jax.core import sharding
from elf_jax.data.dataset import load_dataset
from elf_jax.data.pipeline import make_iterator
from elf_jax.training.trainer import buckets_of, placed

STEPS = flags.DEFINE_list(
    "steps", ["1:1", "1:4", "4:1"], "BUCKETS:MICRO-BATCHES of each step", flag_values=FLAGS
)


def main(config):
    """Times the steps and prints the table. The baseline is the first step."""
    mesh, candidates = sharding.make_mesh(config.mesh), {}
    with tempfile.TemporaryDirectory() as directory:
        rows = load_dataset(config.data, pathlib.Path(directory) / "tokenizer").train
    size, computed = config.train.batch_size, {}
    for name in STEPS.value:
        buckets, parts = map(int, name.split(":"))
        changed = config.copy_and_resolve_references()
        changed.train.length_buckets, changed.train.accumulate = buckets, parts
        found = buckets_of(changed, rows)
        each = None if found is None else found.each
        batch = placed(mesh, each, next(make_iterator(rows, size, config.seed, buckets=each)))
        title = f"{buckets} bucket(s), {parts} micro-batch(es)"
        candidates[title] = Ours.of(changed, mesh, batch).candidate()
        computed[title] = 1.0 if found is None else found.computed
    title = f"training step, {size} rows of at most {config.data.length}"
    compare(title, candidates, "rows", size, next(iter(candidates)))
    for title, share in computed.items():
        print(f"{title}: {share:.1%} of the positions")


if __name__ == "__main__":
    run(main, __doc__)
