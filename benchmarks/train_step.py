"""A training step with both losses mixed in every batch, compared with both branches for all rows.

    python -m benchmarks.train_step --config=configs/quickstart.py
    python -m benchmarks.train_step --config=configs/owt.py --config.train.batch_size=64

The baseline has the same network and optimiser. Its objective is computed as in the reference:
every row goes through the denoise branch (with its pass without gradient) and through the decode
branch, and the losses have the weights 0.8 and 0.2.
"""

import jax
import jax.numpy as jnp
import optax

from benchmarks.common import compare, copy, random_batch, random_method, run
from elf_jax.core import rng, sharding
from elf_jax.methods.elf import objective
from elf_jax.training.optimizer import average, make_optimizer, make_schedule
from elf_jax.training.step import make_train_step
from elf_jax.training.trainer import new_state, step_settings


def make_reference_step(method, optimizer, settings):
    """The step (state, frozen, batch, key) -> (state, loss) with both branches for every row."""
    law = method.law

    def branch(params, frozen, batch, key, decode):
        rows = len(batch.tokens) // settings.groups
        q = 1.0 if decode else 0.0
        split = objective.make_split(rows, q, law.self_cond_fraction)
        if not decode:  # all rows go through the pass without gradient; its result is masked
            split = objective.Split(rows, rows, rows, 0, q, law.self_cond_fraction)
        keys = rng.per_example(rng.stream(key, str(decode)), jnp.arange(len(batch.tokens)))
        drop = jnp.zeros(len(batch.tokens), bool)
        x = method.encoder.encode(
            frozen["encoder"], batch.tokens, batch.is_cond, batch.is_valid, drop
        )
        draws = objective.draw(keys, split, *x.shape[1:], law)
        counted = settings.counted(batch)
        sums = objective.mixed_loss(method.predictor, params, x, batch, counted, draws, split, law)
        return (sums.denoise + sums.decode) / jnp.sum(counted)

    def step(state, frozen, batch, key):
        def loss(params):
            denoise = branch(params, frozen, batch, key, False)
            decode = branch(params, frozen, batch, key, True)
            return (1 - law.decode_fraction) * denoise + law.decode_fraction * decode

        value, grads = jax.value_and_grad(loss)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = average(state.ema, params, settings.ema)
        state = state.replace(step=state.step + 1, params=params, ema=ema, opt_state=opt_state)
        return state, value

    return step


def main(config):
    """Times both steps and prints the table."""
    mesh, rows = sharding.make_mesh(config.mesh), config.train.batch_size
    sharding.check_batch(rows, config.train.accumulate, mesh)
    method, frozen = random_method(config, mesh)
    schedule = make_schedule(config.optimizer, rows, 1, 2)
    optimizer = make_optimizer(config.optimizer, schedule, method.dtype, mesh, method.own_rates)
    state, shardings = new_state(config, method, optimizer, mesh)
    settings = step_settings(config, mesh)
    batch = random_batch(config, method.vocab_size, rows, mesh)
    steps = {
        "mixed within the batch": make_train_step(
            method, optimizer, schedule, settings, shardings.params
        ),
        "both branches, all rows": make_reference_step(method, optimizer, settings),
    }
    candidates = {}
    for name, step in steps.items():
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
        arguments = frozen, batch, jax.random.key(1)
        compiled = jitted.lower(state, *arguments).compile(sharding.compiler_options(mesh))
        # A call reuses the memory of its state, so the next call needs the state that it returns.
        holder = [copy(state)]

        def call(compiled=compiled, holder=holder, arguments=arguments):
            holder[0], result = compiled(holder[0], *arguments)
            return result

        candidates[name] = compiled, call
    title = f"training step, {rows} rows of {config.data.length}"
    work = rows * config.data.length
    compare(title, candidates, "positions", work, "both branches, all rows")


if __name__ == "__main__":
    run(main, __doc__)
