"""Loading only the held-out part, which is all that evaluation needs."""

import shutil
import tempfile

import numpy as np
import pytest

from elf_jax.core import store
from elf_jax.data.dataset import load_dataset, load_held_out
from elf_jax.data.tokenizer import fingerprint, save_tokenizer
from tests.data.helpers import fails, write_documents
from tests.tiny import write_pairs


def same_held_out(part, whole):
    """Checks that a held-out part equals that of the whole `Dataset`."""
    assert part.train is None
    for name, field in whole.validation.take(slice(None)).items():
        np.testing.assert_array_equal(part.validation.take(slice(None))[name], field)
    examples = part.validation_examples, whole.validation_examples
    assert [*examples[0][: len(examples[0])]] == [*examples[1][: len(examples[1])]]
    assert (part.whole, part.conditional) == (whole.whole, whole.conditional)
    assert part.validation_cut == whole.validation_cut
    assert fingerprint(part.tokenizer) == fingerprint(whole.tokenizer)


def remove_training(directory):
    for path in directory.glob("train-*"):
        path.unlink()


def test_of_prepared_data_the_validation_shards_are_enough(documents, data, tmp_path):
    whole = load_dataset(data(), tmp_path / "none")
    documents.unlink()
    remove_training(tmp_path / "prepared")
    part = load_held_out(data(), tmp_path / "none", whole.summary)
    same_held_out(part, whole)
    assert part.summary == whole.summary and part.train is None
    assert part.train_examples == whole.train_examples == []  # shards do not contain texts
    # The corpus may have had another path when the model was trained.
    load_held_out(data(path="elsewhere.jsonl"), tmp_path / "none", whole.summary)
    alone = load_held_out(data(), tmp_path / "none").summary
    assert alone["held_out_fingerprint"] == whole.summary["held_out_fingerprint"]
    assert alone["validation_rows"] == len(whole.validation)
    assert "config.data.length 24 there, 16 now" in fails(
        load_held_out, data(length=16), tmp_path / "none"
    )


def test_prepared_data_that_is_gone(documents, data, tmp_path):
    kept = load_dataset(data(), tmp_path / "none").summary
    shard = tmp_path / "prepared" / "validation-00001.array_record"
    shard.unlink()
    message = fails(load_held_out, data(), tmp_path / "none", kept)
    assert f"held-out text, which is gone from {shard}: restore it, make it again" in message
    shutil.move(tmp_path / "prepared", tmp_path / "moved")
    message = fails(load_held_out, data(), tmp_path / "none", kept)
    assert f"gone from {tmp_path}/prepared: " in message and "config.data.prepared" in message


def test_prepared_data_that_has_changed(documents, data, tmp_path):
    kept = load_dataset(data(), tmp_path / "none").summary
    write_documents(documents, seed=1)
    other = data(prepared=str(tmp_path / "other"))
    now = load_dataset(other, tmp_path / "none").summary
    assert now["held_out_fingerprint"] != kept["held_out_fingerprint"]
    message = fails(load_held_out, other, tmp_path / "none", kept)
    rows = f"({kept['validation_rows']} rows then, {now['validation_rows']} now)"
    assert f"the held-out data has changed since the training {rows}: restore" in message
    # A workdir of version 0.1 has the fingerprint of all the data only.
    old = {name: value for name, value in kept.items() if name != "held_out_fingerprint"}
    assert load_held_out(data(), tmp_path / "none", old).summary == old
    assert "has changed" in fails(load_held_out, other, tmp_path / "none", old)


def test_of_a_store_no_training_shard_is_copied(documents, data, tmp_path, monkeypatch):
    whole = load_dataset(data(), tmp_path / "none")
    save_tokenizer(whole.tokenizer, tmp_path / "run")
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "cache"))
    store.copy.cache_clear()
    settings = data(prepared=f"file://{tmp_path}/prepared")
    same_held_out(load_held_out(settings, tmp_path / "run", whole.summary), whole)
    copied = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    kinds = {name.split("-")[0] for name in copied if not name.startswith(".")}
    assert kinds == {"validation", "manifest.json", "SHA256SUMS"}
    store.copy.cache_clear()
    shutil.rmtree(tmp_path / "prepared")
    message = fails(load_held_out, settings, tmp_path / "run", whole.summary)
    assert f"gone from file://{tmp_path}/prepared: " in message


@pytest.fixture
def apart(data, tmp_path):
    """Function of keys that makes the section `data` for pairs in memory with a validation file."""
    write_pairs(tmp_path / "train.jsonl")
    write_pairs(tmp_path / "held_out.jsonl", 10, seed=1)

    def make(**keys):
        values = {
            "prepared": "",
            "path": str(tmp_path / "train.jsonl"),
            "validation_path": str(tmp_path / "held_out.jsonl"),
            "field": "target",
            "source_field": "source",
            "source_length": 4,
            "packing": "rows",
            "tokenizer": "bpe",
            "vocab_size": 280,
        }
        return data(**{**values, **keys})

    return make


def test_of_files_the_validation_file_is_enough(apart, tmp_path):
    whole = load_dataset(apart(), tmp_path / "run")
    save_tokenizer(whole.tokenizer, tmp_path / "run")
    (tmp_path / "train.jsonl").unlink()
    part = load_held_out(apart(), tmp_path / "run", whole.summary)
    same_held_out(part, whole)
    assert part.summary == whole.summary and part.train_examples is None
    assert part.validation_cut["sources_cut"] > 0
    # The file may have another path, but not other content.
    held_out, moved = tmp_path / "held_out.jsonl", tmp_path / "moved.jsonl"
    held_out.rename(moved)
    message = fails(load_held_out, apart(), tmp_path / "run", whole.summary)
    assert f"held-out text, which is gone from {held_out}: restore it, or set" in message
    assert "config.data.validation_path" in message
    settings = apart(validation_path=str(moved))
    same_held_out(load_held_out(settings, tmp_path / "run", whole.summary), whole)
    write_pairs(moved, 12, seed=2)
    message = fails(load_held_out, settings, tmp_path / "run", whole.summary)
    assert "has changed since the training (10 rows then, 12 now): restore" in message
    message = fails(load_held_out, settings, tmp_path / "no_tokenizer", whole.summary)
    assert "no tokenizer in" in message and "restore it" in message


def test_a_part_that_was_split_off(data, tmp_path):
    write_documents(tmp_path / "documents.jsonl")
    settings = data(prepared="")
    whole = load_dataset(settings, tmp_path / "none")
    part = load_held_out(settings, tmp_path / "none", whole.summary)
    np.testing.assert_array_equal(part.validation.tokens, whole.validation.tokens)
    assert part.train_examples == whole.train_examples  # needed to look up whole texts
    assert load_held_out(settings, tmp_path / "none").summary == whole.summary
    old = {name: value for name, value in whole.summary.items() if "held_out" not in name}
    assert load_held_out(settings, tmp_path / "none", old).summary == old  # of version 0.1
    write_documents(tmp_path / "documents.jsonl", seed=1)
    for kept in (whole.summary, old):
        message = fails(load_held_out, settings, tmp_path / "none", kept)
        assert "has changed" in message and "set config.data.path" in message
    (tmp_path / "documents.jsonl").unlink()
    message = fails(load_held_out, settings, tmp_path / "none", whole.summary)
    assert f"gone from {tmp_path}/documents.jsonl: restore it, or set config.data.path" in message
