"""The split into training and validation: every part of the text is on exactly one side."""

import hashlib
import json
import random

import pytest

from elf_jax.core import defaults
from elf_jax.data import split
from elf_jax.data.dataset import load_dataset
from elf_jax.data.examples import Example, load_examples
from elf_jax.data.split import BLOCK
from tests.data.helpers import text_data as data
from tests.tiny import write_book

LONGEST_BLOCK = defaults.get_config().data.longest_block


def split_blocks(text, longest=LONGEST_BLOCK):
    return split.split_blocks(text, longest)


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


def long_text(kind, size):
    """Text in one line: a language with spaces, one without, and DNA in a few very long lines."""
    rng = random.Random(0)
    if kind == "text8":
        return " ".join(rng.choices("the of a calm sea dawn".split(), k=size // 4))
    if kind == "chinese":
        words = [
            "".join(rng.choices("春眠不觉晓处处闻啼鸟", k=rng.randint(4, 30))) for _ in range(size)
        ]
        return "".join(word + rng.choice("，。？！") for word in words[: size // 15])
    return "".join("".join(rng.choices("ACGT", k=size // 5)) + "\n" for _ in range(5))


@pytest.mark.parametrize("kind", ["text8", "chinese", "dna"])
@pytest.mark.parametrize("packing", ["auto", "rows"])
def test_a_corpus_in_one_line_is_split(kind, packing, tmp_path):
    text = long_text(kind, 200_000)
    blocks = split_blocks(text)
    assert "".join(blocks) == text and len(blocks) > 90
    assert all(BLOCK <= len(block) <= LONGEST_BLOCK for block in blocks)
    if kind != "dna":
        assert all(block[-1] in " 。？！" for block in blocks[:-1])
    (tmp_path / "corpus.txt").write_text(text)
    keys = {"path": f"{tmp_path}/corpus.txt", "packing": packing, "validation_fraction": 0.1}
    train, held_out = load_examples(data(**keys))
    part = sum(len(example.text) for example in held_out) / len(text)
    assert 0.02 < part < 0.25
    assert sum(len(example.text) for example in train + held_out) == len(text)


def test_text_with_ends_is_cut_as_it_always_was():
    """The held-out part of a workdir stays the same. The numbers are those of version 0.2."""
    rng = random.Random(1)

    def paragraph(size):
        words = ("sea", "dawn", "said.", "harbour,", "of", "seen;", "日本。", "x\n")
        return " ".join(rng.choices(words, k=size // 6))

    prose = "\n\n".join(paragraph(rng.choice([50, 300, 3000, 9000])) for _ in range(60))
    lines = "\n".join("y" * rng.choice([10, 80, 3000, 12_000]) for _ in range(100))
    found = {}
    for name, text in (("prose", prose), ("lines", lines)):
        blocks = split_blocks(text)
        assert max(map(len, blocks)) > 8 * BLOCK
        sizes = [len(block) for block in blocks]
        found[name] = len(sizes), hashlib.sha256(str(sizes).encode()).hexdigest()[:8]
    assert found == {"prose": (31, "99abc78d"), "lines": (51, "ae933fcf")}
    # One character too many, and there are better ends than none.
    for size, whole in ((LONGEST_BLOCK, True), (LONGEST_BLOCK + 1, False)):
        text = "short\n\n" + "z" * (size - 7)
        assert (split_blocks(text) == [text]) == whole
        assert split_blocks(text, 0) == [text]  # as version 0.2 did
