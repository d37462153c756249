"""Latents to tokens, in the last step: decode mode, argmax, the EOS rule."""

import jax.numpy as jnp
import numpy as np


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


def cut(tokens, eos_id, is_cond=None):
    """The sampled tokens of each row, up to its first EOS (not included).

    Args:
      tokens: [B, L] integers.
      eos_id: id of the end-of-sequence token.
      is_cond: [B, L] bool, positions of the condition, dropped before the EOS rule; or None.

    Returns:
      A list of B integer arrays.
    """
    rows = []
    for index, row in enumerate(np.asarray(tokens)):
        if is_cond is not None:
            row = row[~np.asarray(is_cond[index])]
        ends = np.flatnonzero(row == eos_id)
        rows.append(row[: ends[0]] if len(ends) else row)
    return rows
