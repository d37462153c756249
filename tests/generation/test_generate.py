"""Sampled rows of tokens, cut to the tokens of the text."""

import numpy as np

from elf_jax.generation.generate import cut


def test_cut_drops_the_condition_and_stops_at_the_first_eos():
    tokens = np.array([[1, 5, 6, 1, 7, 1], [5, 6, 7, 8, 9, 2], [1, 5, 6, 7, 8, 9]])
    is_cond = np.zeros((3, 6), bool)
    is_cond[0, 0] = True
    rows = [list(row) for row in cut(tokens, eos_id=1, is_cond=is_cond)]
    assert rows == [[5, 6], [5, 6, 7, 8, 9, 2], []]
    assert [list(row) for row in cut(tokens, eos_id=1)][0] == []
