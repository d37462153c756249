"""The last step, from latents to tokens: one forward pass in decode mode, then argmax."""

import jax.numpy as jnp


def decode_tokens(predictor, params, z, w, rows=None, never=None, before=None):
    """Token ids [B, L] int32 of the denoised latents z [B, L, C], by one forward pass without
    classifier-free guidance.

    Args:
      predictor: a `Predictor`. params: its parameters.
      z: [B, L, C], latents at t = 1.
      w: the self-conditioning guidance scale of sampling.
      rows: number of rows on one device, which sets the size of the parts that the logits are
        computed in; None: all rows are on one device.
      never: tokens that must not be read, a `Never`; None: there are none.
      before: for a network with blocks, the clean text `Before` z.
    """
    return predictor.likeliest(params, _hidden(predictor, params, z, w, before), rows, never)


def decode_with_entropy(predictor, params, z, w, rows=None, never=None, before=None):
    """(`decode_tokens`, the entropies [B, L] float32 in nats of the distributions that they have
    the largest probability of).
    """
    hidden = _hidden(predictor, params, z, w, before)
    return predictor.likeliest_and_entropy(params, hidden, rows, never)


def _hidden(predictor, params, z, w, before):
    w = jnp.full(z.shape[0], w, jnp.float32)
    return predictor.decode_hidden(params, z, w, before)
