"""A training step with both losses mixed in every batch, against both branches for all rows.

    python -m benchmarks.train_step --config=configs/quickstart.py
    python -m benchmarks.train_step --config=configs/owt.py --config.train.batch_size=64

The baseline is the same network and optimiser with the objective as the reference computes it:
every row goes through the denoise branch (with its pass without gradient) and through the decode
branch, and the losses are weighted 0.8 and 0.2.
"""

import jax
import jax.numpy as jnp
import optax
from absl import app

from benchmarks.common import CONFIG, compare, random_batch, random_model
from elf_jax.core import rng, sharding
from elf_jax.evaluation.evaluate import step_settings
from elf_jax.methods.elf import objective
from elf_jax.training.optimizer import average, make_optimizer, make_schedule
from elf_jax.training.state import TrainState
from elf_jax.training.step import loss_mask, make_train_step


def make_reference_step(model, optimizer, settings):
    """(state, encoder_params, batch, key) -> (state, loss), both branches for every row."""
    law = settings.objective

    def branch(params, encoder_params, batch, key, decode):
        rows = len(batch.tokens) // settings.groups
        q = 1.0 if decode else 0.0
        split = objective.make_split(rows, q, law.self_cond_fraction)
        if not decode:  # the pass without gradient is made for all rows, and masked
            split = objective.Split(rows, rows, rows, 0, q, law.self_cond_fraction)
        keys = rng.per_example(rng.stream(key, str(decode)), jnp.arange(len(batch.tokens)))
        drop = jnp.zeros(len(batch.tokens), bool)
        x = model.encoder.encode(encoder_params, batch.tokens, batch.is_cond, batch.is_valid, drop)
        draws = objective.draw(keys, split, *x.shape[1:], law)
        mask = loss_mask(batch, settings.pad_in_loss)
        sums = objective.mixed_loss(model.predictor, params, x, batch, mask, draws, split, law)
        return (sums.denoise + sums.decode) / jnp.sum(mask)

    def step(state, encoder_params, batch, key):
        def loss(params):
            denoise = branch(params, encoder_params, batch, key, False)
            decode = branch(params, encoder_params, batch, key, True)
            return (1 - law.decode_fraction) * denoise + law.decode_fraction * decode

        value, grads = jax.value_and_grad(loss)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = average(state.ema, params, settings.ema)
        state = state.replace(step=state.step + 1, params=params, ema=ema, opt_state=opt_state)
        return state, value

    return step


def main(_):
    """Builds both steps, times them in turns, prints the table."""
    config = CONFIG.value
    mesh = sharding.make_mesh(config.mesh)
    model, vocab_size = random_model(config, mesh)
    schedule = make_schedule(config.optimizer, config.train.batch_size, 1, 10**6)
    optimizer = make_optimizer(config.optimizer, schedule, model.predictor.network.dtype, mesh)

    def create(key):
        return TrainState.create(model.predictor.init(key, config.data.length), optimizer)

    shardings = sharding.of_tree(jax.eval_shape(create, jax.random.key(0)), mesh)
    settings = step_settings(config, mesh, 1)
    steps = {
        "both branches for all rows": make_reference_step(model, optimizer, settings),
        "mixed batch": make_train_step(
            model.predictor, model.encoder, optimizer, schedule, settings, shardings.params
        ),
    }
    rows = config.train.batch_size
    batch = random_batch(config, vocab_size, rows, mesh)
    key, candidates = jax.random.key(1), {}
    for name, step in steps.items():
        state = jax.jit(create, out_shardings=shardings)(jax.random.key(0))
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
        compiled = jitted.lower(state, model.encoder.params, batch, key).compile()
        candidates[name] = compiled, _stepper(compiled, state, model.encoder.params, batch, key)
    title = f"training step, {rows} rows of {config.data.length}"
    work = rows * config.data.length
    compare(title, candidates, "positions", work, "both branches for all rows")


def _stepper(compiled, state, *rest):
    """A function that trains on, step after step."""
    holder = [state]

    def run():
        holder[0], metrics = compiled(holder[0], *rest)
        return metrics

    return run


if __name__ == "__main__":
    app.run(main)
