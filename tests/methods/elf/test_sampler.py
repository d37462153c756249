"""The sampler compared with runs of the reference, and its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.session import goldens
from elf_jax.methods.elf import flow
from elf_jax.methods.elf.predictor import Condition
from elf_jax.methods.elf.sampler import sample


@pytest.mark.parametrize("name", goldens.SAMPLERS)
def test_matches_the_reference(name):
    found = goldens.sampler(goldens.Arithmetic(jnp.float32, None, "xla"), name)
    assert found["latents"] < 2e-4
    assert found["tokens"] == 0


def toy_predict(z, t, x_prev):
    """A prediction that depends on every argument, so a sampler that ignores one fails."""
    return jnp.tanh(z) * (1 - t[:, None, None]) + 0.5 * jnp.cos(x_prev)


def toy(gamma=0.0, **kwargs):
    z = 2 * jax.random.normal(jax.random.key(0), (3, 5, 4))
    noise = jax.random.normal(jax.random.key(1), (12, 3, 5, 4))
    times = flow.time_grid("uniform", 12)
    kwargs = {"noise": lambda index: noise[index], **kwargs}
    return sample(toy_predict, z, times, gamma=gamma, **kwargs), (z, noise, times)


@pytest.mark.parametrize("gamma, schedule", [(0.0, "constant"), (1.5, "constant"), (2.0, "linear")])
def test_scan_equals_a_python_loop(gamma, schedule):
    ours, (z, noise, times) = toy(gamma, gamma_schedule=schedule)
    x_prev = jnp.zeros_like(z)
    for i in range(12):
        t, t_next = float(times[i]), float(times[i + 1])
        if gamma and i < 11:
            strength = gamma * (1 - t) if schedule == "linear" else gamma
            a = min(max(1 - strength * (t_next - t), 0), 1)
            z, t = a * z + (1 - a) * 2.0 * noise[i], a * t
        x_prev = toy_predict(z, jnp.full(3, t), x_prev)
        z = z + (t_next - t) * (x_prev - z) / max(1 - t, 0.05)
    np.testing.assert_allclose(ours, z, rtol=1e-5, atol=1e-5)


def test_a_vanishing_gamma_is_the_ode_and_a_large_one_is_not():
    ode, _ = toy(0.0, noise=None)
    np.testing.assert_allclose(toy(1e-9)[0], ode, atol=1e-5)
    assert np.max(np.abs(toy(1.0)[0] - ode)) > 1e-2
    with pytest.raises(ValueError, match="noise function"):
        toy(1.0, noise=None)


@pytest.mark.parametrize("gamma", [0.0, 1.5])
def test_condition_never_moves(gamma):
    latents = jax.random.normal(jax.random.key(3), (3, 5, 4))
    mask = jnp.arange(5)[None] < jnp.array([[0], [2], [4]])
    seen = []

    def predict(z, t, x_prev):
        jax.debug.callback(lambda *args: seen.append(args), z, x_prev)
        return toy_predict(z, t, x_prev)

    z = 2 * jax.random.normal(jax.random.key(0), (3, 5, 4))
    out = sample(
        predict,
        z,
        flow.time_grid("uniform", 4),
        gamma=gamma,
        noise=lambda index: z,
        condition=Condition(latents, mask),
    )
    jax.effects_barrier()
    assert len(seen) == 4
    for values in [(out,), *seen]:
        for value in values:
            np.testing.assert_array_equal(value[mask], latents[mask])
    assert np.any(out[~mask] != latents[~mask])


def guided_run(golden, predictor, params, latents, cfg):
    data = golden("sampler")
    condition = Condition(jnp.asarray(latents), jnp.asarray(data["cond_mask"]) > 0)
    predict = predictor.guided(params, 2.0, condition, cfg)
    return sample(predict, jnp.asarray(data["z0"]), jnp.asarray(data["times"]), condition=condition)


def test_condition_changes_the_output(golden, golden_predictor, golden_params):
    data = golden("sampler")
    target = data["cond_mask"] == 0
    run = [
        guided_run(golden, golden_predictor, golden_params, latents, 1.0)[target]
        for latents in (data["cond_latents"], -data["cond_latents"])
    ]
    assert np.max(np.abs(run[0] - run[1])) > 1e-2


def test_cfg_scale_one_is_no_guidance(golden, golden_predictor, golden_params):
    data = golden("sampler")
    condition = Condition(jnp.asarray(data["cond_latents"]), jnp.asarray(data["cond_mask"]) > 0)
    z, x_prev, t = jnp.asarray(data["z0"]), jnp.zeros_like(data["z0"]), jnp.full(4, 0.5)
    args = condition.restore(z), t, condition.restore(x_prev)
    at = [
        golden_predictor.guided(golden_params, 2.0, condition, scale)(*args)
        for scale in (1.0, 1.0 + 1e-6, 0.0, 2.0)
    ]
    plain = golden_predictor.guided(golden_params, 2.0)(*args)
    np.testing.assert_array_equal(at[0], plain)
    np.testing.assert_allclose(at[1], plain, atol=1e-4)
    np.testing.assert_allclose(at[3], 2 * at[0] - at[2], atol=1e-4)
    assert np.max(np.abs(at[0] - at[2])) > 1e-3
