"""The time map against the published one, and against the probability that defines it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.methods.flm.time_map import decodable, share_of_signal
from tests.methods.stub import Group

SIZES = {"V": 11, "32100": 32100, "32128": 32128, "50257": 50257, "50258": 50258}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("x64", [True, False])
def test_published_values(name, x64):
    """The published integral and table are 1e-4 off for large vocabularies."""
    with jax.enable_x64(x64):
        golden, size = Group("flm", "time"), SIZES[name]
        gamma = share_of_signal(golden.t, size)
        assert gamma.dtype == (jnp.float64 if x64 else jnp.float32)
        tolerance = 1e-6 if name == "V" else 1e-4
        assert np.max(np.abs(gamma - golden[f"gamma_of_t_{name}"])) < tolerance
        for kind in ("t_of_gamma", "t_of_gamma_lut"):
            t = decodable(golden["t"], size)
            assert np.max(np.abs(t - golden[f"{kind}_{name}"])) < tolerance


@pytest.mark.parametrize("size", [2, 3, 300, 32100, 250_000])
def test_one_is_the_inverse_of_the_other(size):
    gamma = np.linspace(0, 1, 10_001)
    t = decodable(gamma, size)
    for x64, margin in ((True, 1e-6), (False, 1e-4)):
        inner = (t > margin) & (t < 1 - margin)
        with jax.enable_x64(x64):
            found = np.asarray(share_of_signal(jnp.asarray(t), size))
        assert np.sum(inner) > 1000
        assert np.max(np.abs(found - gamma)[inner]) < 5e-6


@pytest.mark.parametrize("size", [2, 32100])
def test_it_never_decreases_and_has_both_ends(size):
    t = jnp.concatenate([jnp.linspace(0, 1, 10_001), 1 - jnp.logspace(-8, -1, 50)]).sort()
    gamma = jax.jit(lambda t: share_of_signal(t, size))(t)
    assert gamma[0] == 0 and gamma[-1] == 1 and jnp.all(jnp.diff(gamma) >= 0)


def test_it_is_the_share_of_tokens_with_the_largest_entry():
    """By simulation: t V + 1 - t = V P(the token's entry is the largest), rounded from guesses."""
    size, rows, gamma = 20, 100_000, 0.6
    x = (1 - gamma) * np.random.default_rng(0).standard_normal((rows, size))
    x[:, 3] += gamma
    share = np.mean(np.argmax(x, axis=1) == 3)
    t = (size * share - 1) / (size - 1)
    assert abs(decodable(gamma, size) - t) < 4 * 0.5 / rows**0.5
