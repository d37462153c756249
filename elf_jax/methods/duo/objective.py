"""Uniform-state diffusion: noise, soft tokens, and the exact loss.

Source: Duo, arXiv 2506.10892, sections 2 and 3; the loss is that of UDLM, arXiv 2412.10193.

    z = x with probability alpha, else a uniform token            alpha(t) = 1 - (1 - eps) t
    soft tokens:  w = a onehot(x) + s n,   z = argmax w,   the network sees softmax(w / tau)
                  a = sqrt(sigmoid(-gamma)),   s = sqrt(sigmoid(gamma)),   n standard normal

The mean of the loss over times and positions bounds the negative log-likelihood (nats a token),
where the network sees z. The soft tokens tell it more than z does; then the loss is no bound.
The loss is least, and the bound exact, where p at a position is the distribution of x given the
other tokens of z: what z itself tells of x is in the formulas already.

B batch, L length, V vocabulary.
"""

import jax
import jax.numpy as jnp

SMALLEST = 1e-6  # far below 1 - alpha at the smallest time


def noisy(x, u, tokens, complement):
    """Tokens after the noise: `tokens` where u < 1 - alpha, else x.

    Args:
      x, tokens: [B, L] integers, clean and uniform. u: [B, L], uniforms.
      complement: [B], 1 - alpha.
    """
    return jnp.where(u < complement[:, None], tokens, x)


def soft_tokens(x, noise, gamma, temperature):
    """(the soft tokens [B, L, V], z [B, L] int32) at the log of noise over signal, gamma [B, L].

    Args:
      x: [B, L] integers, clean. noise: [B, L, V], standard normal. temperature: tau.
    """
    a, s = (jnp.sqrt(jax.nn.sigmoid(sign * gamma))[..., None] for sign in (-1, 1))
    w = a * jax.nn.one_hot(x, noise.shape[-1], dtype=noise.dtype) + s * noise
    return jax.nn.softmax(w / temperature), jnp.argmax(w, axis=-1).astype(jnp.int32)


def uniform_loss(logits, x, z, complement, slope):
    """The loss of each position, [B, L] in nats.

    With xbar = V alpha onehot(x) + 1 - alpha, and xbar_th the same for the probabilities p of the
    logits in place of onehot(x), it is

        alpha' / (V alpha) [ V / xbar_z - V / xbar_th_z
                             - sum_j xbar_j / xbar_z log((xbar_th_z xbar_j) / (xbar_th_j xbar_z)) ]

    All terms of the sum with j other than x have the same factors, so it needs nothing of the size
    of the vocabulary but sum_j log xbar_th_j. Everything is divided by 1 - alpha: with
    odds c = V alpha / (1 - alpha), log(xbar_th_j / (1 - alpha)) = log1p(c p_j), which is precise
    also near t = 0, where c is huge.

    Args:
      logits: [B, L, V]. x, z: [B, L] integers, clean tokens and tokens with noise.
      complement: [B, L], 1 - alpha. It is not computed from alpha, which is close to 1 at the
        smallest times. slope: [B, L], alpha', the derivative by time.
    """
    # 1 - alpha is 0 where a position only fills up a part, see `vocabulary.in_parts`.
    complement = jnp.maximum(complement, SMALLEST)
    size, alpha = logits.shape[-1], 1 - complement
    c = size * alpha / complement
    log_p = jax.nn.log_softmax(logits)
    gains = jnp.log1p(c[..., None] * jnp.exp(log_p))
    total = jnp.sum(gains, axis=-1)

    def at(tokens, values):
        return jnp.take_along_axis(values, tokens[..., None], axis=-1)[..., 0]

    gain_x, gain_z, log_p_x, log_p_z = at(x, gains), at(z, gains), at(x, log_p), at(z, log_p)
    log_c, p_z = jnp.log1p(c), jnp.exp(log_p_z)
    # log((1 + c) / (1 + c p_x)); as a difference it would lose a small 1 - p_x.
    is_likely = log_p_x > -0.5
    missing = jnp.where(is_likely, c / (1 + c) * -jnp.expm1(log_p_x), 0.0)
    lost = jnp.where(is_likely, -jnp.log1p(-missing), log_c - gain_x)
    # V / xbar_z - V / xbar_th_z, times (1 - alpha) / V; then the rest of the bracket.
    kept = c * jnp.expm1(log_p_z) / ((1 + c) * (1 + c * p_z))
    kept_rest = (total - gain_z + (size - 1) * (log_c - gain_z)) / (1 + c)
    moved = c * p_z / (1 + c * p_z)
    moved_rest = total - gain_x - (size + c) * gain_z - (1 + c) * lost
    is_kept = z == x
    ratio, rest = jnp.where(is_kept, kept, moved), jnp.where(is_kept, kept_rest, moved_rest)
    return slope / alpha * (ratio / complement + rest / size)
