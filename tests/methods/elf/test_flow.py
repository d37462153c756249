"""Equations of the flow: identities, distributions and time grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from elf_jax.methods.elf import flow


def test_x_to_velocity_to_x_is_the_identity():
    x, eps = jax.random.normal(jax.random.key(0), (2, 6, 3, 4))
    t = jnp.array([0.0, 0.3, 0.9, 0.95, 0.99, 1.0])
    z = flow.interpolate(x, eps, t, 2.0)
    v = flow.velocity(x, z, t, 0.05)
    np.testing.assert_allclose(z + v * np.maximum(1 - t, 0.05)[:, None, None], x, atol=1e-5)
    # Away from t = 1 the velocity is the path's derivative, x - s eps.
    np.testing.assert_allclose(v[:3], (x - 2 * eps)[:3], atol=1e-4)


def test_path_ends_at_noise_and_data():
    x, eps = jax.random.normal(jax.random.key(0), (2, 2, 3, 4))
    np.testing.assert_allclose(flow.interpolate(x, eps, jnp.zeros(2), 2.0), 2 * eps)
    np.testing.assert_allclose(flow.interpolate(x, eps, jnp.ones(2), 2.0), x)
    per_token = flow.interpolate(x, eps, jnp.array([[0.0, 1.0, 0.0]] * 2), 2.0)
    np.testing.assert_allclose(per_token[:, 1], x[:, 1])
    np.testing.assert_allclose(per_token[:, 0], 2 * eps[:, 0])


def test_guided_target_leaves_w_of_one_alone():
    v, v_c, v_u = jax.random.normal(jax.random.key(0), (3, 2, 3, 4))
    target = flow.guided_target(v, v_c, v_u, jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(target[0], v[0])
    np.testing.assert_allclose(target[1], v[1] + 0.5 * (v_c - v_u)[1], atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 32, 64, 1000])
@pytest.mark.parametrize("kind", flow.TIME_GRIDS)
def test_time_grids_increase_from_0_to_1(kind, steps):
    times = np.asarray(flow.time_grid(kind, steps, key=jax.random.key(1)))
    assert times.shape == (steps + 1,)
    assert times[0] == 0 and times[-1] == 1
    assert np.all(np.diff(times) > 0)


def test_quantile_grid_follows_the_training_law():
    inner = np.asarray(flow.time_grid("logit_normal_quantile", 1000, -1.5, 0.8))[1:-1]
    normal = (np.log(inner / (1 - inner)) + 1.5) / 0.8
    np.testing.assert_allclose(stats.norm.cdf(normal), np.arange(1, 1000) / 1000, atol=1e-4)


def test_unknown_grid_and_missing_key():
    with pytest.raises(ValueError, match="known are uniform"):
        flow.time_grid("cosine", 4)
    with pytest.raises(ValueError, match="needs a key"):
        flow.time_grid("logit_normal", 4)


def test_schedules_of_gamma():
    times = np.array([0.0, 0.25, 1.0])
    np.testing.assert_allclose(flow.gamma_at(times, 2.0, "linear"), [2.0, 1.5, 0.0])
    assert flow.gamma_at(times, 2.0, "constant") == 2.0
    with pytest.raises(ValueError, match="use one of constant, linear"):
        flow.gamma_at(times, 2.0, "cosine")
