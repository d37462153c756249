"""A training step with both losses mixed in every batch, compared with the published step.

    python -m benchmarks.train_step --config=configs/quickstart.py --vocab_size=7082
    python -m benchmarks.train_step --config=configs/owt.py --config.train.batch_size=64

The published step draws one of two branches for all rows of a device: it denoises with probability
0.8 and decodes with 0.2. Both branches are timed; the baseline is their mean with these weights.
`plain.py` has the program: its own network, objective and optimiser. The matrices that Muon updates
are those of the config.
"""

import jax

from benchmarks import plain
from benchmarks.common import (
    compare,
    compiled_program,
    copy,
    random_batch,
    random_method,
    run,
)
from elf_jax.core import sharding
from elf_jax.training.optimizer import make_optimizer, make_schedule
from elf_jax.training.state import TrainState
from elf_jax.training.step import make_train_step
from elf_jax.training.trainer import new_state, step_settings

BASELINE = "published, expected"


def candidate(step, state, arguments, options, shardings=None):
    """(`Program` of a step, function that runs it once). A step reuses the memory of its state."""
    layouts = None if shardings is None else (shardings, None)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=layouts)
    program = compiled_program(jitted.trace(state, *arguments), options)
    holder = [copy(state)]

    def call():
        holder[0], result = program.compiled(holder[0], *arguments)
        return result

    return program, call


def main(config):
    """Times the steps and prints the table."""
    mesh, rows = sharding.make_mesh(config.mesh), config.train.batch_size
    sharding.check_batch(rows, config.train.accumulate, mesh)
    method, frozen = random_method(config, mesh)
    schedule = make_schedule(config.optimizer, rows, 1, 2)
    optimizer = make_optimizer(config.optimizer, schedule, method.dtype, mesh, method.own_rates)
    state, shardings = new_state(config, method, optimizer, mesh)
    settings = step_settings(config, mesh)
    arguments = frozen, random_batch(config, method.vocab_size, rows, mesh), jax.random.key(1)
    mixed = make_train_step(method, optimizer, schedule, settings, shardings.params)
    options = sharding.compiler_options(mesh)
    candidates = {"mixed within the batch": candidate(mixed, state, arguments, options, shardings)}
    published = plain.optimizer(config.optimizer, schedule)
    state = TrainState.create(plain.from_ours(copy(state.params)), published)
    for branch in (plain.denoise_loss, plain.decode_loss):
        step = plain.make_step(method, published, settings, branch)
        name = f"published, {branch.__name__.removesuffix('_loss')}"
        candidates[name] = candidate(step, state, arguments, {})
    q = config.objective.decode_fraction
    expected = {BASELINE: {"published, denoise": 1 - q, "published, decode": q}}
    title = f"training step, {rows} rows of {config.data.length}"
    work = rows * config.data.length
    compare(title, candidates, "positions", work, BASELINE, expected)


if __name__ == "__main__":
    run(main, __doc__)
