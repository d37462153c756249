"""Intervals of scores over pairs: against a normal approximation, and against sacreBLEU's own."""

import re

import numpy as np
import pytest
import sacrebleu

from elf_jax.evaluation.metrics.bootstrap import interval, is_bound, resampled
from elf_jax.evaluation.metrics.references import bleu, rouge

WORDS = "a b c d e f g h i j".split()


def pairs(count, seed=0):
    """(texts, references): of each word, two of three are right."""
    draw = np.random.default_rng(seed)
    real = [list(draw.choice(WORDS, draw.integers(5, 15))) for _ in range(count)]
    made = [[one if draw.random() < 2 / 3 else "x" for one in words] for words in real]
    return [" ".join(words) for words in made], [" ".join(words) for words in real]


def test_the_interval_of_a_mean():
    """Two standard errors on each side. A quantile of 1,000 draws is off by 0.09 of them."""
    values = np.random.default_rng(0).normal(30, 10, 400)
    drawn = resampled(values[:, None], lambda sums: sums[0] / len(values))
    bounds = interval("score", drawn)
    error = values.std() / 20
    assert bounds["score_low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert bounds["score_high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)


def test_bleu_has_the_interval_of_sacrebleu():
    texts, real = pairs(200)
    found = bleu(texts, real)
    theirs = sacrebleu.BLEU().corpus_score(texts, [real], n_bootstrap=1000).format()
    middle, half = map(float, re.search(r"μ = ([\d.]+) ± ([\d.]+)", theirs).groups())
    assert found["bleu_low"] == pytest.approx(middle - half, abs=0.2 * half)
    assert found["bleu_high"] == pytest.approx(middle + half, abs=0.2 * half)


def test_more_pairs_have_a_narrower_interval():
    def width(count):
        found = rouge(*pairs(count))
        assert found["rouge_l_low"] < found["rouge_l"] < found["rouge_l_high"]
        return found["rouge_l_high"] - found["rouge_l_low"]

    assert width(400) == pytest.approx(width(100) / 2, rel=0.3)


def test_equal_pairs_have_no_interval():
    found = bleu(["a b c d e"] * 5, ["a b c d e"] * 5)
    assert found["bleu_low"] == found["bleu"] == found["bleu_high"] == pytest.approx(100)


def test_the_names_of_bounds():
    assert [is_bound(name) for name in ("bleu_low", "rouge_l_high", "bleu_lowercase")] == [1, 1, 0]
