"""Tokenizers: text to token ids and back."""

import functools
import json
import random
import shutil
import time

import pytest
import transformers

from elf_jax.core import defaults
from elf_jax.core.errors import UserError
from elf_jax.data import tokenizer as tok
from elf_jax.data.examples import Example
from elf_jax.data.prepare_unit import load_encoder
from tests.data.helpers import fails


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


def test_what_is_not_short_is_announced(capsys):
    config = defaults.get_config()
    config.data.update({"tokenizer": "bpe", "vocab_size": 260, "path": "book.txt"})
    examples = [Example("ab " * 400_000, "c" * 5)]
    for some in (examples, iter(examples)):
        tok.train_tokenizer(config.data, some)
        line = (
            "training a tokenizer (bpe, at most 260 tokens) on 1,200,005 characters of book.txt\n"
        )
        assert capsys.readouterr().out == line
    tok.train_tokenizer(config.data, [Example("ab " * 1000)])
    assert capsys.readouterr().out == ""


def test_ordinary_text_trains_what_it_always_did():
    """The numbers are those of version 0.2."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdluéя日", k=rng.randint(1, 12))) for _ in range(300)]
    words += ["https://" + "x" * 300 + "/" + "-" * 80, "=" * 900, "   \n\n\t", "12345" * 100]
    texts = [" ".join(rng.choices(words, k=200)) for _ in range(40)]
    found = tok.fingerprint(train("bpe", texts)), tok.fingerprint(train("words", texts))
    assert found == ("4b4e534b07ccbbbe", "d33865d9e7900d0e")


def test_text_without_spaces_is_trained_on_in_little_time():
    rng = random.Random(0)
    dna = "".join(rng.choices("ACGT", k=300_000))
    began = time.process_time()
    tokenizer = train("bpe", [dna], vocab_size=2000)
    assert time.process_time() - began < 10  # without a limit for words it takes minutes
    began = time.process_time()
    (ids,) = tok.encode(tokenizer, [dna])
    assert time.process_time() - began < 5
    assert tok.decode(tokenizer, [ids]) == [dna] and len(ids) < len(dna) / 3


# ByT5's tokenizer has no tokenizer.json: it is written in Python.


@pytest.fixture(scope="module")
def byt5(tmp_path_factory):
    directory = tmp_path_factory.mktemp("slow") / "byt5"
    transformers.ByT5Tokenizer().save_pretrained(directory)
    return directory


def test_a_tokenizer_in_python(byt5, tmp_path):
    tokenizer = tok.load_tokenizer(byt5)
    assert tok.core_text(tokenizer) is None and tok.vocab_size(tokenizer) == 384
    text = "Größe</s> <pad>\n <extra_id_3>"
    (ids,) = tok.encode(tokenizer, [text])
    assert ids.tolist() == [byte + 3 for byte in text.encode()]
    assert tok.decode(tokenizer, [[*ids, 0, 0]]) == [text]
    before = tok.fingerprint(tokenizer)
    tok.save_tokenizer(tokenizer, tmp_path / "kept")
    assert tok.fingerprint(tok.load_tokenizer(tmp_path / "kept")) == before
    assert tok.add_sentinels(tokenizer, 3).tolist() == [259, 260, 261]
    assert tok.add_sentinels(tokenizer, 127).tolist()[-3:] == [383, 384, 385]
    tok.save_tokenizer(tokenizer, tmp_path / "more")
    more = tok.load_tokenizer(tmp_path / "more")
    assert tok.vocab_size(more) == 386 and tok.fingerprint(more) != before
    assert tok.encode(more, [text])[0].tolist() == ids.tolist()


def test_the_fingerprint_tells_tokenizers_in_python_apart(byt5):
    prints = [tok.fingerprint(tok.load_tokenizer(byt5))]
    for key, value in (("pad_token", "<unk>"), ("eos_token", "<extra_id_0>")):
        tokenizer = tok.load_tokenizer(byt5)
        setattr(tokenizer, key, value)
        prints.append(tok.fingerprint(tokenizer))
    assert len(set(prints)) == 3


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"


def without(directory, name, text):
    """What is said about a tokenizer with another text in one of its files, without checksums."""
    (directory / name).write_text(text)
    (directory / "SHA256SUMS").unlink(missing_ok=True)
    return fails(tok.load_tokenizer, directory)


def test_damaged_files_are_named(tmp_path, byt5):
    tok.save_tokenizer(train("bpe", TEXTS), tmp_path / "good")
    whole = (tmp_path / "good" / "tokenizer.json").read_text()
    for index, text in enumerate(["[]", "null", "5", "", "\0\xff", whole[: len(whole) // 2]]):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            copy = shutil.copytree(tmp_path / "good", tmp_path / f"{name}{index}")
            assert f"{name} is damaged (" in without(copy, name, text)
        copy = shutil.copytree(byt5, tmp_path / f"byt5{index}")
        assert "is damaged (" in without(copy, "tokenizer_config.json", text)
    copy = shutil.copytree(tmp_path / "good", tmp_path / "copy")
    for values in ({}, {"model": []}, {**json.loads(whole), "model": {"type": "other"}}):
        assert f"no tokenizer at '{copy}'" in without(copy, "tokenizer.json", json.dumps(values))


def test_exchanged_ids_are_noticed(tmp_path):
    """The file is still a good tokenizer. Only its checksum tells."""
    good = tmp_path / "good"
    tok.save_tokenizer(train("words", ["a b"]), good)
    text = (good / "tokenizer.json").read_text()
    values = json.loads(text)
    vocab = values["model"]["vocab"]
    vocab[" a"], vocab[" b"] = vocab[" b"], vocab[" a"]
    (good / "tokenizer.json").write_text(json.dumps(values))
    assert "tokenizer.json has changed since it was written" in fails(tok.load_tokenizer, good)
    (good / "tokenizer.json").write_text(text)
    tok.load_tokenizer(good)


def test_a_panic_of_the_library_is_told(tmp_path, monkeypatch):
    class PanicException(BaseException):
        pass

    tok.save_tokenizer(train("bpe", TEXTS), tmp_path / "good")
    for error in (PanicException("called unwrap\non None"), RecursionError("deep")):
        monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", raising(error))
        message = fails(tok.load_tokenizer, tmp_path / "good")
        assert f"({type(error).__name__}: " in message
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        tok.load_tokenizer(tmp_path / "good")


def raising(error):
    def call(*args, **keys):
        raise error

    return call


def test_git_lfs_pointers_are_called_by_their_name(tmp_path, byt5):
    good = tmp_path / "good"
    tok.save_tokenizer(train("bpe", TEXTS), good)
    (good / "spiece.model").write_text(LFS)
    tok.load_tokenizer(good)  # the file is not needed
    for name in ("tokenizer.json", "tokenizer_config.json"):
        copy = shutil.copytree(good, tmp_path / name)
        assert f"{name} is a Git LFS pointer" in without(copy, name, LFS)
    copy = shutil.copytree(byt5, tmp_path / "copy")
    message = without(copy, "added_tokens.json", LFS)
    assert (
        "added_tokens.json is a Git LFS pointer, not the file itself: run git lfs pull" in message
    )
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "config.json").write_text('{"model_type": "t5"}')
    assert "spiece.model is a Git LFS pointer" in without(tmp_path / "t5", "spiece.model", LFS)


def test_a_tokenizer_that_has_no_words_or_gaps_is_refused(tmp_path):
    for kind in ("t5", "gpt2"):
        (tmp_path / kind).mkdir()
        config = json.dumps({"model_type": kind})
        assert "(it has no vocabulary)" in without(tmp_path / kind, "config.json", config)
    good = tmp_path / "good"
    tok.save_tokenizer(train("words", ["a b"]), good)
    values = json.loads((good / "tokenizer.json").read_text())
    values["model"]["vocab"][" b"] = 90
    message = without(good, "tokenizer.json", json.dumps(values))
    assert "has 5 tokens, but ids up to 90" in message


def test_a_text_without_tokens_is_told(tmp_path):
    good = tmp_path / "good"
    tok.save_tokenizer(train("words", ["a b"]), good)
    values = json.loads((good / "tokenizer.json").read_text())
    values["model"]["unk_token"] = "<other>"
    (good / "tokenizer.json").write_text(json.dumps(values))
    (good / "SHA256SUMS").unlink()
    tokenizer = tok.load_tokenizer(good)
    assert len(tok.encode(tokenizer, ["b a"])[0]) == 2
    core = load_encoder(tok.core_text(tokenizer))
    for call in (core, functools.partial(tok.encode, tokenizer)):
        assert "the tokenizer fails on this text (" in fails(call, ["a zebra"])
