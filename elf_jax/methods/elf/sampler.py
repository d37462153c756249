"""ODE and SDE sampling as one scan over any predict(z, t, x_prev) -> x_hat (ELF, arXiv 2605.10938).

An SDE step first goes back towards noise (flow, equation 7) and then takes the Euler step from
there; gamma = 0 goes nowhere and is the ODE. The last step is always an ODE step. The estimate of
one step is the self-condition of the next.
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
    noise=None,
    noise_scale=2.0,
    t_eps=0.05,
    condition: Condition | None = None,
):
    """Carries latents from noise to data.

    Args:
      predict: function of z [B, L, C], t [B], x_prev [B, L, C] to the x-prediction [B, L, C].
      z: [B, L, C], the start, already scaled: s eps. Condition positions are overwritten.
      times: [N + 1], increasing from 0 to 1.
      gamma: how much noise an SDE step puts back. The Python number 0 is the ODE, and computes no
        noise. With an array [] noise is always computed.
      noise: function of the step index (a traced integer, 0 to N - 2) to eps [B, L, C]; not needed
        if gamma is 0.
      noise_scale: s. t_eps: see `flow.velocity`.
      condition: clean prefix that never moves.

    Returns:
      [B, L, C], latents at t = 1.

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

    def step(carry, inputs):
        z, x_prev = carry
        index, t, t_next = inputs
        if is_sde:
            z, t = flow.back_to_noise(z, noise(index), t, t_next, gamma, noise_scale)
            z = restore(z)
        return euler(z, t, t_next, x_prev), None

    carry = restore(z), restore(jnp.zeros_like(z))
    steps = jnp.arange(len(times) - 2), times[:-2], times[1:-1]
    (z, x_prev), _ = jax.lax.scan(step, carry, steps)
    return euler(z, times[-2], times[-1], x_prev)[0]
