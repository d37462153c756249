"""The flow: its path, x-prediction and velocity, the distributions of its random scalars, and time
grids. Pure mathematics.

Convention, used everywhere: t = 0 is noise, t = 1 is data. With clean latents x, noise eps ~ N(0,
I) and noise scale s:

    (1)  z_t = t x + (1 - t) s eps                              the path
    (2)  v   = (x - z_t) / max(1 - t, t_eps)                    velocity of an x-prediction
    (3)  t   = sigmoid(m + d n),  n ~ N(0, 1)                   t is logit-normal; so is lambda
    (4)  w   = (1 + a) ((1 + b) / (1 + a))^u - 1,  u ~ U[0, 1]  log(1 + w) is uniform
    (5)  v*  = v + (1 - 1/w) (v_c - v_u)                        target with guidance folded in
    (6)  g   = g_u + c (g_c - g_u)                              classifier-free guidance
    (7)  z_b = a z + (1 - a) s eps,  t_b = a t,                 back towards noise, before the
         a   = clip(1 - gamma (t' - t), 0, 1)                   step of an SDE sampler
    (8)  gamma(t) = gamma, or gamma (1 - t)                     strength of that noise

Source: ELF, arXiv 2605.10938; its path and x-prediction follow JiT, arXiv 2511.13720. The scalars
t and w are [B], or [B, L] if each position has its own value; latents are [B, L, C].
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

TIME_GRIDS = ("uniform", "logit_normal", "logit_normal_quantile")
GAMMA_SCHEDULES = ("constant", "linear")


def expand(scalar, latents):
    """Appends axes to `scalar` ([B], [B, L] or []) until it can be broadcast to `latents`."""
    scalar = jnp.asarray(scalar)
    return scalar.reshape(scalar.shape + (1,) * (latents.ndim - scalar.ndim))


def interpolate(x, eps, t, noise_scale):
    """Equation (1): latents at time t, [B, L, C]."""
    t = expand(t, x)
    return t * x + (1 - t) * noise_scale * eps


def velocity(x, z, t, t_eps):
    """Equation (2): the velocity at (z, t) that leads to x, [B, L, C]."""
    return (x - z) / jnp.maximum(1 - expand(t, z), t_eps)


def logit_normal(normal, mean, std):
    """Equation (3): logit-normal values in (0, 1) from standard normals of any shape."""
    return jax.nn.sigmoid(mean + std * normal)


def guidance_law(uniform, low, high):
    """Equation (4): guidance scales in [low, high] from uniforms on [0, 1)."""
    return (1 + low) * ((1 + high) / (1 + low)) ** uniform - 1


def guided_target(v, v_cond, v_uncond, w):
    """Equation (5): the velocity target of a self-conditioned example; w = 1 gives v itself."""
    return v + (1 - 1 / expand(w, v)) * (v_cond - v_uncond)


def guide(cond, uncond, scale):
    """Equation (6): classifier-free guidance. Scale 1 gives the conditional prediction, scale 0 the
    unconditional one.
    """
    return uncond + scale * (cond - uncond)


def back_to_noise(z, eps, t, t_next, gamma, noise_scale):
    """Equation (7): (z_b, t_b), the noisier point at which an SDE step evaluates the velocity."""
    a = jnp.clip(1 - gamma * (t_next - t), 0, 1)
    return a * z + (1 - a) * noise_scale * eps, a * t


def gamma_at(t, gamma, schedule):
    """Equation (8): the strength of the noise of an SDE step that begins at time t.

    Args:
      t: times. gamma: the strength at t = 0.
      schedule: "constant", as published, or "linear": it falls to 0 at the data. With gamma = 2
        that is 2 (1 - t), which the authors' second release reports as better at 32 steps.

    Raises:
      ValueError: an unknown schedule.
    """
    if schedule not in GAMMA_SCHEDULES:
        raise ValueError(f"no schedule {schedule!r}: use one of {', '.join(GAMMA_SCHEDULES)}")
    return gamma if schedule == "constant" else gamma * (1 - t)


def remaining(times, t0):
    """A time grid from 0 to 1, squeezed into the time from t0 to 1."""
    return t0 + (1 - t0) * times


def time_grid(kind, steps, mean=-1.5, std=0.8, key=None):
    """Increasing times from 0 to 1, [steps + 1] float32.

    Args:
      kind: "uniform"; "logit_normal": steps - 1 sorted random draws from distribution (3), the
        reference's grid, needs `key`; "logit_normal_quantile": evenly spaced quantiles of
        distribution (3), without randomness.
      steps: N >= 1, the number of steps.
      mean, std: m and d of distribution (3), which the times of training also have.
      key: JAX key for the random grid.

    Raises:
      ValueError: an unknown kind, fewer than one step, or a random grid without a key.
    """
    if steps < 1:
        raise ValueError(f"a time grid needs at least 1 step, not {steps}")
    if kind == "uniform":
        return jnp.linspace(0.0, 1.0, steps + 1)
    if kind == "logit_normal":
        if key is None:
            raise ValueError("the logit_normal time grid is random and needs a key")
        inner = jnp.sort(logit_normal(jax.random.normal(key, (steps - 1,)), mean, std))
    elif kind == "logit_normal_quantile":
        inner = logit_normal(ndtri(jnp.arange(1, steps) / np.float32(steps)), mean, std)
    else:
        raise ValueError(f"unknown time grid {kind!r}; known are {', '.join(TIME_GRIDS)}")
    return jnp.concatenate([jnp.zeros(1), inner, jnp.ones(1)])
