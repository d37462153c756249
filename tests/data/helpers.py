"""Shared by the tests of the data."""

import bz2
import errno
import gzip
import json
import lzma
import os
import random

import pyarrow
import pytest

from elf_jax.core import defaults
from elf_jax.core.errors import UserError

# By ending: function from bytes to a compressed file of two parts, which readers must join.
COMPRESS = {
    ".gz": lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:]),
    ".bz2": lambda data: bz2.compress(data[:5]) + bz2.compress(data[5:]),
    ".xz": lambda data: lzma.compress(data[:5]) + lzma.compress(data[5:]),
    ".zst": lambda data: _zstd(data[:5]) + _zstd(data[5:]),
}
WORDS = "the sea was calm and nobody in the harbour spoke of what had been seen at dawn".split()


def fails(call, *args, **keys):
    """The message of the UserError that a call raises. It is one line."""
    with pytest.raises(UserError) as error:
        call(*args, **keys)
    assert "\n" not in str(error.value)
    return str(error.value)


def _zstd(data):
    return pyarrow.compress(data, codec="zstd", asbytes=True)


def without_permission(monkeypatch):
    """From now on no file may be read. Tests may run as root, who may read all."""

    def refuse(file, *args, **keys):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))

    monkeypatch.setattr("builtins.open", refuse)


def text_data(**keys):
    """The section `data` of a config for plain text in memory, with these keys set."""
    config = defaults.get_config()
    config.data.update({"kind": "text", "validation_fraction": 0.3, **keys})
    return config.data


def write_documents(path, count=60, seed=0):
    """Writes JSON lines with texts of different lengths; some are empty."""
    rng = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(count):
            text = " ".join(rng.choice(WORDS) for _ in range(rng.choice([0, 3, 8, 20, 60])))
            file.write(json.dumps({"text": text}) + "\n")
    return path
