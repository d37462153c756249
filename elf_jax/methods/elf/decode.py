"""Latents to tokens, in the last step: one forward pass in decode mode, then argmax."""

import jax.numpy as jnp


def decode_tokens(predictor, params, z, w, rows=None):
    """Token ids [B, L] int32 read off the denoised latents z [B, L, C] in one forward pass
    without CFG.

    Args:
      predictor: a `Predictor`. params: its parameters.
      z: [B, L, C], latents at t = 1.
      w: the self-conditioning guidance scale of sampling.
      rows: rows of one device; None: all.
    """
    hidden = predictor.decode_hidden(params, z, jnp.full(z.shape[0], w, jnp.float32))
    return predictor.likeliest(params, hidden, rows)
