"""The split into training and validation: every part of the text is on exactly one side."""

import json

from elf_jax.data.dataset import load_dataset
from elf_jax.data.examples import Example, load_examples
from elf_jax.data.split import split_blocks
from tests.data.helpers import text_data as data
from tests.tiny import write_book


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
    # The order is kept. Neighbouring blocks on one side are joined, so there are fewer texts than
    # blocks.
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


def test_pairs_never_share_a_source(tmp_path):
    path = tmp_path / "pairs.jsonl"
    lines = [{"de": f"satz {i % 20}", "en": f"sentence {i}"} for i in range(100)]
    lines += [{"de": " ", "en": "lost"}, {"de": "verloren", "en": ""}]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    keys = {"kind": "jsonl", "path": str(path), "field": "en", "source_field": "de"}
    train, held_out = load_examples(data(**keys))
    assert len(train) + len(held_out) == 100
    assert not {example.source for example in train} & {example.source for example in held_out}
