"""The kinds of corpus that are read into memory, and the errors for bad files."""

from elf_jax.core import allowed, checks
from elf_jax.data.dataset import load_dataset
from elf_jax.data.examples import READERS, load_examples
from elf_jax.data.libraries import LIBRARIES
from elf_jax.data.packing import PACKERS
from tests.data.helpers import fails
from tests.data.helpers import text_data as data
from tests.tiny import write_book, write_pairs


def bad(**keys):
    return fails(load_examples, data(**keys))


def test_unicode_names():
    train, held_out = load_examples(data(kind="unicode_names", validation_fraction=0.1))
    texts = [example.text for example in train + held_out]
    assert 26_000 < len(texts) == len(set(texts)) < 30_000
    assert "latin small letter e with acute" in texts
    assert not any("hangul syllable" in text or any(map(str.isdigit, text)) for text in texts)
    assert 0.09 < len(held_out) / len(texts) < 0.11
    assert (train, held_out) == load_examples(data(kind="unicode_names", validation_fraction=0.1))


def test_names_with_files_are_refused():
    for key in ("path", "validation_path"):
        message = bad(kind="unicode_names", **{key: "mine.txt"})
        assert "reads no files" in message and "mine.txt" in message


def test_separate_validation_file(tmp_path):
    train, held_out = write_book(tmp_path / "a.txt", seed=1), write_book(tmp_path / "b.txt", seed=2)
    settings = data(path=str(train), validation_path=str(held_out))
    assert "".join(example.text for example in load_examples(settings)[1]) == held_out.read_text()


def test_bad_json_lines(tmp_path):
    path = tmp_path / "x.jsonl"
    keys = {"kind": "jsonl", "path": str(path)}
    path.write_text('{"text": "a"}\n\n{"body": "b", "id": 3}\n')
    message = bad(**keys)
    assert "line 3" in message and "'text' is missing" in message and "body, id" in message
    path.write_text('{"text": "a"}\n{"text": 5}\n')
    assert "line 2" in bad(**keys) and "not a string" in bad(**keys)
    path.write_text('{"text": "a"}\n{"text": \n')
    assert "line 2 is not valid JSON" in bad(**keys)
    path.write_text("[1]\n")
    assert "line 1 is not a JSON object" in bad(**keys)
    path.write_text('{"text": "a"}\n{"text": "b \\ud800"}\n')
    assert "line 2" in bad(**keys) and "'\\ud800'" in bad(**keys)


def test_text_shorter_than_a_sequence(tmp_path):
    book = write_book(tmp_path / "book.txt")
    settings = data(path=str(book), length=100_000, vocab_size=400)
    message = fails(load_dataset, settings, tmp_path / "tokenizer")
    assert "tokens, less than one sequence of 100000" in message and "config.data.length" in message
    assert not (tmp_path / "tokenizer").exists()


def test_values_that_cannot_be():
    def bad(**keys):
        return fails(checks.check_data, data(**keys))

    pairs = {"kind": "jsonl", "source_field": "source"}
    assert "source_length is 0" in bad(**pairs, length=16)
    assert "source_length is 16" in bad(**pairs, length=16, source_length=16)
    assert "data.packing=rows" in bad(**pairs, packing="stream")
    assert "use one of auto, rows, stream" in bad(packing="tight")
    assert "use one of pad, eos" in bad(pad="zeros")
    assert "did you mean 'jsonl'" in bad(kind="json")


def test_every_value_that_can_be_is_known_here():
    assert set(allowed.CHOICES["data.kind"]) == {*READERS, *LIBRARIES}
    assert set(allowed.CHOICES["data.packing"]) == {"auto", *PACKERS}


def test_a_tokenizer_that_is_not_there(tmp_path):
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    keys = {"kind": "jsonl", "path": str(pairs), "field": "target", "source_field": "source"}
    keys |= {"length": 16, "source_length": 8, "tokenizer": str(tmp_path / "none")}
    message = fails(load_dataset, data(**keys), tmp_path / "tokenizer")
    assert "no tokenizer (config.data.tokenizer" in message
