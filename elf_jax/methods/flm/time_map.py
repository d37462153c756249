"""The clock of FLM (arXiv 2602.16813): time as the share of tokens that can be told from the noise.

    x = (1 - g) noise + g onehot(token)       g is the share of the signal
    t(g) = V / (V - 1) (Q - 1 / V)            Q = E_z Phi(z + g / (1 - g))^(V - 1)

Q is the probability that the largest entry of x is that of the token: z is the noise there, and
each of the other V - 1 entries is smaller with probability Phi. So t goes from 0 (a guess) to 1. A
large vocabulary needs much signal: with V = 32100, t = 0.01 at g = 0.63 and t = 0.99 at g = 0.87.
"""

import functools

import jax.numpy as jnp
import numpy as np
from scipy.special import log_ndtr

KNOTS = 4096
# Where the integral is computed. A normal has no mass that matters outside of it.
GRID = np.linspace(-10, 10, 1001)


def decodable(gamma, vocab_size):
    """t(g) of gamma [...] in [0, 1], in float64 with numpy. V must be 2 or more.

    The integral is 1 - Q = int phi(x - g / (1 - g)) (1 - Phi(x)^(V - 1)) dx, so nothing cancels
    near t = 1. The trapezoid rule is exact for it to about 1e-12.
    """
    gamma = np.asarray(gamma, np.float64)
    mean = gamma / np.maximum(1 - gamma, 1e-9)
    missed = -np.expm1((vocab_size - 1) * log_ndtr(GRID))
    density = np.exp(-0.5 * (GRID - mean[..., None]) ** 2) / np.sqrt(2 * np.pi)
    wrong = np.sum(density * missed, axis=-1) * (GRID[1] - GRID[0])
    return np.clip(1 - vocab_size / (vocab_size - 1) * wrong, 0.0, 1.0)


@functools.cache
def _knots(vocab_size):
    """(t, gamma), increasing, float64, from (0, 0) to (1, 1). The t differ in float32, too."""
    gamma = np.linspace(0, 1, KNOTS)
    t = np.maximum.accumulate(decodable(gamma, vocab_size))
    t[0], t[-1] = 0.0, 1.0
    single = t.astype(np.float32)
    is_new = np.concatenate([[True], (single[1:] > single[:-1]) & (single[1:] < 1)])
    is_new[-1] = True
    return t[is_new], gamma[is_new]


def share_of_signal(t, vocab_size):
    """gamma(t), the inverse of `decodable`: [...] of times [...] in [0, 1].

    It is linear between knots and never decreases. For t in [1e-6, 1 - 1e-6] it is within 5e-6 of
    the exact inverse, in float32 up to 1 - 1e-4. Closer to 1 the inverse is so steep that rounding
    t to float32 changes it by more.
    """
    times, gammas = _knots(vocab_size)
    return jnp.interp(t, jnp.asarray(times), jnp.asarray(gammas))


def time_of(gamma, vocab_size):
    """t(g), `decodable` as the inverse of `share_of_signal`: [...] of gamma [...] in [0, 1]."""
    times, gammas = _knots(vocab_size)
    return jnp.interp(gamma, jnp.asarray(gammas), jnp.asarray(times))
