"""Fixtures of the tests of prepared data."""

import pytest

from elf_jax.core import defaults
from elf_jax.data import corpora
from elf_jax.data.examples import Example
from elf_jax.data.tokenizer import save_tokenizer, train_tokenizer
from tests.data.helpers import WORDS, write_documents


@pytest.fixture(scope="session")
def tokenizer_directory(tmp_path_factory):
    """A directory with a small tokenizer."""
    config = defaults.get_config()
    config.data.update({"tokenizer": "bpe", "vocab_size": 300})
    texts = [Example(" ".join(WORDS)), Example("abcdef")]
    directory = tmp_path_factory.mktemp("kept") / "tokenizer"
    save_tokenizer(train_tokenizer(config.data, texts), directory)
    return directory


@pytest.fixture
def data(tmp_path, tokenizer_directory):
    """Function of keys that makes the section `data` of a config for documents."""

    def make(**keys):
        config = defaults.get_config()
        values = {
            "kind": "jsonl",
            "path": str(tmp_path / "documents.jsonl"),
            "prepared": str(tmp_path / "prepared"),
            "tokenizer": str(tokenizer_directory),
            "packing": "documents",
            "validation_fraction": 0.2,
            "length": 24,
        }
        config.data.update({**values, **keys})
        return config.data

    return make


@pytest.fixture
def documents(tmp_path, monkeypatch):
    """A file of documents that is prepared in about eight units."""
    path = write_documents(tmp_path / "documents.jsonl")
    monkeypatch.setattr(corpora, "PIECE_BYTES", path.stat().st_size // 16)
    monkeypatch.setattr(corpora, "UNIT_BYTES", path.stat().st_size // 8)
    return path
