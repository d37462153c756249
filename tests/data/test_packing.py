"""Packing: token sequences to rows."""

import numpy as np

from elf_jax.data.packing import pack_documents, pack_rows, pack_stream


def test_one_text_a_row():
    targets, sources = [[5, 6, 7], [5], []], [[8], [8, 9, 8, 9], [9]]
    rows, cut = pack_rows(targets, sources, 6, 3, eos_id=1, pad_id=0)
    assert rows.tokens.tolist() == [
        [8, 1, 5, 6, 7, 1],
        [8, 9, 1, 5, 1, 0],
        [9, 1, 1, 0, 0, 0],
    ]
    assert rows.cond_length.tolist() == [2, 3, 2] and rows.valid_length.tolist() == [6, 5, 3]
    assert cut == {"targets_cut": 0, "sources_cut": 1}
    batch = rows.take(np.array([1]))
    assert batch["is_cond"].tolist() == [[True] * 3 + [False] * 3]
    assert batch["is_valid"].tolist() == [[True] * 5 + [False]]


def test_long_texts_are_cut_and_keep_their_eos():
    rows, cut = pack_rows([[5, 6, 7, 8], [5, 6, 7]], None, 4, 0, eos_id=1, pad_id=0)
    assert rows.tokens.tolist() == [[5, 6, 7, 1], [5, 6, 7, 1]]
    assert cut["targets_cut"] == 1


def test_stream_is_cut_into_full_rows():
    rows = pack_stream([np.array([5, 6, 7]), np.array([8])], 2, 1, "training")
    assert rows.tokens.tolist() == [[5, 6], [7, 1], [8, 1]]
    assert rows.take(slice(None))["is_valid"].all()


def greedy(texts, length, eos):
    """Packs token by token, as a reference."""
    rows, row = [], []
    for text in texts:
        if row and len(text) > length - len(row):
            rows.append(row)
            row = []
        for token in text:
            if len(row) == length:
                rows.append(row)
                row = []
            row.append(token)
        if text and len(row) < length:
            row.append(eos)
    return rows + [row] * bool(row)


def test_documents_are_packed_greedily():
    rng = np.random.default_rng(0)
    for length in (2, 7, 16):
        texts = [rng.integers(5, 99, rng.integers(0, 3 * length)) for _ in range(200)]
        rows, counts = pack_documents(texts, length, eos_id=1, pad_id=0)
        expected = greedy([text.tolist() for text in texts], length, 1)
        got = [row[:n].tolist() for row, n in zip(rows.tokens, rows.valid_length, strict=True)]
        assert got == expected
        assert counts["targets_cut"] == sum(len(text) > length for text in texts)
        words = [token for row in got for token in row if token != 1]
        assert words == [token for text in texts for token in text.tolist()]  # nothing is lost
        assert all(
            (row[n:] == 0).all() for row, n in zip(rows.tokens, rows.valid_length, strict=True)
        )


def test_padded_sources_let_all_targets_begin_at_one_place():
    targets, sources = [[5, 6, 7], [5], []], [[8], [8, 9, 8, 9], [9]]
    rows, cut = pack_rows(targets, sources, 6, 3, eos_id=1, pad_id=0, pad_source=True)
    assert cut == {"targets_cut": 1, "sources_cut": 1}
    batch = rows.take(slice(None))
    assert batch["tokens"].tolist() == [
        [8, 1, 0, 5, 6, 1],
        [8, 9, 1, 5, 1, 0],
        [9, 1, 0, 1, 0, 0],
    ]
    assert (batch["is_cond"] == (np.arange(6) < 3)).all() and batch["tokens"].dtype == np.int32
    assert batch["is_valid"].astype(int).tolist() == [
        [1, 1, 0, 1, 1, 1],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 0, 1, 0, 0],
    ]
    one, some = rows.take(1), rows.subset(2).take(np.array([[0], [1]]))
    for name, field in batch.items():
        np.testing.assert_array_equal(one[name], field[1])
        np.testing.assert_array_equal(some[name], field[[[0], [1]]])
