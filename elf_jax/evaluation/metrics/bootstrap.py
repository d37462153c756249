"""How far a score of a set of pairs would move with other pairs of the same kind: the bootstrap
(Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation").

The pairs are drawn anew, as many as there are, with replacement, and scored again. Where 95% of
such scores lie is the interval. All sets of N pairs are drawn anew in the same way. So for two
models on the same pairs the difference of their scores has an interval too, which is narrower: what
is hard for one is hard for the other.
"""

import numpy as np

RESAMPLES = 1000
SHARE = 95  # percent of the scores that lie inside
BOUNDS = ("low", "high")
STATEMENT = f"{SHARE}%, bootstrap over the pairs, {RESAMPLES:,} resamples"


def resampled(statistics, score):
    """The scores of all sets of pairs that are drawn anew, [RESAMPLES].

    Args:
      statistics: [N, K] array, what the score adds up of each of N pairs.
      score: function of the sum [K] of the statistics of N pairs to the score.
    """
    draws, count = np.random.default_rng(0), len(statistics)
    even = np.full(count, 1 / count)
    sets = (draws.multinomial(count, even) for _ in range(RESAMPLES))
    return np.array([score(often @ statistics) for often in sets])


def interval(name, scores):
    """The bounds of a score, a dict of NAME_low and NAME_high.

    Args:
      name: of the score. scores: see `resampled`.
    """
    outside = (100 - SHARE) / 2
    bounds = np.percentile(scores, (outside, 100 - outside))
    return {key: float(bound) for key, bound in zip(names(name), bounds, strict=True)}


def names(name):
    """The names of the bounds of a score."""
    return [f"{name}_{bound}" for bound in BOUNDS]


def is_bound(name):
    """Whether this is the name of a bound."""
    return name.endswith(tuple(f"_{bound}" for bound in BOUNDS))
