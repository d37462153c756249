"""The discrete process that the argmax of a Gaussian process is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core.errors import UserError
from elf_jax.methods.duo import objective, transform
from tests.methods.stub import Group, agree

SIZES = {"V": 11, **{str(size): size for size in (30522, 32100, 32128, 50257, 50258)}}


@pytest.mark.parametrize("x64, tolerance", [(True, 1e-7), (False, 1e-5)])
@pytest.mark.parametrize("name", SIZES)
def test_the_integrals(name, x64, tolerance):
    with jax.enable_x64(x64):
        golden, size = Group("duo", "transform"), SIZES[name]
        complement, slope = jax.jit(transform.schedule, static_argnums=1)(golden.gamma, size)
        alpha, theirs = 1 - complement, golden[f"alpha_{name}"]
        assert agree(alpha, theirs, tolerance)
        assert agree(slope, golden[f"dalpha_dgamma_{name}"], tolerance)
        assert agree((alpha * (size - 1) + 1) / size, golden[f"p_{name}"], tolerance)
        assert agree(slope * (size - 1) / size, golden[f"dp_dgamma_{name}"], tolerance)
        # 1 - alpha is precise in relation to itself, as far as the golden numbers tell.
        known = 1 - theirs > 1e-5
        np.testing.assert_allclose(complement[known], (1 - theirs)[known], rtol=1e-4)


def test_the_published_range():
    golden = Group("duo", "transform")
    complement, slope = transform.schedule(golden.owt_gamma, 50258)
    assert agree(1 - complement, golden.owt_alpha_50258, 1e-5)
    assert agree(slope * (3.55 - 1.85), golden.owt_dalpha_dt_50258, 1e-5)
    assert np.allclose(transform.gamma_range(50258), (-3.55, -1.85), atol=5e-3)


@pytest.mark.parametrize("size", [3, 300, 7082, 150_000])
def test_the_range_of_any_vocabulary(size):
    gamma = np.array(transform.gamma_range(size))
    assert np.allclose(1 - transform.schedule(gamma, size)[0], (0.945, 0.049), atol=1e-5)
    transform.check_range(*gamma, size)


@pytest.mark.parametrize("low, high, name", [(-6.0, -2.0, "min"), (-3.0, 5.0, "max")])
def test_a_range_without_noise_or_without_tokens(low, high, name):
    with pytest.raises(UserError, match=f"gamma_{name}.*between -4.2. and "):
        transform.check_range(low, high, 50258)


def test_it_is_the_law_of_the_soft_tokens():
    size, count, gamma = 200, 40_000, -1.5
    x = jnp.arange(count)[None] % size
    noise = jax.random.normal(jax.random.key(0), (1, count, size))
    _, z = objective.soft_tokens(x, noise, jnp.full(x.shape, gamma), 1e-3)
    alpha = 1 - transform.schedule(np.array([gamma]), size, np)[0][0]
    stays = alpha + (1 - alpha) / size
    assert abs(np.mean(z == x) - stays) < 3 * (stays * (1 - stays) / count) ** 0.5
    others = np.bincount(np.asarray((z - x)[z != x]) % size, minlength=size)[1:]
    assert abs(others / others.mean() - 1).max() < 5 / others.mean() ** 0.5
