"""Files to examples: what is read, how it is split, and what is said of bad ones."""

import gzip
import json

import pytest

from elf_jax.core import defaults
from elf_jax.core.errors import UserError
from elf_jax.data.dataset import load_dataset
from elf_jax.data.sources import Example, load_examples, split_blocks
from tests.tiny import write_book, write_pairs


def data(**keys):
    config = defaults.get_config()
    config.data.update({"source": "text", "validation_fraction": 0.3, **keys})
    return config.data


def fails(load=load_examples, **keys):
    with pytest.raises(UserError) as error:
        load(data(**keys))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_unicode_names():
    train, held_out = load_examples(data(source="unicode_names", validation_fraction=0.1))
    texts = [example.text for example in train + held_out]
    assert 26_000 < len(texts) == len(set(texts)) < 30_000
    assert "latin small letter e with acute" in texts
    assert not any("hangul syllable" in text or any(map(str.isdigit, text)) for text in texts)
    assert 0.09 < len(held_out) / len(texts) < 0.11
    assert (train, held_out) == load_examples(data(source="unicode_names", validation_fraction=0.1))


def test_globs_gzip_and_several_paths(tmp_path):
    book = write_book(tmp_path / "a.txt")
    (tmp_path / "sub").mkdir()
    with gzip.open(tmp_path / "sub" / "b.txt.gz", "wt", encoding="utf-8") as file:
        file.write("zebra\n\n" * 400)
    both = [*load_examples(data(path=f"{book},{tmp_path}/**/*.gz"))]
    text = "".join(example.text for part in both for example in part)
    assert "zebra" in text and "harbour" in text
    # The same file named twice is read once.
    once = load_examples(data(path=str(book)))
    assert load_examples(data(path=f"{book},{tmp_path}/*.txt")) == once


def test_blocks_keep_every_character_and_the_split_has_no_overlap(tmp_path):
    book = write_book(tmp_path / "book.txt")
    text = book.read_text()
    assert "".join(split_blocks(text)) == text
    lines = text.replace("\n\n", "\n")
    assert "".join(split_blocks(lines)) == lines and len(split_blocks(lines)) > 5
    train, held_out = load_examples(data(path=str(book)))
    assert train and held_out
    for block in split_blocks(text):
        homes = [any(block in example.text for example in part) for part in (train, held_out)]
        assert sorted(homes) == [False, True]
    assert sum(len(example.text) for example in train + held_out) == len(text)
    # Order is kept, and neighbours on one side are one text: fewer texts than blocks.
    starts = [text.index(example.text) for example in train]
    assert starts == sorted(starts)
    assert len(train) <= len(held_out) + 1 < len(split_blocks(text)) - len(held_out)


def test_blocks_are_the_texts_when_packed_by_rows(tmp_path):
    book = write_book(tmp_path / "book.txt")
    train, held_out = load_examples(data(path=str(book), packing="rows"))
    blocks = split_blocks(book.read_text())
    assert not set(train) & set(held_out)
    assert sorted(train + held_out) == sorted(Example(block) for block in blocks)


def test_an_eos_ends_a_document_and_stands_nowhere_else(tmp_path):
    for name in ("a", "b"):
        write_book(tmp_path / f"{name}.txt", seed=ord(name))
    keys = {"path": f"{tmp_path}/a.txt", "validation_path": f"{tmp_path}/b.txt"}
    dataset = load_dataset(data(**keys, length=16, vocab_size=400), tmp_path / "tokenizer")
    ends = (dataset.train.tokens == dataset.tokenizer.eos_token_id).sum()
    assert len(split_blocks((tmp_path / "a.txt").read_text())) > 5 and ends <= 1


def test_a_file_is_not_both_trained_on_and_validated_with(tmp_path):
    book = write_book(tmp_path / "book.txt")
    write_book(tmp_path / "other.txt", seed=2)
    (tmp_path / "link.txt").symlink_to(book)
    message = fails(path=f"{tmp_path}/*.txt", validation_path=f"{tmp_path}/link.txt")
    assert "book.txt is in config.data.path and in config.data.validation_path" in message
    # However it is spelt, a file is read once.
    once = load_examples(data(path=str(book)))
    assert load_examples(data(path=f"{book},{tmp_path}/./book.txt,{tmp_path}/link.txt")) == once


def test_names_with_files_are_refused():
    for key in ("path", "validation_path"):
        message = fails(source="unicode_names", **{key: "mine.txt"})
        assert "reads no files" in message and "mine.txt" in message


