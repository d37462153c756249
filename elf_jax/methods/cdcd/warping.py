"""Time warping: the learned law of the training times (CDCD, arXiv 2211.15089).

F(t) is an estimate of the cross-entropy at time t. It is piecewise linear and increasing, with n
bins between time_min and time_max:

    widths  = softmax(l_t) + 1e-3, times a factor so that they fill the range
    heights = exp(l_u) + 1e-3
    fit     = 1e-5 / F'(t) * (F(t) - cross-entropy)^2
    t       = F^-1(u F(time_max)),  u uniform on [0, 1)

So many times are drawn where the cross-entropy rises fast. The factor 1 / F' undoes that in the
fit. It is a constant for the gradient: otherwise F would become steep where the cross-entropies of
the rows differ most.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp

LEAST = 1e-3  # added to widths and heights
FIT_WEIGHT = 1e-5


@flax.struct.dataclass
class Warp:
    """F: the bin edges, times [n + 1] and values [n + 1] of F there. Both increase."""

    times: jax.Array
    values: jax.Array


def new_params(bins, vocab_size):
    """{"times": l_t, "heights": l_u}, each [bins] float32: F is a straight line from 0 to log V,
    the cross-entropy of a network that knows nothing.
    """
    height = max(math.log(max(vocab_size, 2)) / bins - LEAST, LEAST)
    return {
        "times": jnp.zeros(bins, jnp.float32),
        "heights": jnp.full(bins, math.log(height), jnp.float32),
    }


def make(params, time_min, time_max):
    """The `Warp` of {"times": l_t, "heights": l_u}, each [n], on a range of times."""
    widths = jax.nn.softmax(params["times"]) + LEAST
    widths = widths / jnp.sum(widths) * (time_max - time_min)
    heights = jnp.exp(params["heights"]) + LEAST
    return Warp(
        times=time_min + jnp.pad(jnp.cumsum(widths), (1, 0)),
        values=jnp.pad(jnp.cumsum(heights), (1, 0)),
    )


def cross_entropy(warp, t):
    """(F(t), F'(t)), each shaped like t."""
    index = _bin(warp.times, t)
    slope = _slopes(warp)[index]
    return warp.values[index] + slope * (t - warp.times[index]), slope


def time_of(warp, u):
    """F^-1(u F(time_max)) for u in [0, 1]: u = 0 is time_min and u = 1 is time_max."""
    value = u * warp.values[-1]
    index = _bin(warp.values, value)
    t = warp.times[index] + (value - warp.values[index]) / _slopes(warp)[index]
    return jnp.clip(t, warp.times[0], warp.times[-1])


def fit_loss(warp, t, measured):
    """The loss of F for each row.

    Args:
      warp: a `Warp`. t: [B], times. measured: [B], mean cross-entropies of the rows at these times
        (nats per token). There is no gradient into either.

    Returns:
      [B].
    """
    value, slope = cross_entropy(warp, jax.lax.stop_gradient(t))
    slope, measured = jax.lax.stop_gradient((slope, measured))
    return FIT_WEIGHT / slope * (value - measured) ** 2


def _bin(edges, x):
    """The index of the bin of each x among increasing edges [n + 1]."""
    return jnp.sum(edges[1:-1] <= x[..., None], axis=-1)


def _slopes(warp):
    return jnp.diff(warp.values) / jnp.diff(warp.times)
