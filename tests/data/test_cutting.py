"""Cutting long text: the best end there is, nothing lost, no character taken apart."""

import re

import pytest

from elf_jax.data.cutting import cut, cut_runs, last_cut

WORD = "abcde "


def sizes(pieces):
    return [len(piece) for piece in pieces]


@pytest.mark.parametrize(
    "end", ["\n\n", "\n", "\u2028", ". ", '." ', "? ", "。", "！」", "।", " ", "\t"]
)
def test_a_piece_ends_at_the_best_end(end):
    worse = {"\n\n": "\n", "\n": ". ", "\u2028": ". "}.get(end, "-" if end.isspace() else " ")
    unit = f"xx{worse}" * 8 + "y" + end
    assert cut(9 * unit, 20, 60) == [unit] * 9
    assert last_cut((9 * unit)[:-1]) == 8 * len(unit)


def test_pieces_have_the_sizes_that_are_asked_for():
    for text in ("x" * 1000, WORD * 200, "x" * 500 + WORD * 50 + "\n" + "y" * 300, "x\n" * 500):
        pieces = cut(text, 20, 60)
        assert "".join(pieces) == text
        assert 20 <= min(sizes(pieces)) and max(sizes(pieces)) <= 60
    assert cut("x" * 39, 20, 60) == ["x" * 39] and cut("", 20, 60) == [""]
    # Where one kind of end is too far away, the next kind is taken, and the first again later.
    text = "a b " * 30 + "c.\n" + "d" * 30 + "\n" + "e" * 25 + "\n"
    *first, line, second, third = cut(text, 20, 60)
    assert (line[-3:], second, third) == ("c.\n", "d" * 30 + "\n", "e" * 25 + "\n")
    assert all(piece.endswith(" ") and len(piece) <= 22 for piece in first)


def test_no_character_is_taken_apart():
    family = "\U0001f469\u200d\U0001f469\u200d\U0001f467"
    for unit in ("e\u0301", "\u0915\u093f", family, "\U0001f44d\U0001f3fd", "\u2764\ufe0f"):
        text = unit * 200
        pieces = cut(text, 20, 60)
        assert "".join(pieces) == text and len(pieces) >= len(text) // 60
        assert all(len(piece) % len(unit) == 0 for piece in pieces), ascii(unit)
        assert last_cut(text) % len(unit) == 0
    endless = "e" + "\u0301" * 500  # no place is good: then any place
    assert "".join(cut(endless, 20, 60)) == endless and max(sizes(cut(endless, 20, 60))) <= 60
    assert last_cut(endless) == len(endless)


def longest_run(text):
    return max((len(run) for run in re.findall(r"[^\W\d_]+|\d+|[^\w\s]+|\s+", text)), default=0)


def test_long_runs_are_cut_and_others_are_not():
    ordinary = [WORD * 50, "x" * 64 + " " + "-" * 64 + "1" * 64 + " " * 64, "", "，字" * 500]
    for text in ordinary:
        assert list(cut_runs(text, 64)) == [text]
    for unit in ("G", "字", "7", "=", " "):
        for before in range(0, 100, 7):
            text = "ab, " * before + unit * 1000 + "\nend " + unit * 97
            pieces = list(cut_runs(text, 64))
            assert "".join(pieces) == text
            assert longest_run(text) >= 1000 and max(map(longest_run, pieces)) < 96
