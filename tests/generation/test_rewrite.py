"""Rewriting: nothing changes at strength 0, all at 1, and between them more and more."""

import jax
import numpy as np
import pytest

from elf_jax import commands
from elf_jax.checkpoints.trained import load_trained
from elf_jax.core.allowed import SAMPLERS
from elf_jax.core.errors import UserError
from elf_jax.core.types import Batch
from elf_jax.data.tokenizer import encode
from elf_jax.generation.generate import generate_texts, scales
from elf_jax.generation.rewrite import Counts, describe, jit_rewriter, rewrite
from elf_jax.methods.registry import METHODS, build_method
from elf_jax.training import trainer
from tests.generation.test_answers import command
from tests.methods.test_every_method import SIZES, mesh_of, random_params
from tests.tiny import save_random_weights, tiny_config, write_book

pytestmark = pytest.mark.usefixtures("share_programs")

NAMES = {
    "data.tokenizer": "words",
    "data.packing": "rows",
    "data.vocab_size": 60,
    "data.length": 12,
    "encoder.width": 16,
    "model.width": 32,
    "model.bottleneck": 16,
    "objective.decode_noise_scale": 1.0,
    "objective.time_mean": -0.5,
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 0.1,
    "optimizer.ema": 0.95,
    "train.batch_size": 32,
    "train.duration.steps": 120,
    "train.log_every": 120,
    "train.checkpoint_every": 1000,
    "sample.steps": 6,
    "sample.guidance_scale": 1.0,
    "sample.batch_size": 8,
}


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A small ELF that has learned some names, held-out names of words that it knows, and its
    compiled rewriter.
    """
    workdir = tmp_path_factory.mktemp("rewrite")
    training, _ = trainer.train(tiny_config(**NAMES), workdir)
    trained, known = training.trained(), training.dataset.tokenizer.get_vocab()
    names = [one.text.split() for one in training.dataset.validation_examples]
    texts = [" ".join(word for word in name if f" {word}" in known) for name in names]
    return trained, [text for text in texts if text], jit_rewriter(trained)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A workdir of a model of a stream, with random weights."""
    root = tmp_path_factory.mktemp("rewrite_book")
    keys = {"method": "mdlm", "sample.sampler": "ancestral", "data.kind": "text"}
    keys |= {"data.path": str(write_book(root / "book.txt")), "data.length": 16}
    keys |= {"data.pad": "pad", "optimizer.ema": 0.0}
    return save_random_weights(tiny_config(**keys), root / "run")


def rewritten(trained, texts, strength, **keys):
    lines = ((f"line {number}", text) for number, text in enumerate(texts, 1))
    keys = {"seed": 0, **keys}
    return [record for batch in rewrite(trained, lines, strength, **keys) for record in batch]


def overlap(trained, records):
    """The mean share of the tokens of a text that its new text has too."""
    pairs = [encode(trained.tokenizer, [one["source"], one["text"]]) for one in records]
    return np.mean([len({*a.tolist()} & {*b.tolist()}) / len({*a.tolist()}) for a, b in pairs])


