"""ELF's sampler with the exact x-prediction of a toy distribution in place of the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.methods.elf import flow
from elf_jax.methods.elf.sampler import sample
from tests.methods.toy import Toy

TOY = Toy(length=2)
TABLE = jnp.asarray([[1.0, 0.2], [-0.8, 0.9], [-0.3, -1.1]])  # the latents of the tokens
SCALE, STEPS, COUNT = 2.0, 200, 6000


def exact(z, t, x_prev, power=1.0):
    """E[x | z_t], which needs no self-conditioning."""
    del x_prev
    rows = TABLE[TOY.rows]
    t = t[:, None, None, None]
    distance = (z[:, None] - t * rows) ** 2 / (2 * ((1 - t) * SCALE) ** 2 + 1e-9)
    log_p = TOY.posterior(-jnp.sum(distance, axis=(2, 3)))
    return jax.nn.softmax(power * log_p) @ TABLE


def tokens(gamma, power=1.0):
    """Samples [COUNT, L]: the tokens with the nearest latents."""

    def noise(step):
        return jax.random.normal(jax.random.fold_in(jax.random.key(1), step), z.shape)

    def predict(*inputs):
        return exact(*inputs, power)

    z = SCALE * jax.random.normal(jax.random.key(0), (COUNT, TOY.length, 2))
    times = flow.time_grid("uniform", STEPS)
    options = {"gamma": gamma, "noise": noise, "noise_scale": SCALE, "t_eps": 1e-3}
    x = jax.jit(lambda z: sample(predict, z, times, **options))(z)
    return jnp.argmin(jnp.sum((x[:, :, None] - TABLE) ** 2, axis=-1), axis=-1)


def test_samples_of_the_ode_follow_the_distribution():
    assert TOY.p_value(tokens(0.0)) > 0.01
    assert TOY.p_value(tokens(0.0, power=0.8)) < 1e-4


def test_samples_of_the_sde_are_less_varied():
    """The published SDE step puts back less noise than it takes away: z_b has the noise of two
    independent parts, sqrt(p^2 + q^2), where its time t_b says p + q. So more gamma acts like a
    lower temperature, with the exact predictor too.
    """

    def entropy(gamma):
        index = tokens(gamma) @ jnp.array([TOY.vocab_size, 1])
        p = np.bincount(index, minlength=len(TOY.p)) / COUNT
        return -np.sum(p * np.log(np.maximum(p, 1e-9)))

    assert entropy(0.0) == pytest.approx(TOY.entropy, rel=0.03)
    assert entropy(1.0) < entropy(0.5) < 0.95 * TOY.entropy
