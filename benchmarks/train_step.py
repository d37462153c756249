"""A training step with both losses mixed in every batch, compared with the published step.

    python -m benchmarks.train_step --config=configs/quickstart.py --vocab_size=7082
    python -m benchmarks.train_step --config=configs/owt.py --config.train.batch_size=64

The published step draws one of two branches for all rows of a device: it denoises with probability
0.8 and decodes with 0.2. Both branches are timed; the baseline is their mean with these weights.
`plain.py` has the program: its own network, objective and optimiser. The matrices that Muon updates
are those of the config.
"""

from benchmarks import plain
from benchmarks.common import Ours, compare, copy, run, step_candidate
from elf_jax.core import sharding
from elf_jax.training.state import TrainState

BASELINE = "published, expected"


def main(config):
    """Times the steps and prints the table."""
    mesh, rows = sharding.make_mesh(config.mesh), config.train.batch_size
    ours = Ours.of(config, mesh)
    candidates = {"mixed within the batch": ours.candidate()}
    published = plain.optimizer(config.optimizer, ours.schedule)
    state = TrainState.create(plain.from_ours(copy(ours.state.params)), published)
    for branch in (plain.denoise_loss, plain.decode_loss):
        step = plain.make_step(ours.method, published, ours.settings, branch)
        name = f"published, {branch.__name__.removesuffix('_loss')}"
        candidates[name] = step_candidate(step, state, ours.arguments, {})
    q = config.objective.decode_fraction
    expected = {BASELINE: {"published, denoise": 1 - q, "published, decode": q}}
    title = f"training step, {rows} rows of {config.data.length}"
    work = rows * config.data.length
    compare(title, candidates, "positions", work, BASELINE, expected)


if __name__ == "__main__":
    run(main, __doc__)
