"""Tokenizers: text to token ids and back."""

import pytest

from elf_jax.core import defaults
from elf_jax.core.errors import UserError
from elf_jax.data import tokenizer as tok
from elf_jax.data.examples import Example


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
