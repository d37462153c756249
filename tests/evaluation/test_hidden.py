"""What is hidden in held-out rows: deterministic, of the right share, and nothing but text."""

import types

import numpy as np
import pytest

from elf_jax.core.checks import resolve_infill
from elf_jax.core.errors import UserError
from elf_jax.data.packing import Rows
from elf_jax.evaluation.hidden import hidden_positions, hide

EOS, PAD = 1, 0
TOKENIZER = types.SimpleNamespace(eos_token_id=EOS, pad_token_id=PAD)
LENGTH = 40


def make_rows(sizes, source=3):
    """Rows of a source with its EOS, then a text with its EOS, then padding."""
    tokens = np.full((len(sizes), LENGTH), PAD, np.int32)
    for row, size in zip(tokens, sizes, strict=True):
        row[: source + size] = 10 + np.arange(source + size)
        row[[source - 1, source + size]] = EOS
    cond = np.full(len(sizes), source, np.int32)
    return Rows(tokens, cond, cond + np.array(sizes, np.int32) + 1)


ROWS = make_rows([20, 2, 1, 0, 9, 36, 8])
KEPT = [20, 2, 9, 36, 8]  # sizes of the texts with two tokens or more


@pytest.mark.parametrize(
    ("name", "counts"),
    [("span_25", [5, 1, 2, 9, 2]), ("span_50", [10, 1, 5, 18, 4]), ("scattered_99", None)],
)
def test_the_share_of_the_text(name, counts):
    hidden = hide(name, ROWS, 0, TOKENIZER)
    assert hidden.is_text.sum(axis=1).tolist() == KEPT
    # A part of each text is always given.
    assert hidden.is_hidden.sum(axis=1).tolist() == (counts or [size - 1 for size in KEPT])
    assert not np.any(hidden.is_hidden & ~hidden.is_text)
    assert not np.isin(hidden.tokens[hidden.is_text], (EOS, PAD)).any()
    assert not np.any(hidden.is_text[:, :3])  # the source


def test_a_span_is_in_one_piece_and_at_any_place():
    starts, scattered = [], 0
    for index in range(300):
        is_text = np.zeros(12, bool)
        is_text[2:10] = True
        places = np.flatnonzero(hidden_positions(is_text, index, "span", 25))
        assert places.tolist() == [places[0], places[0] + 1]
        starts.append(places[0])
        both = np.flatnonzero(hidden_positions(is_text, index, "scattered", 25))
        scattered += both[1] > both[0] + 1
    counts = np.bincount(starts, minlength=12)
    assert counts[2:9].min() > 20 and counts.sum() == counts[2:9].sum()
    assert 300 * 0.6 < scattered < 300 * 0.9  # 21 of 28 pairs have something between


def test_a_span_goes_over_an_eos():
    is_text = np.array([1, 1, 0, 1, 1], bool)  # two texts with an EOS between them
    found = {tuple(hidden_positions(is_text, index, "span", 50).tolist()) for index in range(50)}
    assert (False, True, False, True, False) in found and len(found) == 3


def test_it_depends_on_the_place_of_the_row_alone():
    """Not on the other rows, nor on how many there are."""
    hidden = hide("span_25", ROWS, 0, TOKENIZER)
    again = hide("span_25", ROWS, 0, TOKENIZER)
    assert np.array_equal(hidden.is_hidden, again.is_hidden)
    assert hidden.fingerprint == again.fingerprint
    half = hide("span_25", ROWS, 3, TOKENIZER)  # rows 0, 2 and 4; row 2 has one token
    assert np.array_equal(half.is_hidden, hidden.is_hidden[[0, 2]])
    others = [
        hide("span_50", ROWS, 0, TOKENIZER),
        hide("scattered_25", ROWS, 0, TOKENIZER),
        half,
        hide("span_25", make_rows([20, 2, 1, 0, 9, 36, 7]), 0, TOKENIZER),
    ]
    assert len({hidden.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_it_stays_the_same_in_all_versions():
    """Or else the numbers of two versions could not be compared."""
    for form, percent, places in (("span", 25, [6, 7, 8]), ("scattered", 50, [0, 3, 4, 7, 8, 9])):
        found = hidden_positions(np.ones(12, bool), 7, form, percent)
        assert np.flatnonzero(found).tolist() == places


def test_the_template_does_not_have_what_is_hidden():
    hidden = hide("span_50", ROWS, 0, TOKENIZER)
    fields = hidden.template()
    is_valid = hidden.fields["is_valid"]
    assert np.array_equal(fields["is_cond"], is_valid & ~hidden.is_hidden)
    assert np.array_equal(fields["tokens"][fields["is_cond"]], hidden.tokens[fields["is_cond"]])
    assert not fields["tokens"][~fields["is_cond"]].any()
    assert fields["never"].tokens == (PAD, EOS)
    for where in np.moveaxis(fields["never"].where, -1, 0):
        assert np.array_equal(where, hidden.is_hidden)
    gaps = hidden.gaps(hidden.tokens)
    assert [len(gap) for gap in gaps] == hidden.is_hidden.sum(axis=1).tolist()
    assert np.array_equal(hidden.rows(gaps), hidden.tokens)
    wrong = hidden.rows([gap + 1 for gap in gaps])
    assert np.array_equal(wrong != hidden.tokens, hidden.is_hidden)


def test_names():
    asked = " span_25, span_50 ,scattered_7,"
    expected = {"span_25": ("span", 25), "span_50": ("span", 50), "scattered_7": ("scattered", 7)}
    assert resolve_infill(asked) == expected and list(resolve_infill(asked)) == list(expected)
    assert resolve_infill("") == {}
    for wrong in ("span", "span_0", "span_100", "spans_25", "span_25,span_25", "span_2.5"):
        with pytest.raises(UserError, match="config.compare.infill has 'span") as error:
            resolve_infill(wrong, "compare")
        assert "\n" not in str(error.value)


def test_texts_without_two_tokens_are_refused():
    with pytest.raises(UserError, match="no held-out text has two tokens, so span_25"):
        hide("span_25", make_rows([0, 1, 1]), 0, TOKENIZER)
