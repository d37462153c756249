"""FLM's sampler against whole runs of the published one, and on a distribution that is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.methods.flm import sampler
from elf_jax.methods.flm.time_map import share_of_signal
from elf_jax.methods.tokens.predictor import reading
from tests.methods.stub import Group, agree, stub_logits
from tests.methods.toy import Toy

SIZE = 11


def euler(logits, z, steps, size, **kwargs):
    """The sampler without a network: the table is the identity."""
    return sampler.euler(reading(logits), z, steps, size, lambda weights: weights, **kwargs)


@pytest.mark.parametrize("steps", [1, 4, 8])
@pytest.mark.parametrize("x64", [True, False])
def test_published_runs(steps, x64):
    with jax.enable_x64(x64):
        golden, net = Group("flm", f"run_euler{steps}"), Group("flm", "net")
        seen = []

        def logits(z, t):
            jax.debug.callback(lambda *inputs: seen.append(inputs), z, t, ordered=True)
            return stub_logits(net, z, t)

        tokens = euler(logits, golden.z0, steps, SIZE)
        jax.effects_barrier()
        z, t = (np.stack(parts) for parts in zip(*seen, strict=True))
        # The published time map is a spline, 2e-7 off.
        assert agree(z, golden.z_to_network, 1e-6 if x64 else 1e-5)
        assert agree(t, golden.t_to_network, 1e-6)
        assert tokens.dtype == jnp.int32 and (tokens == golden.tokens).all()


def exact(toy):
    """Logits of the exact posterior of a toy distribution, given x at time t."""
    onehot = jax.nn.one_hot(toy.rows, toy.vocab_size)

    def logits(x, t):
        gamma = share_of_signal(t, toy.vocab_size)[:, None]
        likelihood = gamma / (1 - gamma) ** 2 * jnp.einsum("blv,rlv->br", x, onehot)
        return toy.posterior(likelihood)

    return logits


def draw(toy, steps, count=20_000):
    noise = jax.random.normal(jax.random.key(0), (count, toy.length, toy.vocab_size))
    return jax.jit(lambda z: euler(exact(toy), z, steps, toy.vocab_size))(noise)


def test_samples_follow_the_distribution():
    toy = Toy()
    assert toy.p_value(draw(toy, 64)) > 0.01
    assert toy.p_value(draw(toy, 4)) < 1e-6


def test_another_time_map_does_not(monkeypatch):
    monkeypatch.setattr(sampler, "share_of_signal", lambda t, size: t)
    toy = Toy()
    assert toy.p_value(draw(toy, 64)) < 1e-6


def test_given_tokens_steer_the_others():
    """The first position is given, so the others follow the distribution under this condition."""
    toy = Toy()
    is_given = jnp.arange(toy.length)[:, None] == 0
    clean = jax.nn.one_hot(jnp.array([2, 0, 0]), toy.vocab_size)
    given = toy.rows[:, 0] == 2

    def logits(x, t):
        gamma = share_of_signal(t, toy.vocab_size)[:, None]
        onehot = jax.nn.one_hot(toy.rows[:, 1:], toy.vocab_size)
        likelihood = gamma / (1 - gamma) ** 2 * jnp.einsum("blv,rlv->br", x[:, 1:], onehot)
        return toy.posterior(jnp.where(given, likelihood, -jnp.inf))

    z = jax.random.normal(jax.random.key(0), (20_000, toy.length, toy.vocab_size))

    def keep(z):
        return jnp.where(is_given, clean, z)

    tokens = jax.jit(lambda z: euler(logits, z, 64, toy.vocab_size, keep=keep))(z)
    counts = np.bincount(np.asarray(tokens[:, 1] * 3 + tokens[:, 2]), minlength=9)
    expected = toy.p[given] / toy.p[given].sum() * len(z)
    assert (tokens[:, 0] == 2).all()
    assert np.sum((counts - expected) ** 2 / expected) < 26.1  # chi-square, 8 degrees, p 0.001
