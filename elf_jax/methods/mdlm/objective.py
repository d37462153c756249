"""Masked diffusion: noise, and the two forms of its loss (MDLM, arXiv 2406.07524, section 3; LLaDA,
arXiv 2502.09992, section 2).

    t in [eps, 1]; a token is masked with probability (1 - eps) t      alpha(t) = 1 - (1 - eps) t
    MDLM:   loss = -log p(x_0) / t at masked positions, 0 at the others
    LLaDA:  the same with the probability of a mask, p_mask = t, in place of both

The mean over all positions of a row, masked or not, is a bound of the negative log-likelihood of
the row (nats a token).

B batch, L length, V vocabulary.
"""

import jax
import jax.numpy as jnp

EPS = 1e-3  # the smallest time, and the share of tokens that stay at t = 1
NEVER = -1e6  # in place of log 0


def time_of(u, eps=EPS):
    """Times in [eps, 1] from uniforms."""
    return (1 - eps) * u + eps


def mask_probability(t, eps=EPS):
    """1 - alpha(t) of MDLM's log-linear schedule."""
    return (1 - eps) * t


def sigma(t, eps=EPS):
    """-log alpha(t), the time that a network with time input sees."""
    return -jnp.log1p(-mask_probability(t, eps))


def subs(logits, z, mask_id):
    """Log-probabilities of the clean tokens [B, L, V]: never the mask, and the token itself where
    it is not masked (MDLM, section 3.2.3).

    Args:
      logits: [B, L, V]; if V > mask_id, one of the columns is that of the mask.
      z: [B, L] integers, tokens with masks.
    """
    if logits.shape[-1] > mask_id:
        logits = logits.at[..., mask_id].add(NEVER)
    log_p = jax.nn.log_softmax(logits)
    kept = jnp.where(jax.nn.one_hot(z, logits.shape[-1], dtype=bool), 0.0, NEVER)
    return jnp.where((z == mask_id)[..., None], log_p, kept)


def masked_loss(logits, x, z, weight, mask_id, only_tokens=True):
    """[B, L]: weight * -log p(x) at masked positions, 0 at the others.

    Args:
      logits: [B, L, V]. x, z: [B, L] integers, clean tokens and tokens with masks.
      weight: [B, L]: 1 / t (MDLM), or 1 / p_mask (LLaDA).
      only_tokens: whether a column of the mask among the logits is left out, as in MDLM.
    """
    if only_tokens and logits.shape[-1] > mask_id:
        logits = logits.at[..., mask_id].add(NEVER)
    right = jnp.take_along_axis(logits, x[..., None], axis=-1)[..., 0]
    cross_entropy = jax.nn.logsumexp(logits, axis=-1) - right
    return jnp.where(z == mask_id, weight * cross_entropy, 0.0)
