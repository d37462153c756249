"""What is measured for the rule of sizes is what is in the data, read whole or in parts."""

import gzip
import json
import random

import pytest

from elf_jax.core import defaults
from elf_jax.core.config import update
from elf_jax.core.errors import UserError
from elf_jax.data import measure as module
from elf_jax.data.measure import kept_sizes, measure, tokens_of
from elf_jax.data.prepare import prepare
from tests.tiny import pairs_config


def settings(path, kind="jsonl", **keys):
    config = defaults.get_config()
    values = {"kind": kind, "path": str(path), "validation_fraction": 0.1, **keys}
    update(config, {f"data.{key}": value for key, value in values.items()})
    return config.data


def write(path, count=400, source=None):
    """JSON lines; the target of line i has 37 characters, of one in twenty-five 370."""
    draw = random.Random(0)
    opened = gzip.open(path, "wt") if path.suffix == ".gz" else open(path, "w")
    with opened as file:
        for i in range(count):
            text = "".join(draw.choices("etaoin ", k=370 if i % 25 == 7 else 37))
            record = {"text": text} if source is None else {"text": text, "source": source}
            file.write(json.dumps(record) + "\n")
    return path


def test_a_corpus_that_is_read_whole(tmp_path):
    facts = measure(settings(write(tmp_path / "x.jsonl"), validation_fraction=0.0))
    assert facts == (400, 384 * 10 + 16 * 100, 100, 0, 0, 0)
    facts = measure(settings(tmp_path / "x.jsonl"))
    assert facts.texts == 360 and facts.tokens == 4896  # a tenth is held out
    path = write(tmp_path / "pairs.jsonl", 100, "s" * 74)
    facts = measure(settings(path, source_field="source", validation_fraction=0.0))
    assert (facts.source, facts.source_tokens) == (20, 2000)


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.txt"])
def test_a_corpus_that_is_read_in_part(tmp_path, monkeypatch, name):
    """The rest is like the part that is read. Lines are not cut."""
    path = write(tmp_path / name, 20_000)
    kind = "text" if name.endswith(".txt") else "jsonl"
    whole = measure(settings(path, kind))
    monkeypatch.setattr(module, "BYTES", 200_000)
    seen = []
    of_file = module._of_file
    monkeypatch.setattr(module, "_of_file", lambda *a: seen.append(of_file(*a)) or seen[-1])
    part = measure(settings(path, kind))
    assert len(seen) == 1 and 0 < seen[0][1] < 0.5
    assert part.tokens == pytest.approx(whole.tokens, rel=0.05)
    if kind == "jsonl":
        assert part.texts == pytest.approx(whole.texts, rel=0.05)
        assert part.target == whole.target == 100


def test_many_files_are_not_all_read(tmp_path, monkeypatch):
    for i in range(30):
        write(tmp_path / f"{i:02d}.jsonl", 50)
    monkeypatch.setattr(module, "FILES", 7)
    facts = measure(settings(tmp_path / "*.jsonl", validation_fraction=0.0))
    assert facts.texts == pytest.approx(1500, rel=0.01)


def test_a_character_of_chinese_is_a_token():
    assert tokens_of("a" * 37) == pytest.approx(10) == tokens_of("ä" * 37)
    assert tokens_of("\u4e2d\u6587" * 5) == 10
    assert tokens_of([3, 4, 5]) == 3  # of a pre-tokenised data set


def test_text_that_ends_in_half_a_character(tmp_path, monkeypatch):
    (tmp_path / "x.txt").write_text("\u4e2d" * 5000, encoding="utf-8")
    monkeypatch.setattr(module, "BYTES", 1000)
    facts = measure(settings(tmp_path / "x.txt", "text", validation_fraction=0.0))
    assert facts.tokens == pytest.approx(5000, rel=0.05)


def test_shards_keep_the_sizes_that_they_were_made_with(tmp_path):
    rows = [{"source": "abcd", "target": "dcba"}] * 30 + [{"source": "bb", "target": "b"}] * 30
    path = tmp_path / "pairs.jsonl"
    lines = (json.dumps({**row, "source": f"{row['source']} {i}"}) for i, row in enumerate(rows))
    path.write_text("\n".join(lines))
    data = pairs_config(path, **{"data.prepared": str(tmp_path / "shards")}).data
    assert kept_sizes(data) == {} and measure(data).rows == 0
    manifest = prepare(data, workers=1)
    assert kept_sizes(data) == {
        "data.vocab_size": 300,
        "data.length": 14,
        "data.source_length": 7,
    }
    assert measure(data).rows == manifest["counts"]["train"]["rows"] > 0


def test_what_cannot_be_measured(tmp_path):
    assert measure(settings("", "text")) is None
    with pytest.raises(UserError, match="no file matches"):
        measure(settings(tmp_path / "none.txt", "text"))
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    with pytest.raises(UserError, match="line 2: field 'text' is missing"):
        measure(settings(tmp_path / "x.jsonl"))
    (tmp_path / "x.jsonl").write_text('{"text": " "}\n')
    with pytest.raises(UserError, match="holds no examples"):
        measure(settings(tmp_path / "x.jsonl"))
    assert measure(settings("", "unicode_names")).texts > 10_000
