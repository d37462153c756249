"""Sampling: all steps as one scan against a Python loop over compiled steps.

    python -m benchmarks.sampling --config=configs/quickstart.py
    python -m benchmarks.sampling --config=configs/owt.py --config.sample.batch_size=125

The weights are random: the time does not depend on them. The last line is what 1,000 samples take.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from benchmarks.common import CONFIG, compare, random_batch, random_model
from elf_jax.core import sharding
from elf_jax.generation.generate import make_sampler
from elf_jax.methods.elf import flow
from elf_jax.methods.elf.decode import decode_tokens


def python_loop(model, config, params, rows):
    """A function () -> tokens that calls one compiled step after another, from the host."""
    s, law = config.sample, config.objective
    gamma = s.gamma if s.sampler == "sde" else 0.0
    times = np.asarray(flow.time_grid(s.time_grid, s.steps, law.time_mean, law.time_std, None))
    predict = model.predictor.guided

    @jax.jit
    def step(params, z, x_prev, key, t, t_next, gamma_now):
        noise = jax.random.normal(key, z.shape)
        z, t = flow.back_to_noise(z, noise, t, t_next, gamma_now, law.noise_scale)
        x_hat = predict(params, s.guidance_scale)(z, jnp.full(rows, t), x_prev)
        return z + (t_next - t) * flow.velocity(x_hat, z, t, law.t_eps), x_hat

    decode = jax.jit(lambda p, z: decode_tokens(model.predictor, p, z, s.guidance_scale))

    def run():
        z = law.noise_scale * jax.random.normal(
            jax.random.key(0), (rows, config.data.length, model.encoder.width)
        )
        x_prev = jnp.zeros_like(z)
        for index in range(s.steps):
            last = index == s.steps - 1
            z, x_prev = step(
                params, z, x_prev, jax.random.key(index), times[index], times[index + 1],
                0.0 if last else gamma,
            )  # fmt: skip
        return decode(params, z)

    return run


def main(_):
    """Times both on one batch and prints the table."""
    config = CONFIG.value
    mesh = sharding.make_mesh(config.mesh)
    model, vocab_size = random_model(config, mesh)
    shapes = jax.eval_shape(
        lambda key: model.predictor.init(key, config.data.length), jax.random.key(0)
    )
    init = jax.jit(
        lambda key: model.predictor.init(key, config.data.length),
        out_shardings=sharding.of_tree(shapes, mesh),
    )
    params, rows = init(jax.random.key(0)), config.sample.batch_size
    ids = sharding.share_rows(np.arange(rows, dtype=np.int32), mesh)
    conditional = bool(config.data.source_field)
    batch = random_batch(config, vocab_size, rows, mesh) if conditional else None
    sampler = jax.jit(make_sampler(model, config), out_shardings=sharding.replicated(mesh))
    arguments = params, model.encoder.params, ids, batch, jax.random.key(0)
    compiled = sampler.lower(*arguments).compile()
    candidates = {"one scan": (compiled, lambda: compiled(*arguments))}
    if not conditional:
        candidates["Python loop over steps"] = None, python_loop(model, config, params, rows)
    baseline = "one scan" if conditional else "Python loop over steps"
    title = f"{config.sample.steps} {config.sample.sampler} steps, {rows} samples of "
    title += f"{config.data.length}"
    compare(title, candidates, "samples", rows, baseline)


if __name__ == "__main__":
    app.run(main)