def test_the_overlap_falls_with_the_strength(learned):
    trained, texts, run = learned
    shares = [
        overlap(trained, rewritten(trained, texts, strength, samples=8, run=run))
        for strength in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    assert shares[0] == 1 and (np.diff(shares) < 0).all() and shares[-1] < 0.5, shares


def test_the_ends_are_the_text_and_a_new_sample(learned):
    trained, texts, run = learned
    same = rewritten(trained, [*texts, "", "  "], 0, run=run)
    assert [one["text"] for one in same] == [*texts, "", ""] and len(texts) > 20
    new = rewritten(trained, texts, 1.0, seed=3, run=run)
    assert [one["text"] for one in new] == generate_texts(trained, len(texts), 3)
    assert run._cache_size() == 1


def test_samples_are_next_to_each_other(learned):
    trained, texts, run = learned
    several = rewritten(trained, texts[:8], 0.9, samples=3, run=run)
    assert [one["source"] for one in several] == [text for text in texts[:8] for _ in range(3)]
    assert [one["sample"] for one in several] == [0, 1, 2] * 8
    assert several[::3] == rewritten(trained, texts[:8], 0.9, run=run)
    assert len({one["text"] for one in several}) > 8


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_begins_where_the_strength_says(name):
    config = tiny_config(**{"method": name, "sample.sampler": SAMPLERS[name][0], **SIZES})
    method, frozen = build_method(config, 20, mesh_of(1))
    if name == "ar":
        with pytest.raises(UserError, match="config.method is ar, which cannot rewrite: use elf"):
            method.rewriter(config.sample, 8)
        return
    params, values = random_params(method, 8), scales(method, config.sample)
    tokens = np.random.default_rng(2).integers(0, 20, (8, 8)).astype(np.int32)
    batch = Batch(tokens, np.zeros_like(tokens, bool), np.ones_like(tokens, bool))
    inputs = params, frozen, np.arange(8), batch, jax.random.key(1), values
    run = jax.jit(method.rewriter(config.sample, 8))
    strengths = [np.float32(strength) for strength in (0, 0.3, 1)]
    same, near, new = (np.asarray(run(*inputs, strength)) for strength in strengths)
    assert run._cache_size() == 1
    np.testing.assert_array_equal(same, tokens)
    fresh = jax.jit(method.sampler(config.sample, 8))(
        params, frozen, np.arange(8), None, jax.random.key(1), values
    )
    np.testing.assert_array_equal(new, fresh)
    assert ((0 <= near) & (near < 20)).all() and (near != tokens).any()
    if name in ("mdlm", "llada", "duo"):  # tokens without noise stay, or nearly all do
        assert (near == tokens).mean() > (new == tokens).mean() + 0.2


def test_a_stream_keeps_its_number_of_tokens(book):
    trained = load_trained(book)
    run = jit_rewriter(trained)
    texts = ["the sea was calm", "at dawn", "x" * 16]
    for strength in (0.0, 0.5, 1.0):
        records = rewritten(trained, texts, strength, run=run)
        if not strength:
            assert [one["text"] for one in records] == texts
        for one in records:
            assert "</s>" not in one["text"] and "<pad>" not in one["text"]
    assert records[0]["text"] != texts[0]
    size = len(encode(trained.tokenizer, ["the sea was calm" * 9])[0])
    with pytest.raises(UserError, match=f"line 2: the text has {size} tokens, and .* for 16"):
        rewritten(trained, ["a", "the sea was calm" * 9], 0.5)


def test_the_command(book, capsys):
    command("--mode=rewrite", f"--workdir={book}", "--text=the sea", "--strength=0")
    assert capsys.readouterr().out == "the sea\n"
    records = list(commands.rewrites(book, source=["the sea", ""], strength=0.7, num_samples=2))
    assert [one["sample"] for one in records] == [0, 1, 0, 1] and records[2]["text"] == ""
    for strength in ("-0.1", "1.5", "nan"):
        with pytest.raises(SystemExit):
            command("--mode=rewrite", f"--workdir={book}", "--text=a", f"--strength={strength}")
        fault = capsys.readouterr().err
        assert "--strength is " in fault and "from 0 (the text itself)" in fault


def test_unknown_words_are_told(learned):
    trained, texts, run = learned
    counts = Counts()
    rewritten(trained, [texts[0], "zzz", ""], 0.5, samples=2, run=run, counts=counts)
    assert counts == Counts(texts=3, unknown=1)
    assert describe(counts).startswith("note: 1 of 3 texts have words that the model does not know")
    assert describe(Counts(texts=3)) == ""


def test_pairs_are_not_rewritten(pairs_workdir):
    with pytest.raises(UserError, match="was trained on pairs .* takes no single texts"):
        list(commands.rewrites(pairs_workdir, text="a"))
