"""A program: trains ELF on palindromes with given positions and prints how well it fills gaps."""

import itertools
import json
import pathlib
import sys
import tempfile

import numpy as np

from elf_jax.generation.generate import whole_rows
from elf_jax.training import trainer
from tests.test_learning import SETTINGS
from tests.tiny import tiny_config

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 700


def settings(path):
    others = {
        "data.path": str(path),
        "data.source_field": "",
        "data.packing": "rows",
        "data.length": 9,
        "data.given.suffix": 0.3,
        "data.given.ends": 0.6,
        "data.given.hidden_min": 0.2,
        "data.given.hidden_max": 0.5,
        "data.given.slack": 1,
        "train.duration.steps": STEPS,
        "train.log_every": 100,
        "train.checkpoint_every": STEPS,
        "sample.cfg_scale": 1.0,
    }
    return {**SETTINGS, **others, "evaluate.after_training": False}


def exact(trained, rows, tokens, is_cond):
    """Share of the rows that are filled as they should be."""
    fields = {"tokens": np.where(is_cond, tokens, 0), "is_cond": is_cond, "is_valid": is_cond}
    filled = whole_rows(trained, fields, seed=0)
    right = (filled == tokens)[:, :rows]
    print([round(float(share), 2) for share in np.mean(right, axis=0)])
    return float(np.mean(np.all(right, axis=1)))


def main(directory):
    path = directory / "text.jsonl"
    halves = ["".join(letters) for letters in itertools.product("abcdefgh", repeat=3)]
    lines = [json.dumps({"target": " ".join(half + half)}) for half in halves]
    path.write_text("\n".join(lines))
    training, _ = trainer.train(tiny_config(**settings(path)), directory / "run")
    trained, held = training.trained(), training.dataset.validation
    place = np.arange(9)
    assert (held.valid_length == 7).all()

    right = np.broadcast_to((place >= 3) & (place < 7), held.tokens.shape)
    numbers = {"left half": exact(trained, 7, held.tokens, right)}
    guided = trained.with_settings(trained.config.sample.copy_and_resolve_references())
    guided.config.sample.cfg_scale = 2.0
    numbers["guided"] = exact(guided, 7, held.tokens, right)

    # Two tokens of the left half are hidden in an open gap of three, with the mark after it.
    pad = training.dataset.tokenizer.pad_token_id
    tokens = np.insert(held.tokens, [3, 3], pad, axis=1)[:, :9]
    outside = np.broadcast_to((place < 1) | (place >= 4), tokens.shape)
    numbers["gap"] = exact(trained, 9, tokens, outside)
    print(json.dumps(numbers))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(pathlib.Path(scratch))
