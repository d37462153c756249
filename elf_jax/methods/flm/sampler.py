"""Euler's method for the flow of FLM (arXiv 2602.16813), on times that are evenly spaced in t.

    z' = z + (g' - g) / (1 - g + 1e-5) (D(z, t) - z)      D the probabilities of the clean tokens
    tokens = argmax D(z, t)                               in the last step, where z' = D

The network sees z E only, with E its table of tokens. Both the steps and the product are linear in
z. So the state of the sampler is y = z E, and no array over the vocabulary is carried on:

    y' = y + (g' - g) / (1 - g + 1e-5) (D E - y)

With the identity for E, y is z. B batch, L length, V vocabulary, D network width.
"""

import jax
import jax.numpy as jnp

from elf_jax.methods.flm.time_map import share_of_signal

TINY = 1e-5  # in the denominator of the velocity


def euler(predict, y, steps, vocab_size, embed, keep=lambda y: y, start=0.0):
    """Tokens [B, L] int32 after `steps` calls of the network.

    Args:
      predict: function (y, t) -> read, see `tokens.predictor`.
      y: [B, L, D] float32, x times E at the time `start`; at 0 x is noise.
      steps: number of steps.
      vocab_size: V.
      embed: function from weights [B, c, V] to their product with E, [B, c, D].
      keep: function y -> y that restores the given positions.
      start: the first time.
    """
    times = start + (1 - start) * jnp.linspace(0.0, 1.0, steps + 1)
    gamma = share_of_signal(times, vocab_size)
    shares = (gamma[1:] - gamma[:-1]) / (1 - gamma[:-1] + TINY)

    def at(time):
        return jnp.full(len(y), time)

    def mean(logits):
        return embed(jax.nn.softmax(logits)).astype(y.dtype)

    def step(y, inputs):
        time, share = inputs
        clean = predict(y, at(time))(mean)
        return keep(y + share * (clean - y)), None

    y, _ = jax.lax.scan(step, keep(y), (times[:-2], shares[:-1]))
    return predict(y, at(times[-2]))(likeliest)


def likeliest(logits):
    """Tokens [B, L] int32 with the largest of the logits [B, L, V]."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