def test_pairs_never_share_a_source(tmp_path):
    path = tmp_path / "pairs.jsonl"
    lines = [{"de": f"satz {i % 20}", "en": f"sentence {i}"} for i in range(100)]
    lines += [{"de": " ", "en": "lost"}, {"de": "verloren", "en": ""}]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    keys = {"source": "jsonl", "path": str(path), "field": "en", "source_field": "de"}
    train, held_out = load_examples(data(**keys))
    assert len(train) + len(held_out) == 100
    assert not {example.source for example in train} & {example.source for example in held_out}


def test_separate_validation_file(tmp_path):
    train, held_out = write_book(tmp_path / "a.txt", seed=1), write_book(tmp_path / "b.txt", seed=2)
    settings = data(path=str(train), validation_path=str(held_out))
    assert "".join(example.text for example in load_examples(settings)[1]) == held_out.read_text()


def test_missing_and_empty_files(tmp_path):
    assert "config.data.path is empty" in fails()
    assert "no file matches" in fails(path=str(tmp_path / "none.txt"))
    (tmp_path / "empty.txt").write_bytes(b"")
    assert "empty.txt is empty" in fails(path=str(tmp_path / "empty.txt"))
    (tmp_path / "blank.txt").write_text(" \n\n ")
    assert "holds no text" in fails(path=str(tmp_path / "blank.txt"))
    (tmp_path / "short.txt").write_text("one line")
    assert "validation_path" in fails(path=str(tmp_path / "short.txt"))


def test_undecodable_bytes_and_broken_gzip(tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"fine\nfine\nna\xefve\n")
    message = fails(path=str(tmp_path / "bad.txt"))
    assert "bad.txt" in message and "byte 12 (line 3)" in message
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfab\n\xff")
    assert "byte 6 (line 2)" in fails(path=str(tmp_path / "bom.txt"))
    whole = gzip.compress(b"text " * 1000)
    (tmp_path / "cut.txt.gz").write_bytes(whole[: len(whole) // 2])
    assert "cut.txt.gz cannot be read" in fails(path=str(tmp_path / "cut.txt.gz"))
    (tmp_path / "not.txt.gz").write_bytes(b"plain")
    assert "not.txt.gz cannot be read" in fails(path=str(tmp_path / "not.txt.gz"))


def test_bad_json_lines(tmp_path):
    path = tmp_path / "x.jsonl"
    keys = {"source": "jsonl", "path": str(path)}
    path.write_text('{"text": "a"}\n\n{"body": "b", "id": 3}\n')
    message = fails(**keys)
    assert "line 3" in message and "'text' is missing" in message and "body, id" in message
    path.write_text('{"text": "a"}\n{"text": 5}\n')
    assert "line 2" in fails(**keys) and "not a string" in fails(**keys)
    path.write_text('{"text": "a"}\n{"text": \n')
    assert "line 2 is not valid JSON" in fails(**keys)
    path.write_text("[1]\n")
    assert "line 1 is not a JSON object" in fails(**keys)
    path.write_text('{"text": "a"}\n{"text": "b \\ud800"}\n')
    assert "line 2" in fails(**keys) and "'\\ud800'" in fails(**keys)


def test_text_shorter_than_a_sequence(tmp_path):
    book = write_book(tmp_path / "book.txt")

    def load(settings):
        return load_dataset(settings, tmp_path / "tokenizer")

    message = fails(load, path=str(book), length=100_000, vocab_size=400)
    assert "tokens, less than one sequence of 100000" in message and "config.data.length" in message
    assert not (tmp_path / "tokenizer").exists()


def test_lengths_and_packings_that_cannot_be(tmp_path):
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    keys = {"source": "jsonl", "path": str(pairs), "field": "target", "source_field": "source"}

    def load(settings):
        return load_dataset(settings, tmp_path / "tokenizer")

    assert "source_length is 0" in fails(load, **keys, length=16)
    assert "source_length is 16" in fails(load, **keys, length=16, source_length=16)
    assert "packing to rows" in fails(load, **keys, packing="stream")
    assert "use one of auto, rows, stream" in fails(load, **keys, packing="tight")
    assert "use pad or eos" in fails(load, **keys, pad="zeros")
    assert "no tokenizer (config.data.tokenizer" in fails(
        load, **keys, length=16, source_length=8, tokenizer=str(tmp_path / "none")
    )
