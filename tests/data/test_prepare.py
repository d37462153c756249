"""Preparing: the shards have the same rows as data in memory, for any number of workers and after
interruptions. Shards that do not fit the config are refused.
"""

import json
import shutil

import jax
import numpy as np
import pytest
import transformers

from elf_jax.core import defaults
from elf_jax.data import prepare_workers
from elf_jax.data import tokenizer as tok
from elf_jax.data.dataset import load_dataset
from elf_jax.data.examples import Example
from elf_jax.data.manifest import read_manifest, shards
from elf_jax.data.pipeline import make_iterator
from elf_jax.data.prepare import prepare
from elf_jax.data.prepare_unit import UnitPreparer
from tests.data.helpers import fails, write_documents
from tests.tiny import tiny_config, write_book, write_pairs


def checksums(directory):
    return [shard["sha256"] for shard in shards(read_manifest(directory))]


def same_rows(prepared, memory):
    assert len(prepared) == len(memory)
    for index in (0, -1, slice(1, 4), np.array([[2, 0], [1, 1]]), slice(None)):
        for name, field in memory.take(index).items():
            got = prepared.take(index)[name]
            assert got.dtype == field.dtype and (got == field).all(), name
    for (a, real_a), (b, real_b) in zip(prepared.batches(3), memory.batches(3), strict=True):
        assert (a["tokens"] == b["tokens"]).all() and (real_a == real_b).all()
    for one, two in zip(prepared.lengths(), memory.lengths(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("packing", ["documents", "stream", "rows", "pairs", "book"])
def test_shards_hold_what_is_packed_in_memory(packing, data, tmp_path, monkeypatch):
    monkeypatch.setattr("elf_jax.data.shards.READ_ROWS", 3)
    keys = {"packing": packing, "path": str(write_documents(tmp_path / "documents.jsonl"))}
    if packing == "pairs":
        path = write_pairs(tmp_path / "pairs.jsonl")
        with open(path, "a") as file:
            file.write('{"source": "", "target": "x"}\n{"source": "y", "target": " "}\n')
        keys = {"packing": "auto", "path": str(path), "field": "target", "source_field": "source"}
        keys |= {"source_length": 4, "pad": "eos"}
    if packing == "book":
        path = str(write_book(tmp_path / "book.txt"))
        keys = {"kind": "text", "packing": "documents", "path": path}
    memory = load_dataset(data(**keys, prepared=""), tmp_path / "none")
    prepared = load_dataset(data(**keys), tmp_path / "none")
    same_rows(prepared.train, memory.train)
    same_rows(prepared.validation, memory.validation)
    assert (prepared.whole, prepared.conditional) == (memory.whole, memory.conditional)
    names = ("train_texts", "train_rows", "validation_rows", "train_tokens", "fill", "vocab_size")
    for name in (*names, *(name for name in memory.summary if name.endswith("_cut"))):
        assert prepared.summary[name] == pytest.approx(memory.summary[name], rel=1e-12), name
    few = prepared.train.subset(5)
    assert (few.tokens == memory.train.subset(5).tokens).all()
    if packing == "pairs":
        assert prepared.summary["empty"] == 2 and prepared.summary["sources_cut"] > 0
        cut = [(e.text, e.source[:3]) for e in memory.validation_examples]
        texts = prepared.validation_examples
        assert [(e.text, e.source[:3]) for e in texts[: len(texts)]] == cut
        assert texts[1] == texts[:2][1]


def test_the_number_of_workers_changes_nothing(documents, data, tmp_path):
    one = prepare(data(), workers=1)
    two = prepare(data(prepared=str(tmp_path / "two")), workers=2)
    assert one == two and len(one["units"]) >= 7
    assert checksums(tmp_path / "prepared") == checksums(tmp_path / "two")
    left = {path.name for path in (tmp_path / "two").iterdir()}
    assert left == {"SHA256SUMS", "manifest.json", "tokenizer"} | {s["name"] for s in shards(one)}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("packing", ["documents", "pairs"])
def test_a_tokenizer_without_tokenizer_json(packing, workers, documents, data, tmp_path):
    transformers.ByT5Tokenizer().save_pretrained(tmp_path / "byt5")
    keys = {"tokenizer": str(tmp_path / "byt5"), "packing": packing}
    with open(documents, "a") as file:
        file.write('{"text": "Größe</s> <pad>\\n <extra_id_3>"}\n' * 3)
    if packing == "pairs":
        path = write_pairs(tmp_path / "pairs.jsonl")
        keys |= {"packing": "auto", "path": str(path), "field": "target", "source_field": "source"}
        keys |= {"source_length": 8}
    memory = load_dataset(data(**keys, prepared=""), tmp_path / "none")
    prepare(data(**keys), workers=workers)
    prepared = load_dataset(data(**keys), tmp_path / "none")
    if packing == "pairs":
        same_rows(prepared.train, memory.train)
        same_rows(prepared.validation, memory.validation)
    else:  # rows of several units: the last row of each stays short
        assert prepared.summary["train_texts"] == memory.summary["train_texts"]
        assert prepared.summary["train_tokens"] == memory.summary["train_tokens"]
    assert prepared.summary["vocab_size"] == 384
    other = tok.load_tokenizer(tmp_path / "byt5")
    other.add_tokens(["sea"])
    other.save_pretrained(tmp_path / "other")
    message = fails(load_dataset, data(**{**keys, "tokenizer": str(tmp_path / "other")}), "none")
    assert "config.data.tokenizer" in message and tok.fingerprint(other) in message


def test_an_interrupted_preparation_goes_on(documents, data, tmp_path, monkeypatch):
    whole = prepare(data(prepared=str(tmp_path / "whole")), workers=1)
    real, done = UnitPreparer.run, []

    def run(self, number, unit):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(number)
        return real(self, number, unit)

    monkeypatch.setattr(UnitPreparer, "run", run)
    message = fails(prepare, data(), workers=1)
    assert "interrupted: run the same command again" in message
    assert read_manifest(tmp_path / "prepared") is None
    (tmp_path / "prepared" / ".train-00004.array_record.1").write_text("half")
    # Another config is refused in an unfinished directory too.
    assert "length 24 there, 32 now" in fails(prepare, data(length=32), workers=1)
    monkeypatch.setattr(UnitPreparer, "run", lambda *args: done.append(args[1]) or real(*args))
    assert prepare(data(), workers=1) == whole
    assert done == list(range(len(whole["units"])))  # no unit was made twice
    assert checksums(tmp_path / "prepared") == checksums(tmp_path / "whole")
    assert not list((tmp_path / "prepared").glob(".train*"))


def test_an_error_in_a_worker_ends_all_and_names_the_line(documents, data, tmp_path):
    lines = documents.read_text().splitlines()
    documents.write_text("\n".join([*lines[:40], '{"text": 5}', *lines[40:]]))
    message = fails(prepare, data(), workers=2)
    assert "documents.jsonl line 41: field 'text' is not a string" in message
    assert read_manifest(tmp_path / "prepared") is None


def test_shards_made_otherwise_are_refused(documents, data, tmp_path):
    prepare(data(), workers=1)

    def load(**keys):
        return fails(load_dataset, data(**keys), tmp_path / "none")

    assert "config.data.length 24 there, 16 now" in load(length=16)
    assert "config.data.packing 'documents' there, 'stream' now" in load(packing="stream")
    assert "config.data.pad 'pad' there, 'eos' now" in load(pad="eos")
    copy = write_documents(tmp_path / "other.jsonl", seed=1)
    message = load(path=str(copy))
    assert "config.data.path=" in message and "other.jsonl' is another corpus than" in message
    config = defaults.get_config()
    config.data.update({"tokenizer": "bpe", "vocab_size": 290})
    other = tok.train_tokenizer(config.data, [Example("something else")])
    tok.save_tokenizer(other, tmp_path / "other")
    message = load(tokenizer=str(tmp_path / "other"))
    assert "config.data.tokenizer" in message and tok.fingerprint(other) in message
    assert "delete this one" in message
    # Changed files are refused. Missing files are allowed.
    shutil.copy(copy, documents)
    with open(documents, "a") as file:
        file.write('{"text": "more"}\n')
    assert "the corpus has changed" in load()
    documents.unlink()
    load_dataset(data(), tmp_path / "none")


def test_damaged_shards_are_named(documents, data, tmp_path, capsys):
    manifest = prepare(data(), workers=1)
    path = tmp_path / "prepared" / shards(manifest)[2]["name"]
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    message = fails(load_dataset, data(), tmp_path / "none")
    assert path.name in message and f"has {len(good) - 1} bytes" in message
    path.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    load_dataset(data(), tmp_path / "none")  # loading checks sizes, not contents
    message = fails(prepare, data(), workers=1)
    assert path.name in message and "checksum" in message and "delete it" in message
    path.unlink()
    assert path.name in fails(load_dataset, data(), tmp_path / "none")
    assert prepare(data(), workers=1) == manifest and path.read_bytes() == good
    prepare(data(), workers=1)
    assert "is complete" in capsys.readouterr().out


def test_what_cannot_be_prepared(data, tmp_path, documents):
    assert "config.data.prepared is empty" in fails(prepare, data(prepared=""))
    assert "needs no preparing" in fails(prepare, data(kind="unicode_names", path=""))
    assert "no tokenizer (config.data.tokenizer" in fails(
        prepare, data(tokenizer=str(tmp_path / "none"))
    )
    assert not (tmp_path / "prepared").exists()
    assert "leaves nothing for validation" in fails(
        prepare, data(validation_fraction=0.0), workers=1
    )
    message = fails(prepare, data(packing="stream", length=100_000), workers=1)
    assert "tokens, less than one sequence of 100000" in message
    prepare(data(), workers=1)  # the failed attempts left nothing in the directory
    damaged = tmp_path / "prepared" / "manifest.json"
    damaged.write_text("{")
    assert "manifest.json has changed since it was written" in fails(
        load_dataset, data(), tmp_path / "none"
    )
    (tmp_path / "prepared" / "SHA256SUMS").unlink()  # as of version 0.2
    assert "manifest.json is damaged" in fails(load_dataset, data(), tmp_path / "none")


def test_a_tokenizer_is_trained_on_the_training_side_and_kept(documents, data, tmp_path):
    keys = {"tokenizer": "bpe", "vocab_size": 280}
    memory = load_dataset(data(**keys, prepared=""), tmp_path / "none")
    prepared = load_dataset(data(**keys), tmp_path / "none")
    assert tok.fingerprint(prepared.tokenizer) == tok.fingerprint(memory.tokenizer)
    assert "config.data.vocab_size 280 there, 290 now" in fails(
        load_dataset, data(tokenizer="bpe", vocab_size=290), tmp_path / "none"
    )
    tok.save_tokenizer(memory.tokenizer, tmp_path / "run")
    load_dataset(data(**keys), tmp_path / "run")
    assert prepare_workers.cores() >= 1


def test_batches_are_those_of_rows_in_memory(documents, data, tmp_path):
    # One text in each row, so that both have the same rows.
    dataset = load_dataset(data(packing="rows"), tmp_path / "none")
    memory = load_dataset(data(packing="rows", prepared=""), tmp_path / "none")
    parts = [make_iterator(dataset.train, 6, 0, part, 2) for part in range(2)]
    whole = make_iterator(memory.train, 6, 0)
    for _ in range(20):
        halves = np.concatenate([next(part)["tokens"] for part in parts])
        assert (halves == next(whole)["tokens"]).all()
    for iterator in (*parts, whole):
        iterator.close()


def test_training_on_shards_equals_training_in_memory(tmp_path, capsys):
    # Vocabulary and length are those of the tests of training, so that nothing is compiled again.
    from elf_jax.training.trainer import train

    path = tmp_path / "words.jsonl"
    texts = [f"word{i} word{i % 7} word{i % 5}" for i in range(400)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    keys = {"data.kind": "jsonl", "data.path": str(path), "data.packing": "rows"}
    keys |= {"data.tokenizer": "words"}
    in_memory = train(tiny_config(**keys), tmp_path / "memory", until=4)[0].run.state
    config = tiny_config(**keys, **{"data.prepared": str(tmp_path / "prepared")})
    train(config, tmp_path / "run", until=2)
    assert "preparing it first" in capsys.readouterr().out
    resumed = train(config, tmp_path / "run", until=4)[0].run.state
    assert "preparing it first" not in capsys.readouterr().out
    for a, b in zip(*map(jax.tree.leaves, (in_memory, resumed)), strict=True):
        np.testing.assert_array_equal(a, b)
