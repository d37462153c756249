"""ODE and SDE sampling as one scan over any predict(z, t, x_prev) -> x_hat (ELF, arXiv 2605.10938).

An SDE step first adds noise (equation 7 of `flow`) and then takes an Euler step from that point.
With gamma = 0 no noise is added, and the step is an ODE step. The last step is always an ODE step.
The x-prediction of one step is the self-conditioning input of the next step.
"""

import jax
import jax.numpy as jnp

from elf_jax.methods.elf import flow
from elf_jax.methods.elf.predictor import Condition


def sample(
    predict,
    z,
    times,
    *,
    gamma=0.0,
    gamma_schedule="constant",
    noise=None,
    noise_scale=2.0,
    t_eps=0.05,
    condition: Condition | None = None,
    see=None,
):
    """Moves latents from noise to data.

    Args:
      predict: function of z [B, L, C], t [B], x_prev [B, L, C] to the x-prediction [B, L, C].
      z: [B, L, C], the latents at the first time; at t = 0 these are s eps. The positions of the
        condition are overwritten.
      times: [N + 1], increasing to 1; for a start from noise, from 0.
      gamma: strength of the noise that an SDE step adds. With the Python number 0 the sampler is
        the ODE, and no noise is computed. With an array of shape [] noise is always computed.
      gamma_schedule: how gamma changes with time, see `flow.gamma_at`.
      noise: function of the step index (a traced integer, 0 to N - 2) to eps [B, L, C]; not needed
        if gamma is 0.
      noise_scale: s. t_eps: see `flow.velocity`.
      condition: what is given, which stays fixed.
      see: function (index of a step, time after it, x-prediction [B, L, C]) to arrays; None: nobody
        watches.

    Returns:
      [B, L, C], latents at t = 1. With `see` also what it returned of all steps but the last, with
      a first axis [N - 1].

    Raises:
      ValueError: gamma without noise.
    """
    is_sde = isinstance(gamma, jax.Array) or gamma != 0
    if is_sde and noise is None:
        raise ValueError("an SDE sampler (gamma > 0) needs a noise function")

    def restore(latents):
        return latents if condition is None else condition.restore(latents)

    def euler(z, t, t_next, x_prev):
        x_hat = predict(z, jnp.full(z.shape[0], t), x_prev)
        z = z + (t_next - t) * flow.velocity(x_hat, z, t, t_eps)
        return restore(z), restore(x_hat)

    def shown(index, t_next, x_hat):
        return None if see is None else see(index, t_next, x_hat)

    def step(carry, inputs):
        z, x_prev = carry
        index, t, t_next = inputs
        if is_sde:
            strength = flow.gamma_at(t, gamma, gamma_schedule)
            z, t = flow.back_to_noise(z, noise(index), t, t_next, strength, noise_scale)
            z = restore(z)
        z, x_hat = euler(z, t, t_next, x_prev)
        return (z, x_hat), shown(index, t_next, x_hat)

    carry = restore(z), restore(jnp.zeros_like(z))
    steps = jnp.arange(len(times) - 2), times[:-2], times[1:-1]
    (z, x_prev), states = jax.lax.scan(step, carry, steps)
    z, _ = euler(z, times[-2], times[-1], x_prev)
    return z if see is None else (z, states)
