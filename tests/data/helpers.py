"""Shared by the tests of the data."""

import json
import random

import pytest

from elf_jax.core import defaults
from elf_jax.core.errors import UserError

WORDS = "the sea was calm and nobody in the harbour spoke of what had been seen at dawn".split()


def fails(call, *args, **keys):
    """The message of the UserError that a call raises. It is one line."""
    with pytest.raises(UserError) as error:
        call(*args, **keys)
    assert "\n" not in str(error.value)
    return str(error.value)


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
