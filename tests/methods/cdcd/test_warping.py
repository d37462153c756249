"""The learned law of times against the published code, and its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from elf_jax.methods.cdcd import warping
from tests.methods.cdcd.golden import RANGE, warp
from tests.methods.stub import Group, agree


@pytest.mark.parametrize("x64", [True, False])
def test_the_golden_numbers(x64):
    with jax.enable_x64(x64):
        golden, ours, tolerance = Group("cdcd", "cdf"), warp(), 1e-12 if x64 else 1e-5
        value = warping.cross_entropy(ours, golden.t)[0]
        assert agree(value, golden.F_of_t, tolerance)
        assert agree(value / ours.values[-1], golden.F_of_t_normalised, tolerance)
        assert agree(warping.time_of(ours, golden.u), golden.t_of_u, tolerance)


@pytest.mark.parametrize("bins", [1, 100])
def test_the_first_law_is_a_straight_line_to_log_v(bins):
    ours = warping.make(warping.new_params(bins, 50), 1.0, 300.0)
    t = jnp.linspace(1.0, 300.0, 7)
    value, slope = warping.cross_entropy(ours, t)
    np.testing.assert_allclose(value, np.log(50) * (t - 1) / 299, atol=1e-4)
    np.testing.assert_allclose(slope, np.log(50) / 299, rtol=1e-4)
    ends = warping.time_of(ours, jnp.array([0.0, 1.0]))
    assert ends[0] == 1.0 and abs(ends[1] - 300.0) < 1e-3 and ends[1] <= ours.times[-1]


def test_the_slope_is_the_derivative():
    with jax.enable_x64(True):
        ours, t = warp(), jnp.linspace(*RANGE, 23)[1:-1]
        value, slope = warping.cross_entropy(ours, t)
        derivative = jax.vmap(jax.grad(lambda t: warping.cross_entropy(ours, t)[0]))(t)
        assert agree(slope, derivative, 1e-12)
        assert agree(warping.time_of(ours, value / ours.values[-1]), t, 1e-12)


def test_the_fit_finds_a_curve():
    """From times of its own law, as in training, with noise in what is measured."""

    def curve(t):
        return 4 / (1 + (20 / t) ** 4)

    params, optimizer = warping.new_params(50, 100), optax.adam(0.03)

    @jax.jit
    def fit(params):
        def step(carry, key):
            params, state = carry
            ours = warping.make(params, 1.0, 100.0)
            u = (jnp.arange(32) + jax.random.uniform(key)) / 32
            t = jax.lax.stop_gradient(warping.time_of(ours, u))
            measured = curve(t) + 0.1 * jax.random.normal(key, t.shape)

            def loss(params):
                return jnp.mean(warping.fit_loss(warping.make(params, 1.0, 100.0), t, measured))

            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.key(0), 1500)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    t = jnp.linspace(1, 100, 40)
    errors = [
        np.max(np.abs(warping.cross_entropy(warping.make(one, 1.0, 100.0), t)[0] - curve(t)))
        for one in (params, fit(params))
    ]
    assert errors[0] > 2 and errors[1] < 0.15, errors
