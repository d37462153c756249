"""The moving average of the parameters: its decay, and how much of the first weights is left in it.

    average_0 = the first weights
    average_{n+1} = d_n average_n + (1 - d_n) params_{n+1}
    d_n = decay                              without warm-up (the paper, arXiv 2605.10938)
    d_n = min(decay, (1 + n) / (10 + n))     with warm-up

n is the number of finished steps. So after N steps the first weights have the share d_0 ... d_{N-1}
in the average. In a short training with a large decay that is nearly everything; with warm-up it is
0.1 after the first step and soon nothing.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

LARGE_SHARE = 0.1  # with more of the first weights, samples of the average are poor


def decay_at(step, decay, warmup):
    """d_n.

    Args:
      step: n, int32 scalar (traced or not).
      decay: config.optimizer.ema. warmup: config.optimizer.ema_warmup.
    """
    if not warmup:
        return decay
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def share_of_first(steps, decay, warmup):
    """The share of the first weights in the average after a number of steps, 0 to 1."""
    n = np.arange(steps)
    warming = (1.0 + n) / (10.0 + n) if warmup else np.ones(steps)
    return float(np.prod(np.minimum(decay, warming)))


def warn_of_first_weights(config, step):
    """Prints a line to stderr, once in a program, if the weights to sample from are the averaged
    ones and these still hold more than LARGE_SHARE of the first weights.

    Args:
      config: whole config, with the training's section `optimizer`. step: of the checkpoint; 0 if
        it is not known.
    """
    settings = config.optimizer
    share = share_of_first(step, settings.ema, settings.ema_warmup)
    if config.sample.weights == "ema" and step and share > LARGE_SHARE:
        _print_once(
            f"warning: the averaged weights of step {step:,} still hold {share:.0%} of the weights "
            f"that the training started from (config.optimizer.ema={settings.ema}): --weights=live "
            "takes the last ones instead"
        )


@functools.cache
def _print_once(line):
    if jax.process_index() == 0:
        print(line, file=sys.stderr)
