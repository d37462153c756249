"""Small configs for tests: the shipped ones with everything shrunk that costs time."""

import json
import random

from configs import base


def tiny_config(**keys):
    """A config that trains in seconds on the names; `keys` are "section__key"."""
    config = base.get_config()
    values = {
        "data.source": "unicode_names",
        "data.validation_fraction": 0.1,
        "data.length": 8,
        "data.pad": "eos",
        "data.vocab_size": 300,
        "encoder.width": 8,
        "model.depth": 1,
        "model.width": 16,
        "model.heads": 2,
        "model.bottleneck": 8,
        "optimizer.warmup.epochs": 0.0,
        "optimizer.ema": 0.9,
        "train.batch_size": 16,
        "train.duration.epochs": 0.0,
        "train.duration.steps": 6,
        "train.log_every": 2,
        "train.validate_every": 0,
        "train.validation_batches": 1,
        "train.checkpoint_every": 3,
        "mesh.data": 1,
        "sample.steps": 2,
        "sample.num_samples": 3,
        "evaluate.num_samples": 5,
    }
    config.update_from_flattened_dict({**values, **keys})
    return config


def write_pairs(path, count=40, seed=0):
    """JSON lines with a source and its reverse as the target."""
    rng = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(count):
            source = "".join(rng.choice("abcdef") for _ in range(rng.randint(2, 5)))
            file.write(json.dumps({"source": source, "target": source[::-1]}) + "\n")
    return path


def write_book(path, paragraphs=60, seed=0):
    """Plain text of made-up paragraphs."""
    rng = random.Random(seed)
    words = "the sea was calm and nobody in the harbour spoke of what had been seen at dawn".split()
    text = "\n\n".join(
        " ".join(rng.choice(words) for _ in range(80)) + "." for _ in range(paragraphs)
    )
    path.write_text(text, encoding="utf-8")
    return path
