"""Rows with self-conditioning that start at an earlier time and go on by one step of the ODE."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core import defaults, rng
from elf_jax.core.types import Batch
from elf_jax.methods.elf import flow, objective, roles

ROWS, LENGTH, WIDTH = 10, 4, 3


class Halves:
    """A network whose x-prediction is half of its input, and that keeps what it was asked."""

    def denoise(self, params, z, x_prev, t, w, before):
        self.asked = z, x_prev, t, w
        return z / 2


@pytest.fixture(scope="module")
def rows():
    """(latents, batch, law, split, draws with a rollout)."""
    law = defaults.get_config().objective
    law.rollout = True
    x = jax.random.normal(jax.random.key(0), (ROWS, LENGTH, WIDTH))
    is_cond = jnp.broadcast_to(jnp.arange(LENGTH) < 1, (ROWS, LENGTH))
    batch = Batch(jnp.zeros((ROWS, LENGTH), int), is_cond, ~jnp.zeros_like(is_cond))
    split = roles.make_split(ROWS, law.decode_fraction, law.self_cond_fraction)
    keys = rng.per_example(jax.random.key(1), jnp.arange(ROWS))
    return x, batch, law, split, objective.draw(keys, split, LENGTH, WIDTH, law)


def first_pass(rows, draws):
    x, batch, law, split, _ = rows
    clean, network = jnp.where(batch.is_cond[..., None], x, 0), Halves()
    z, x_u = objective.first_pass(network, None, x, clean, batch, draws, split, law)
    return network.asked, np.asarray(z), np.asarray(x_u)


def test_one_step_leads_from_an_earlier_point_of_the_path(rows):
    x, batch, law, split, draws = rows
    count = split.self_cond
    assert count == 4 and np.all(draws.t_u < draws.t) and np.all(draws.t_u >= 0)
    (asked, x_prev, t, _), z, x_u = first_pass(rows, draws)
    start = flow.interpolate(x, draws.noise, draws.t_u, law.noise_scale)
    start = jnp.where(batch.is_cond[..., None], x, start)[:count]
    np.testing.assert_allclose(asked, start, rtol=1e-6)
    np.testing.assert_array_equal(t, draws.t_u[:count])
    np.testing.assert_array_equal(x_prev[:, 1:], 0)
    np.testing.assert_allclose(x_u[:count], start / 2, rtol=1e-6)
    # (1 - t) / (1 - t_u) of the start and the rest of the x-prediction.
    kept = ((1 - draws.t) / (1 - draws.t_u))[:count, None, None]
    step = kept * start + (1 - kept) * start / 2
    np.testing.assert_allclose(z[:count, 1:], step[:, 1:], rtol=1e-5)
    np.testing.assert_array_equal(z[:count, :1], x[:count, :1])


def test_other_rows_are_as_without_a_rollout(rows):
    *_, split, draws = rows
    _, z, x_u = first_pass(rows, draws)
    (asked, _, t, _), plain, plain_x_u = first_pass(rows, draws.replace(t_u=None))
    count = split.self_cond
    np.testing.assert_array_equal(z[count:], plain[count:])
    np.testing.assert_array_equal(x_u[count:], 0)
    assert np.max(np.abs(z[:count] - plain[:count])) > 0.1
    # As published: both passes have the same input.
    np.testing.assert_array_equal(asked, plain[:count])
    np.testing.assert_array_equal(t, draws.t[:count])
    np.testing.assert_allclose(plain_x_u[:count], plain[:count] / 2, rtol=1e-6)


def test_a_step_of_no_length_changes_nothing(rows):
    draws = rows[-1]
    _, plain, _ = first_pass(rows, draws.replace(t_u=None))
    _, z, _ = first_pass(rows, draws.replace(t_u=draws.t))
    np.testing.assert_allclose(z, plain, rtol=1e-6)


def test_the_time_of_the_start_is_uniform_and_the_other_draws_stay(rows):
    law, split = rows[2], rows[3]
    keys = rng.per_example(jax.random.key(2), jnp.arange(5_000))
    draws = objective.draw(keys, split, 2, 2, law)
    share = np.asarray(draws.t_u / draws.t)
    assert abs(share.mean() - 0.5) < 0.02 and abs(share.std() - 12**-0.5) < 0.01
    law = defaults.get_config().objective
    other = objective.draw(keys, split, 2, 2, law)
    assert not law.rollout and other.t_u is None
    jax.tree.map(np.testing.assert_array_equal, draws.replace(t_u=None), other)
