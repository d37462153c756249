"""Which tokens are scored, and what they come to."""

import math

import numpy as np
import pytest

from elf_jax.evaluation.metrics.perplexity import perplexity, scored_tokens

EOS = 9


@pytest.mark.parametrize(
    "ids, seen",
    [
        ([1, 2], [1, 2, EOS]),  # the end is scored too
        ([1, 2, EOS, 3, EOS], [1, 2, EOS]),  # and nothing after the first one
        ([1, 2, 3, 4], [1, 2, 3, 4]),  # where there is room for it
        ([1, 2, 3, 4, 5], [1, 2, 3, 4]),
        ([], []),
        ([EOS, 1], []),
    ],
)
def test_scored_tokens(ids, seen):
    np.testing.assert_array_equal(scored_tokens(ids, EOS, length=4), seen)


def test_perplexity_weighs_tokens_not_samples():
    # 1 token at 1/2, 3 tokens at 1/4 each: the geometric mean of all four.
    nll = [math.log(2), 3 * math.log(4)]
    assert perplexity(nll, [1, 3]) == pytest.approx((2 * 4**3) ** 0.25)
    assert perplexity([], []) is None
    assert perplexity([0.0], [0]) is None
