"""Metrics of infilling, on rows small enough to count by hand."""

import numpy as np
import pytest

from elf_jax.evaluation.metrics.infill import exact, most_frequent, rouge_l

TOKENS = np.array([[5, 6, 7, 8], [5, 5, 6, 1], [9, 5, 5, 5]])
IS_HIDDEN = np.array([[0, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 1]], bool)


def test_exact_by_hand():
    written = TOKENS.copy()
    written[0, 2], written[2, 1] = 0, 0  # a hidden token of two of the three rows is wrong
    written[1, 3] = 0  # and one that was not hidden
    numbers = exact(written, TOKENS, IS_HIDDEN)
    assert numbers == {"exact_tokens": pytest.approx(4 / 6), "exact_spans": pytest.approx(1 / 3)}
    assert exact(TOKENS, TOKENS, IS_HIDDEN) == {"exact_tokens": 1.0, "exact_spans": 1.0}
    assert exact(TOKENS + 1, TOKENS, IS_HIDDEN) == {"exact_tokens": 0.0, "exact_spans": 0.0}


def test_the_most_frequent_token():
    assert most_frequent(TOKENS, IS_HIDDEN) == pytest.approx(4 / 6)  # 6 7 | 5 | 5 5 5


def test_rouge_l_of_gaps():
    # Longest common subsequences: "big cat" of 3 and 2 words; all of it.
    value, signature = rouge_l(["big black cat", "dog"], ["big cat", "dog"])
    assert value == pytest.approx(100 * (2 * 2 / (3 + 2) + 1) / 2)
    assert signature.startswith("rouge_score:")
    # ROUGE cannot read the second text, so it does not count.
    assert rouge_l(["big cat", "-"], ["big cat", "-"])[0] == pytest.approx(100)
    assert rouge_l(["x"], ["-"]) == (None, None)
