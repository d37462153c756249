"""The predictor of diffusion on embeddings. Its inputs are pairs (x, estimate), each [B, L, d]."""

import jax.numpy as jnp

from elf_jax.methods.cdcd import objective
from elf_jax.methods.tokens.predictor import TokenPredictor


class EmbeddingPredictor(TokenPredictor):
    """A `TokenPredictor` with an `EmbeddingNetwork`. In `predict` and `guided`, the inputs are the
    noisy embeddings x and the estimates of the clean ones. t [B] is the standard deviation of the
    noise. The network sees log t.
    """

    def _hidden(self, params, inputs, t, is_given, *how, **places):
        x, estimate = inputs
        pairs = jnp.concatenate([objective.scaled(x, t, is_given), estimate], axis=-1)
        text = self.embed(params, pairs)
        return super()._hidden(params, text, jnp.log(t), is_given, *how, **places)
