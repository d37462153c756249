"""The discrete process that the argmax of a Gaussian process is: its alpha and alpha' as functions
of gamma, exact (the diffusion transformation operator; Duo, arXiv 2506.10892, section 3.1).

w = a onehot(x) + s n has its largest entry at x with probability P; mu = a / s = exp(-gamma / 2):

    P = int phi(y - mu) Phi(y)^(V-1) dy         alpha = (V P - 1) / (V - 1)
    1 - alpha = V / (V - 1) int phi(y - mu) (1 - Phi(y)^(V-1)) dy
    d alpha / d gamma = -(mu / 2) V int phi(y - mu) phi(y) Phi(y)^(V-2) dy

The last line is the derivative of the second, integrated by parts. All terms of both integrals are
positive, so float32 loses nothing. phi and Phi are the density and the distribution function of a
standard normal. V vocabulary.
"""

import jax.numpy as jnp
import numpy as np
from scipy import special

from elf_jax.core.errors import UserError

# The trapezoidal rule. Both integrands are smooth and vanish at both ends, so that its error falls
# exponentially: 1e-8 with this step up to V = 200,000. Beyond 9, 1 - Phi is 1e-19.
LIMIT, STEP = 9.0, 1 / 8
KEPT = 0.945, 0.049  # alpha at the ends of the published range of gamma, for V = 50,258
MARGIN = 1e-4  # the least share of tokens that are kept, and that are not: both divide the loss


def schedule(gamma, vocab_size, xp=jnp):
    """(1 - alpha, d alpha / d gamma) of gamma [B].

    Args:
      vocab_size: V. xp: jax.numpy, or numpy.
    """
    at, complement, slope = _rule(vocab_size)
    mu = xp.exp(-gamma / 2)
    density = xp.exp(-((at - mu[:, None]) ** 2) / 2)
    # Not as products of matrices, which accelerators round to 16 bits.
    return xp.sum(density * complement, axis=-1), -mu / 2 * xp.sum(density * slope, axis=-1)


def gamma_range(vocab_size, kept=KEPT):
    """(gamma_min, gamma_max) at which these shares of the tokens are kept, as floats."""
    low, high = np.full(2, -12.0), np.full(2, 12.0)
    for _ in range(60):
        middle = (low + high) / 2
        is_low = 1 - schedule(middle, vocab_size, np)[0] > np.array(kept)
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    return tuple(map(float, low))


def check_range(low, high, vocab_size):
    """Raises UserError if alpha is next to 1 at gamma = low, or next to 0 at gamma = high."""
    complements = schedule(np.array([low, high]), vocab_size, np)[0]
    for name, gamma, noise in zip(("min", "max"), (low, high), complements, strict=True):
        if not MARGIN < noise < 1 - MARGIN:
            lowest, highest = gamma_range(vocab_size, (1 - MARGIN, MARGIN))
            raise UserError(
                f"config.duo.gamma_{name} is {gamma}, where {noise:.4%} of the tokens are noise: "
                f"for {vocab_size} tokens use a range between {lowest:.2f} and {highest:.2f}, or "
                "both 0"
            )


def _rule(vocab_size):
    """(points, weights of phi(y - mu) sqrt(2 pi) in both integrals), NumPy [n] arrays each."""
    y = np.arange(-LIMIT, LIMIT + STEP / 2, STEP)
    log_phi, scale = special.log_ndtr(y), vocab_size * STEP / np.sqrt(2 * np.pi)
    # In float64: Phi^(V-1) would be wrong in the third digit if Phi were rounded to float32.
    complement = -np.expm1((vocab_size - 1) * log_phi) / (vocab_size - 1)
    slope = np.exp(-(y**2) / 2 + (vocab_size - 2) * log_phi) / np.sqrt(2 * np.pi)
    return y, scale * complement, scale * slope
