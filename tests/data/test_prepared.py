"""Prepared directories that were moved, from version 0.1, or with another corpus."""

import json
import shutil

import pytest

from elf_jax.data.dataset import load_dataset
from elf_jax.data.manifest import read_manifest, shards
from elf_jax.data.prepare import STARTED, UNFINISHED, prepare
from elf_jax.data.prepare_unit import UnitPreparer
from tests.data.helpers import fails, write_documents


def as_of_version_0_1(path):
    """Changes a manifest, or a similar file, to the format and the names of version 0.1."""
    manifest = json.loads(path.read_text())
    manifest["options"]["source"] = manifest["options"].pop("kind")
    if "fingerprint" in manifest:
        manifest["fingerprint"] = "0123456789abcdef"  # version 0.1 also hashed the paths
    path.write_text(json.dumps(manifest, indent=2))
    return manifest


def test_a_corpus_may_move(documents, data, tmp_path):
    here = prepare(data(), workers=1)
    first = load_dataset(data(), tmp_path / "none")
    (tmp_path / "away").mkdir()
    moved = str(shutil.move(documents, tmp_path / "away" / documents.name))
    second = load_dataset(data(path=moved), tmp_path / "none")
    assert first.summary == second.summary
    assert prepare(data(path=moved), workers=1) == here
    # The same corpus at another path, prepared in another directory, has the same fingerprint.
    there = prepare(data(path=moved, prepared=str(tmp_path / "other")), workers=1)
    assert there["fingerprint"] == here["fingerprint"] and there["options"]["path"] == moved
    shutil.move(tmp_path / "other", tmp_path / "moved")
    third = load_dataset(data(path=moved, prepared=str(tmp_path / "moved")), tmp_path / "none")
    assert third.summary == first.summary


@pytest.mark.parametrize("call", [prepare, lambda settings: load_dataset(settings, "none")])
def test_a_corpus_in_another_place_must_be_the_same(call, documents, data, tmp_path):
    prepare(data(), workers=1)
    (tmp_path / "away").mkdir()
    other = write_documents(tmp_path / "away" / documents.name, seed=1)
    message = fails(call, data(path=str(other)))
    assert f"config.data.path='{other}' is another corpus than" in message
    other.unlink()
    message = fails(call, data(path=str(other)))
    assert f"config.data.path='{other}' cannot be compared" in message
    documents.unlink()  # with the old path, the file may be missing
    call(data())


def test_a_directory_of_version_0_1(documents, data, tmp_path):
    prepare(data(), workers=1)
    old = as_of_version_0_1(tmp_path / "prepared" / "manifest.json")
    (tmp_path / "prepared" / "SHA256SUMS").unlink()
    dataset = load_dataset(data(), tmp_path / "none")
    assert dataset.summary["fingerprint"] == old["fingerprint"]  # so training can continue
    assert len(dataset.train) == old["counts"]["train"]["rows"]
    assert "config.data.kind 'jsonl' there, 'text' now" in fails(
        load_dataset, data(kind="text"), tmp_path / "none"
    )
    # A shard that is made again is equal to the old one, so the fingerprint stays the same.
    (tmp_path / "prepared" / shards(old)[0]["name"]).unlink()
    assert prepare(data(), workers=1)["fingerprint"] == old["fingerprint"]
    assert read_manifest(tmp_path / "prepared")["fingerprint"] == old["fingerprint"]


def test_an_interrupted_preparation_of_version_0_1(documents, data, tmp_path, monkeypatch):
    whole = prepare(data(prepared=str(tmp_path / "whole")), workers=1)
    real, numbers = UnitPreparer.run, []

    def run(self, number, unit):
        numbers.append(number)
        if len(numbers) == 4:
            raise KeyboardInterrupt
        return real(self, number, unit)

    monkeypatch.setattr(UnitPreparer, "run", run)
    fails(prepare, data(), workers=1)
    as_of_version_0_1(tmp_path / "prepared" / UNFINISHED / STARTED)
    assert prepare(data(), workers=1)["fingerprint"] == whole["fingerprint"]
    assert numbers == [0, 1, 2, 3, *range(3, len(whole["units"]))]
