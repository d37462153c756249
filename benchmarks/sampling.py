"""Sampling: one scan over all steps, compared with a Python loop over compiled steps.

    python -m benchmarks.sampling --config=configs/quickstart.py
    python -m benchmarks.sampling --config=configs/owt.py --config.sample.batch_size=125

The weights are random, because the time does not depend on them.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import compare, random_batch, random_method, random_params, run
from elf_jax.core import sharding
from elf_jax.generation.generate import scales
from elf_jax.methods.elf import flow
from elf_jax.methods.elf.decode import decode_tokens


def python_loop(method, config, params, rows):
    """A function () -> tokens that calls a compiled step in a Python loop."""
    s, law = config.sample, config.objective
    gamma = s.gamma if s.sampler == "sde" else 0.0
    times = np.asarray(flow.time_grid(s.time_grid, s.steps, law.time_mean, law.time_std, None))
    predict = method.predictor.guided

    @jax.jit
    def step(params, z, x_prev, key, t, t_next, gamma_now):
        noise = jax.random.normal(key, z.shape)
        z, t = flow.back_to_noise(z, noise, t, t_next, gamma_now, law.noise_scale)
        x_hat = predict(params, s.guidance_scale)(z, jnp.full(rows, t), x_prev)
        return z + (t_next - t) * flow.velocity(x_hat, z, t, law.t_eps), x_hat

    decode = jax.jit(lambda p, z: decode_tokens(method.predictor, p, z, s.guidance_scale))

    def run():
        z = law.noise_scale * jax.random.normal(
            jax.random.key(0), (rows, config.data.length, method.encoder.width)
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
    sampler = jax.jit(sampler, out_shardings=sharding.replicated(mesh))
    key, settings = jax.random.key(0), scales(method, config.sample)
    arguments = params, frozen, ids, given, key, settings
    compiled = sampler.lower(*arguments).compile()
    candidates = {"one scan": (compiled, lambda: compiled(*arguments))}
    if not conditional:
        candidates["Python loop over steps"] = None, python_loop(method, config, params, rows)
    baseline = "one scan" if conditional else "Python loop over steps"
    title = f"{config.sample.steps} {config.sample.sampler} steps, {rows} samples of {length}"
    compare(title, candidates, "samples", rows, baseline)


if __name__ == "__main__":
    run(main, __doc__)
