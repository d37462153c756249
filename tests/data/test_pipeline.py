"""Tokenizers, packing and batches."""

import time

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from elf_jax.core import defaults
from elf_jax.core.errors import UserError
from elf_jax.data import tokenizer as tok
from elf_jax.data.packing import Rows, pack_rows, pack_stream
from elf_jax.data.pipeline import make_iterator
from elf_jax.data.sources import Example


def train(kind, texts, vocab_size=400):
    config = defaults.get_config()
    config.data.update({"tokenizer": kind, "vocab_size": vocab_size})
    return tok.train_tokenizer(config.data, [Example(text) for text in texts])


TEXTS = ["latin small letter e", "line one\n\nline  two\t!", "Größe — 12 €, naïve\n", " 日本 🎉"]


def test_bpe_loses_nothing(tmp_path):
    tokenizer = train("bpe", TEXTS * 3)
    assert tok.decode(tokenizer, tok.encode(tokenizer, TEXTS)) == TEXTS
    unseen = ["never seen: žluťoučký kůň\r\n"]
    assert tok.decode(tokenizer, tok.encode(tokenizer, unseen)) == unseen
    tok.save_tokenizer(tokenizer, tmp_path / "kept")
    kept = tok.load_tokenizer(tmp_path / "kept")
    assert tok.decode(kept, tok.encode(kept, TEXTS)) == TEXTS
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_words_are_one_token_wherever_they_stand():
    names = ["latin small letter e", "small latin letter", "hand-fist sign"]
    tokenizer = train("words", names)
    first, second, third = tok.encode(tokenizer, names)
    assert list(first[:2]) == list(second[:2][::-1]) and len(third) == 4
    assert tok.decode(tokenizer, [first, second, third]) == names
    (unknown,) = tok.encode(tokenizer, ["small zebra"])
    assert list(unknown) == [second[0], tokenizer.unk_token_id]


def test_special_tokens_and_vocabulary():
    tokenizer = train("words", ["a b c d"] * 2)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tok.vocab_size(tokenizer) == 7
    assert tok.vocab_size(train("words", ["a b b c c d"], vocab_size=5)) == 5


def test_text_that_spells_a_special_token_stays_text(tmp_path):
    tokenizer = train("bpe", TEXTS)
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, tok.load_tokenizer(tmp_path)):
        (ids,) = tok.encode(one, ["x</s> <pad>y <unk>"])
        assert not set(ids.tolist()) & {0, 1, 2}
        assert tok.decode(one, [ids]) == ["x</s> <pad>y <unk>"]


def test_a_vocabulary_too_small_for_its_kind_is_refused():
    with pytest.raises(UserError, match="vocab_size=258 is too small: bpe needs 259"):
        train("bpe", TEXTS, vocab_size=258)
    assert tok.vocab_size(train("bpe", TEXTS, vocab_size=259)) == 259
    with pytest.raises(UserError, match="words needs 4"):
        train("words", TEXTS, vocab_size=3)


def test_a_tokenizer_without_eos_is_refused(tmp_path):
    tokenizer = train("bpe", TEXTS)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no EOS token"):
        tok.load_tokenizer(tmp_path)


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


def numbered(count, length=3):
    tokens = np.arange(count, dtype=np.int32)[:, None].repeat(length, axis=1)
    return Rows(tokens, np.zeros(count, np.int32), np.full(count, length, np.int32))


def take(iterator, count):
    return [next(iterator)["tokens"][:, 0].tolist() for _ in range(count)]


def test_every_epoch_has_every_row_once_in_a_new_order():
    epochs = np.reshape(take(make_iterator(numbered(20), 5, seed=0), 12), (3, 20))
    for epoch in epochs:
        assert sorted(epoch) == list(range(20))
    assert epochs[0].tolist() != epochs[1].tolist() != list(range(20))
    assert take(make_iterator(numbered(20), 5, seed=1), 4) != epochs[0].reshape(4, 5).tolist()


def test_iterator_goes_on_where_it_was_saved():
    iterator = make_iterator(numbered(7), 4, seed=0)
    take(iterator, 5)
    state = iterator.get_state()
    rest = take(iterator, 5)
    other = make_iterator(numbered(7), 4, seed=0)
    other.set_state(state)
    assert take(other, 5) == rest


def test_few_batches_are_made_ahead(monkeypatch):
    rows, made = numbered(64), []
    real = Rows.take
    monkeypatch.setattr(Rows, "take", lambda self, index: made.append(1) or real(self, index))
    iterator = make_iterator(rows, 2, seed=0)
    next(iterator)
    time.sleep(0.3)
    iterator.close()
    assert 1 <= len(made) <= 8


def test_orbax_saves_and_restores_the_place(tmp_path):
    iterator = make_iterator(numbered(7), 4, seed=0)
    take(iterator, 5)
    manager = ocp.CheckpointManager(tmp_path)
    save = grain.checkpoint.CheckpointSave(iterator)
    manager.save(5, args=ocp.args.Composite(data=save))
    rest = take(iterator, 5)  # goes on while the checkpoint is written
    manager.wait_until_finished()
    other = make_iterator(numbered(7), 4, seed=0)
    take(other, 2)
    restore = grain.checkpoint.CheckpointRestore(other)
    manager.restore(5, args=ocp.args.Composite(data=restore))
    manager.close()
    assert take(other, 5) == rest


def test_processes_share_every_batch():
    whole = take(make_iterator(numbered(20), 6, seed=0), 8)
    parts = [take(make_iterator(numbered(20), 6, 0, index, 3), 8) for index in range(3)]
    assert [sum(batch, []) for batch in zip(*parts, strict=True)] == whole


def test_validation_sees_every_row_once():
    batches = list(numbered(5).batches(2))
    assert [fields["tokens"][:, 0].tolist() for fields, _ in batches] == [[0, 1], [2, 3], [4, 4]]
    assert [real.tolist() for _, real in batches] == [[True, True], [True, True], [True, False]]
