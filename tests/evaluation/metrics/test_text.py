"""Numbers about texts, on texts small enough to count by hand."""

import math

import pytest

from elf_jax.evaluation.metrics import text


def test_unigram_entropy_is_per_sample_in_nats():
    assert text.unigram_entropy([[1, 2], [3, 3], []]) == pytest.approx(math.log(2) / 2)
    assert text.unigram_entropy([[1, 1, 2]]) == pytest.approx(math.log(3) - 2 / 3 * math.log(2))
    assert text.unigram_entropy([]) == 0


def test_membership_counts_unseen_texts_apart():
    found = text.membership(["a", "b", "c", "a"], train=["a", "x"], held_out=["b", "y"])
    assert found == {"valid": 0.75, "held_out": 0.25}
    both = text.membership(["a"], train=["a"], held_out=["a"])
    assert both == {"valid": 1.0, "held_out": 0.0}


def test_repeated():
    assert text.repeated([[1, 1, 2, 2, 2], [3], [], [4, 5]]) == 3 / 5
    assert text.repeated([[1, 2, 1, 2]]) == text.repeated([[7]]) == text.repeated([]) == 0


def test_distinct_and_exact_match():
    assert text.distinct(["a", "b", "a", "a"]) == 0.5
    assert text.exact_match(["a", "b"], ["a", "c"]) == 0.5


def test_repetition_is_within_a_sample():
    repeats = [1, 2, 3, 4, 1, 2, 3, 4]  # 5 four-grams, 4 of them different
    assert text.seq_rep([repeats]) == pytest.approx(0.2)
    assert text.seq_rep([repeats, [1, 2, 3, 4, 5], [1, 1]]) == pytest.approx(0.1)
    assert text.seq_rep([[7, 7, 7]], n=1) == pytest.approx(2 / 3)
    assert text.seq_rep([[1, 2, 3]]) == 0


def test_distinct_ngrams_are_of_all_samples_together():
    rows = [[1, 2, 1], [1, 2], []]
    assert text.distinct_ngrams(rows, 1) == pytest.approx(2 / 5)
    assert text.distinct_ngrams(rows, 2) == pytest.approx(2 / 3)
    assert text.distinct_ngrams(rows, 4) == 0
    numbers = text.diversity(rows, orders=(1, 3))
    assert numbers["distinct_1"] == pytest.approx(2 / 5) and numbers["distinct_3"] == 1
    assert set(numbers) == {"entropy", "seq_rep_4", "distinct_1", "distinct_3"}
