"""A training step in several micro-batches, compared with the whole batch at once.

    python -m benchmarks.micro_batches --config=configs/text.py --vocab_size=4096 \\
        --config.data.path=TEXT --parts=1,2,4,8

A step does the same with any number of micro-batches (`train.accumulate`), but a CPU finds less of
a large batch in its caches.
"""

from absl import flags

from benchmarks.common import FLAGS, Ours, compare, run
from elf_jax.core import sharding

PARTS = flags.DEFINE_list("parts", ["1", "2", "4", "8"], "numbers to compare", flag_values=FLAGS)


def main(config):
    """Times the steps and prints the table. The baseline is the first number."""
    mesh, candidates = sharding.make_mesh(config.mesh), {}
    for parts in map(int, PARTS.value):
        changed = config.copy_and_resolve_references()
        changed.train.accumulate = parts
        candidates[f"{parts} micro-batches"] = Ours.of(changed, mesh).candidate()
    rows, length = config.train.batch_size, config.data.length
    title = f"training step, {rows} rows of {length}"
    compare(title, candidates, "positions", rows * length, next(iter(candidates)))


if __name__ == "__main__":
    run(main, __doc__)
