"""Numbers about texts, on texts small enough to count by hand."""

import math

import pytest

from elf_jax.metrics import text


def test_unigram_entropy_is_per_sample_in_nats():
    assert text.unigram_entropy([[1, 2], [3, 3], []]) == pytest.approx(math.log(2) / 2)
    assert text.unigram_entropy([[1, 1, 2]]) == pytest.approx(math.log(3) - 2 / 3 * math.log(2))
    assert text.unigram_entropy([]) == 0


def test_membership_counts_unseen_texts_apart():
    found = text.membership(["a", "b", "c", "a"], train=["a", "x"], held_out=["b", "y"])
    assert found == {"valid": 0.75, "held_out": 0.25}
    both = text.membership(["a"], train=["a"], held_out=["a"])
    assert both == {"valid": 1.0, "held_out": 0.0}


def test_distinct_and_exact_match():
    assert text.distinct(["a", "b", "a", "a"]) == 0.5
    assert text.exact_match(["a", "b"], ["a", "c"]) == 0.5
