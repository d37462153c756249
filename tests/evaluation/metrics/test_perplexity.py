"""The tokens that are scored, and their perplexity."""

import math

import numpy as np
import pytest

from elf_jax.evaluation.metrics.perplexity import perplexity, scored_tokens

EOS = 9


@pytest.mark.parametrize(
    "ids, seen",
    [
        ([1, 2], [1, 2, EOS]),  # EOS is scored too
        ([1, 2, EOS, 3, EOS], [1, 2, EOS]),  # tokens after the first EOS are not scored
        ([1, 2, 3, 4], [1, 2, 3, 4]),  # no room for EOS
        ([1, 2, 3, 4, 5], [1, 2, 3, 4]),
        ([], []),
        ([EOS, 1], []),
    ],
)
def test_scored_tokens(ids, seen):
    np.testing.assert_array_equal(scored_tokens(ids, EOS, length=4), seen)


def test_perplexity_weighs_tokens_not_samples():
    # One token has probability 1/2 and three tokens have 1/4: the geometric mean of all four.
    nll = [math.log(2), 3 * math.log(4)]
    assert perplexity(nll, [1, 3]) == pytest.approx((2 * 4**3) ** 0.25)
    assert perplexity([], []) is None
    assert perplexity([0.0], [0]) is None
