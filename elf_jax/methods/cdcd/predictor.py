"""The predictor of diffusion on embeddings. Its inputs are pairs (x, estimate), each [B, L, d]."""

import jax.numpy as jnp

from elf_jax.methods.cdcd import objective
from elf_jax.methods.tokens.predictor import TokenPredictor

# The network sees TIME_SCALE * log t. Its sinusoids have periods of 2 pi and more.
TIME_SCALE = 4.0


class EmbeddingPredictor(TokenPredictor):
    """A `TokenPredictor` with an `EmbeddingNetwork`. In `predict` and `guided`, the inputs are the
    noisy embeddings x and the estimates of the clean ones. t [B] is the standard deviation of the
    noise.
    """

    def _hidden(self, params, inputs, t, is_given, is_dropped, dropout_key=None, ids=None):
        x, estimate = inputs
        pairs = jnp.concatenate([objective.scaled(x, t, is_given), estimate], axis=-1)
        text, time = self.embed(params, pairs), TIME_SCALE * jnp.log(t)
        return super()._hidden(params, text, time, is_given, is_dropped, dropout_key, ids)
