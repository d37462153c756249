"""The sampler: the probability flow with interpolated scores (CDCD, arXiv 2211.15089).

    x = t_max n,   dx / dt = (x - E[e]) / t,   E[e] the mean embedding by the predicted tokens

It is integrated by Euler's method. At the last time the likeliest tokens are read. B batch, L
length, d embedding width.
"""

import jax
import jax.numpy as jnp

from elf_jax.methods.watching import UNWATCHED


def probability_flow(predict, x, times, mean, hold=lambda latents: latents, view=UNWATCHED):
    """Tokens [B, L] int32.

    Args:
      predict: function ((x, estimate), t [B]) -> read, see `tokens.predictor`. The estimate is the
        mean embedding of the step before; before the first step it is zero.
      x: [B, L, d] at the first time. times: [n], decreasing. The network runs n times.
      mean: function from logits [B, c, V] to mean embeddings [B, c, d].
      hold: function from [B, L, d] to the same, with the clean embeddings of given tokens.
      view: a `View`; the text of a step has the likeliest tokens at the beginning of the step.
    """
    rows = len(x)

    def read_at(x, estimate, t):
        return predict((hold(x), estimate), jnp.full(rows, t, x.dtype))

    def step(carry, span):
        x, estimate = carry
        t, after, now = span
        read = read_at(x, estimate, t)
        estimate = hold(read(mean))
        x = x + (after - t) / t * (x - estimate)
        return (x, estimate), view.show_likeliest(now, read)

    carry, last = (x, hold(jnp.zeros_like(x))), len(times) - 1
    clock = view.only(lambda: (jnp.arange(last), times[:-1]))
    (x, estimate), shown = jax.lax.scan(step, carry, (times[:-1], times[1:], clock))
    read = read_at(x, estimate, times[-1])
    tokens = read(lambda logits: jnp.argmax(logits, axis=-1).astype(jnp.int32))
    return view.result(tokens, shown, view.show(last, times[-1], tokens, view.entropy(read)))
