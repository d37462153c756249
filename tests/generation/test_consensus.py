"""The choice among several samples of one source."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from elf_jax.core import checks
from elf_jax.core.errors import UserError
from elf_jax.generation.consensus import choose
from tests.tiny import tiny_config


def rows(*lists):
    return [np.array(one, np.int32) for one in lists]


def test_the_one_that_most_are_like():
    assert choose(rows([9, 8, 7, 6], [1, 2, 3, 4], [1, 2, 3, 5])) == 1
    assert choose(rows([1, 2, 3, 5], [1, 2, 3, 4], [9, 8, 7, 6], [1, 2, 3, 4])) == 1
    # One that is near to all beats one that has a twin.
    assert choose(rows([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 9], [1, 2, 3, 4, 8, 9])) == 1


def test_ties_and_empty_ones():
    assert choose(rows([1, 2, 3], [4, 5, 6])) == 0
    assert choose(rows([1, 2, 3], [1, 2, 3])) == 0
    assert choose(rows([], [1, 2, 3], [1, 2, 4])) == 1
    assert choose(rows([], [])) == 0
    assert choose(rows([5])) == 0


def test_the_sum_of_sentence_bleu():
    """The definition, in words of letters, with sacreBLEU's own tokens."""
    draws = np.random.default_rng(0).integers(0, 4, (50, 5, 9))
    bleu = BLEU(effective_order=True, tokenize="13a")
    chosen = set()
    for candidates in draws:
        texts = [" ".join("abcd"[token] for token in one) for one in candidates]
        gains = [
            sum(bleu.sentence_score(a, [b]).score for j, b in enumerate(texts) if j != i)
            for i, a in enumerate(texts)
        ]
        chosen.add(choose(list(candidates)))
        assert gains[choose(list(candidates))] == pytest.approx(max(gains))
    assert chosen == set(range(5))


def test_texts_without_a_source_have_no_candidates():
    with pytest.raises(UserError, match="config.sample.candidates is 2, but only samples of the"):
        checks.check(tiny_config(**{"sample.candidates": 2}))
    with pytest.raises(UserError, match="config.sample.candidates is 0; it must be 1 or more"):
        checks.check(tiny_config(**{"sample.candidates": 0}))
