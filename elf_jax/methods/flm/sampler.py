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
from elf_jax.methods.watching import UNWATCHED

TINY = 1e-5  # in the denominator of the velocity


def euler(predict, y, steps, vocab_size, embed, keep=lambda y: y, start=0.0, view=UNWATCHED):
    """Tokens [B, L] int32 after `steps` calls of the network.

    Args:
      predict: function (y, t) -> read, see `tokens.predictor`.
      y: [B, L, D] float32, x times E at the time `start`; at 0 x is noise.
      steps: number of steps.
      vocab_size: V.
      embed: function from weights [B, c, V] to their product with E, [B, c, D].
      keep: function y -> y that restores the given positions.
      start: the first time.
      view: a `View`; the text of a step is argmax D(z, t).
    """
    times = start + (1 - start) * jnp.linspace(0.0, 1.0, steps + 1)
    gamma = share_of_signal(times, vocab_size)
    shares = (gamma[1:] - gamma[:-1]) / (1 - gamma[:-1] + TINY)

    def at(time):
        return jnp.full(len(y), time)

    def mean(logits):
        return embed(jax.nn.softmax(logits)).astype(y.dtype)

    def step(y, inputs):
        time, share, now = inputs
        read = predict(y, at(time))
        clean = read(mean)
        return keep(y + share * (clean - y)), view.show_likeliest(now, read)

    clock = view.only(lambda: (jnp.arange(steps - 1), times[1:-1]))
    y, shown = jax.lax.scan(step, keep(y), (times[:-2], shares[:-1], clock))
    read = predict(y, at(times[-2]))
    tokens = read(likeliest)
    return view.result(tokens, shown, view.show(steps - 1, 1.0, tokens, view.entropy(read)))


def likeliest(logits):
    """Tokens [B, L] int32 with the largest of the logits [B, L, V]."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
