"""Long lines: read in little memory, prepared as any other text, the same for all workers."""

import gzip
import json
import tracemalloc

import pytest

from elf_jax.data import corpora
from elf_jax.data.dataset import load_dataset
from elf_jax.data.long_lines import read_parts
from elf_jax.data.manifest import read_manifest, shards
from elf_jax.data.prepare import prepare
from elf_jax.data.text_files import read_lines
from tests.data.helpers import fails
from tests.data.test_split import long_text

SIZE = 1000  # bytes of a part


def parts(path, size=SIZE):
    return list(read_parts(str(path), size))


def test_short_lines_come_as_they_are(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 1999 + b"\n\nshort\r\n" + "é".encode() * 900 + b"\n" + b"y" * 1999)
    assert parts(path) == list(read_lines(str(path)))
    path.write_bytes(b"")
    assert "a.txt is empty" in fails(parts, path)


@pytest.mark.parametrize("unit", ["x", "é", "日", "🎉", "e\u0301", "abcd ", "日本。", "a\r"])
def test_a_long_line_is_cut_at_a_good_place(unit, tmp_path):
    text = (unit * (20_000 // len(unit)) + "\n") * 2 + "end"
    with gzip.open(tmp_path / "a.txt.gz", "wt", encoding="utf-8", newline="") as file:
        file.write(text)
    found = parts(tmp_path / "a.txt.gz")
    assert b"".join(found).decode() == text and len(found) > 20
    for part in found[:-1]:
        rest = part.decode().removesuffix("\n")  # no character is cut
        assert len(part) <= 2 * SIZE and rest == unit * (len(rest) // len(unit))


def test_bytes_that_are_no_text_come_as_they_are(tmp_path):
    path = tmp_path / "a.txt"
    for data in (b"\xff" * 9999, bytes(range(11, 256)) * 99):
        path.write_bytes(data)
        assert b"".join(parts(path)) == data


def test_the_memory_does_not_grow_with_the_line(tmp_path):
    with open(tmp_path / "a.txt", "wb") as file:
        for _ in range(30):
            file.write(b"ACGT" * 250_000)
    tracemalloc.start()
    total = sum(len(part) for part in read_parts(str(tmp_path / "a.txt"), 1 << 16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 30_000_000 and peak < 4_000_000


@pytest.mark.parametrize("kind", ["text8", "chinese", "dna"])
def test_a_corpus_in_one_line_is_prepared(kind, data, tmp_path, monkeypatch):
    text = long_text(kind, 120_000)
    path = tmp_path / "corpus.txt"
    path.write_text(text)
    keys = {"kind": "text", "path": str(path), "tokenizer": "bpe", "vocab_size": 280}
    memory = load_dataset(data(**keys, prepared=""), tmp_path / "none")
    whole = load_dataset(data(**keys), tmp_path / "none")  # the file is one piece
    assert whole.summary["train_texts"] == memory.summary["train_texts"] > 5
    assert (whole.train.take(slice(None))["tokens"] == memory.train.tokens).all()
    # Smaller pieces and units: the same ones for any number of workers.
    for name in ("PIECE_BYTES", "LINE_BYTES"):
        monkeypatch.setattr(corpora, name, 8000)
    monkeypatch.setattr(corpora, "UNIT_BYTES", 24_000)
    keys["tokenizer"] = str(tmp_path / "prepared" / "tokenizer")
    made = []
    for workers in (1, 2):
        directory = tmp_path / f"by_{workers}"
        prepare(data(**keys, prepared=str(directory)), workers=workers)
        made.append([shard["sha256"] for shard in shards(read_manifest(directory))])
    assert made[0] == made[1] and len(made[0]) > 6
    blocks = list(corpora.Files(data(**keys))._blocks(str(path)))
    assert b"".join(block[-1] for block in blocks) == text.encode()
    assert max(len(block[-1]) for block in blocks) < 4 * 8000
    counts = read_manifest(tmp_path / "by_1")["counts"]
    tokens = [counts[side]["tokens"] - counts[side]["documents"] for side in counts]
    assert 0.05 < tokens[1] / sum(tokens) < 0.5


def test_pieces_of_text_with_line_ends_are_what_they_were(data, tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "PIECE_BYTES", 100)
    path = tmp_path / "a.txt"
    lines = ["x" * 60 + "\n", "y" * 150 + "\n", "\n", "z" * 30 + "\n", "\n", "w" * 190 + "\n"] * 3
    path.write_text("".join(lines) + "end")
    blocks = list(corpora.Files(data(kind="text", path=str(path)))._blocks(str(path)))
    assert [(line, byte, len(text)) for _, line, byte, text in blocks] == [
        (1, 0, 212),
        (3, 212, 224),
        (7, 436, 212),
        (9, 648, 224),
        (13, 872, 212),
        (15, 1084, 224),
        (19, 1308, 3),
    ]


def test_what_an_earlier_version_has_begun_is_not_mixed(data, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text(long_text("text8", 50_000))
    settings = data(kind="text", path=f"{tmp_path}/a.txt")
    monkeypatch.setattr("elf_jax.data.prepare._run", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare(settings, workers=1)
    started = tmp_path / "prepared" / "unfinished" / "started.json"
    assert '"block": 16000' in started.read_text()
    started.write_text(started.read_text().replace('"block": 16000', '"other": 1'))
    assert "was begun by another version" in fails(prepare, settings, workers=1)
    assert "block" not in corpora.unit_sizes(data())


def test_shards_of_an_earlier_version_are_made_again_as_they_were(data, tmp_path):
    """It did not cut long lines, and its manifest does not say so."""
    lines = [long_text("text8", 20_000 + 7 * number) for number in range(40)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    keys = {"kind": "text", "path": f"{tmp_path}/a.txt", "validation_fraction": 0.2}
    old = prepare(data(**keys, longest_block=0), workers=1)
    new = prepare(data(**keys, prepared=f"{tmp_path}/new"), workers=1)
    assert old["counts"] != new["counts"]
    path = tmp_path / "prepared" / "manifest.json"
    del old["longest_block"]
    path.write_text(json.dumps(old))
    (tmp_path / "prepared" / "SHA256SUMS").unlink()
    for shard in shards(old):
        (tmp_path / "prepared" / shard["name"]).unlink()
    again = prepare(data(**keys), workers=1)
    assert again["units"] == old["units"] and again["fingerprint"] == old["fingerprint"]


def test_the_end_of_a_preparation_that_was_killed_is_made_up(data, tmp_path):
    (tmp_path / "a.txt").write_text(long_text("text8", 50_000))
    settings = data(kind="text", path=f"{tmp_path}/a.txt")
    prepare(settings, workers=1)
    (tmp_path / "prepared" / "SHA256SUMS").unlink()
    (tmp_path / "prepared" / "unfinished").mkdir()
    prepare(settings, workers=1)
    assert (tmp_path / "prepared" / "SHA256SUMS").is_file()
    assert not (tmp_path / "prepared" / "unfinished").exists()
