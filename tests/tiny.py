"""Small configs, data, workdirs and scorers for tests."""

import json
import pathlib
import random

import jax
import numpy as np
import tokenizers
import transformers

from elf_jax.checkpoints.experiment import Checkpoints
from elf_jax.checkpoints.weights import params_shapes
from elf_jax.core import config as config_module
from elf_jax.core import defaults, fitting, sharding
from elf_jax.core.files import write_json
from elf_jax.core.workdir import DATASET, TOKENIZER
from elf_jax.data.dataset import load_dataset
from elf_jax.data.pipeline import make_iterator
from elf_jax.data.tokenizer import save_tokenizer, vocab_size
from elf_jax.methods.registry import build_method
from elf_jax.networks.gpt2 import GPT2, GPT2Config
from elf_jax.pretrained.gpt2 import save_gpt2
from elf_jax.training.state import TrainState

NAMES = pathlib.Path(__file__).parent / "names.jsonl"  # every 50th name of a Unicode character

# Config keys that make the quickstart tiny, for a command line or for `commands.load_config`.
QUICK = {
    "data.kind": "jsonl",
    "data.path": str(NAMES),
    "data.length": 8,
    "data.vocab_size": 300,
    "encoder.width": 8,
    "model.depth": 1,
    "model.width": 16,
    "model.heads": 2,
    "model.bottleneck": 8,
    "model.unroll": 1,
    "optimizer.name": "adamw",
    "train.batch_size": 16,
    "train.validation_batches": 1,
    "train.samples": 0,
    "evaluate.after_training": False,
}


def tiny_config(**keys):
    """A config that trains in seconds on some names; `keys` is {"section.key": value}."""
    config = defaults.get_config()
    values = {
        "data.kind": "jsonl",
        "data.path": str(NAMES),
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
        "train.samples": 0,  # it compiles a sampler
        "train.checkpoint_every": 3,
        "mesh.data": 1,
        "sample.steps": 2,
        "sample.num_samples": 3,
        "evaluate.num_samples": 5,
    }
    config_module.update(config, {**values, **keys})
    return config


def with_sizes(config):
    """The config, with what the rule of sizes chooses for a small corpus."""
    facts = fitting.Facts(texts=1000, tokens=30_000, target=30, source=30, source_tokens=30_000)
    config_module.update(config, fitting.choose(config_module.flatten(config), facts, True))
    return config


def write_pairs(path, count=40, seed=0):
    """Writes JSON lines. The target of each line is its source, reversed."""
    rng = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(count):
            source = "".join(rng.choice("abcdef") for _ in range(rng.randint(2, 5)))
            file.write(json.dumps({"source": source, "target": source[::-1]}) + "\n")
    return path


def write_book(path, paragraphs=60, seed=0):
    """Writes plain text with paragraphs of random words."""
    rng = random.Random(seed)
    words = "the sea was calm and nobody in the harbour spoke of what had been seen at dawn".split()
    text = "\n\n".join(
        " ".join(rng.choice(words) for _ in range(80)) + "." for _ in range(paragraphs)
    )
    path.write_text(text, encoding="utf-8")
    return path


def pairs_config(path, **keys):
    """The config of a tiny conditional model on the pairs in `path`."""
    return tiny_config(
        **{
            "data.kind": "jsonl",
            "data.path": str(path),
            "data.field": "target",
            "data.source_field": "source",
            "data.source_length": 7,
            "data.length": 14,
            "data.validation_fraction": 0.2,
            "sample.batch_size": 2,
            **keys,
        }
    )


def save_random_weights(config, workdir):
    """Makes a workdir with a checkpoint of step 5. EMA and live weights are random and differ."""
    dataset = load_dataset(config.data, workdir / TOKENIZER)
    mesh = sharding.make_mesh(config.mesh)
    vocabulary = vocab_size(dataset.tokenizer)
    method, frozen = build_method(config, vocabulary, mesh, rows=dataset.train)
    shapes = params_shapes(method, config.data.length)
    draw = np.random.default_rng(0)
    params, ema = (
        jax.tree.map(lambda leaf: draw.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
        for _ in range(2)
    )
    config_module.write_config(workdir, config)
    method.save_frozen(frozen, workdir)
    save_tokenizer(dataset.tokenizer, workdir / TOKENIZER)
    write_json(workdir / DATASET, dataset.summary)
    checkpoints = Checkpoints(workdir)
    iterator = make_iterator(dataset.train, config.train.batch_size, config.seed)
    checkpoints.save(TrainState(np.int32(5), params, ema, {}), iterator, {"train_seconds": 1.5})
    checkpoints.close()
    return workdir


def save_random_scorer(directory, tokenizer, length=12):
    """Makes a directory with a random GPT-2 for the tokens of a tokenizer."""
    sizes = GPT2Config(len(tokenizer), n_positions=length, n_embd=8, n_layer=1, n_head=2)
    shapes = jax.eval_shape(GPT2(sizes).init, jax.random.key(0), np.zeros((1, 1), np.int32))
    draw = np.random.default_rng(0).standard_normal
    params = jax.tree.map(lambda leaf: draw(leaf.shape, np.float32), shapes["params"])
    tokenizer.save_pretrained(directory)
    save_gpt2(directory, sizes, params, tokenizer.eos_token_id)
    return directory


def save_words(directory, count):
    """Makes a directory with a tokenizer of `count` words."""
    words = ["<pad>", "</s>", "<unk>", *(f"w{index}" for index in range(count - 3))]
    core = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: index for index, word in enumerate(words)}, "<unk>")
    )
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(directory)
    return directory
