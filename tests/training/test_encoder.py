"""An encoder from scratch: its files, resuming, and an ELF that is trained with it."""

import json
import shutil

import jax
import numpy as np
import pytest

from elf_jax.core.errors import UserError
from elf_jax.core.workdir import STATISTICS
from elf_jax.data.examples import Example
from elf_jax.data.tokenizer import add_sentinels, encode, load_tokenizer, train_tokenizer
from elf_jax.methods.registry import build_method
from elf_jax.pretrained.t5 import load_t5
from elf_jax.training import encoder as pretrain
from elf_jax.training import trainer
from elf_jax.training.metrics_log import read_metrics
from tests.tiny import tiny_config, write_book, write_pairs

KEYS = {
    "data.kind": "text",
    "data.validation_fraction": 0.3,
    "data.length": 24,
    "pretrain.width": 16,
    "pretrain.depth": 2,
    "pretrain.decoder_depth": 1,
    "pretrain.heads": 2,
    "pretrain.head_width": 4,
    "pretrain.hidden": 24,
    "pretrain.batch_size": 16,
    "pretrain.duration.steps": 30,
    "pretrain.log_every": 10,
    "pretrain.validate_every": 20,
    "pretrain.validation_batches": 1,
    "pretrain.checkpoint_every": 15,
    "pretrain.optimizer.learning_rate": 0.3,
    "pretrain.optimizer.warmup.steps": 2,
}


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly():
    """Turns optimisations off, because these programs take much longer to compile than to run."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def config_for(book, **keys):
    return tiny_config(**{**KEYS, "data.path": str(book), **keys})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(config, directory) of a finished pretraining."""
    root = tmp_path_factory.mktemp("pretrain")
    config = config_for(write_book(root / "book.txt"))
    end = pretrain.pretrain_encoder(config, root / "encoder")
    assert end["step"] == 30
    return config, root / "encoder"


def test_sentinels_move_no_other_token(tmp_path):
    config = tiny_config()
    for kind in ("bpe", "words"):
        config.data.tokenizer = kind
        texts = ["the cat <extra_id_0> sat", "the mat"]
        tokenizer = train_tokenizer(config.data, [Example(text) for text in texts])
        before, ids = tokenizer.get_vocab(), encode(tokenizer, texts)
        sentinels = add_sentinels(tokenizer, 3)
        np.testing.assert_array_equal(sentinels, len(before) + np.arange(3))
        tokenizer.save_pretrained(tmp_path / kind)
        kept = load_tokenizer(tmp_path / kind)
        assert len(kept) == len(before) + 3
        assert {**kept.get_vocab(), **before} == kept.get_vocab()
        # A sentinel in the text is still read as normal text.
        for one, two in zip(encode(kept, texts), ids, strict=True):
            np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(add_sentinels(kept, 4), len(before) + np.arange(4))


def test_the_directory_is_that_of_a_t5(finished):
    config, directory = finished
    written = json.loads((directory / "config.json").read_text())
    tokenizer = load_tokenizer(directory)
    assert written["architectures"] == ["T5ForConditionalGeneration"]
    assert written["vocab_size"] == len(tokenizer)
    # Of 24 tokens, four are hidden, in one span. So there is one sentinel.
    assert tokenizer.convert_ids_to_tokens(len(tokenizer) - 1) == "<extra_id_0>"
    sizes, params = load_t5(directory)
    assert (sizes.d_model, sizes.num_layers, sizes.gated) == (16, 2, True)
    assert params["embed"]["embedding"].shape == (len(tokenizer), 16)
    working = directory.with_name("encoder-pretraining")
    history = read_metrics(working)
    assert [entry["step"] for entry in history] == [10, 15, 20, 30]
    assert [entry["step"] for entry in history if "validation_loss" in entry] == [20, 30]
    # It learns: the accuracy is far above that of always predicting the most frequent token.
    assert history[-1]["validation_loss"] < history[0]["loss"] - 1
    assert 0.25 < history[-1]["validation_accuracy"] <= 1
    # A finished encoder is not trained again. With another config, an error says so.
    files = {path: path.read_bytes() for path in directory.iterdir()}
    assert pretrain.pretrain_encoder(config, directory) is None
    other = config_for(config.data.path, **{"pretrain.width": 20})
    with pytest.raises(UserError, match="pretrain.width .16 there, 20 now"):
        pretrain.pretrain_encoder(other, directory)
    assert {path: path.read_bytes() for path in directory.iterdir()} == files


def test_resuming_changes_nothing(finished, tmp_path):
    config, directory = finished
    assert pretrain.pretrain_encoder(config, tmp_path / "encoder", until=15) is None
    assert not (tmp_path / "encoder").exists()
    pretrain.pretrain_encoder(config, tmp_path / "encoder")
    straight, resumed = (path / "model.safetensors" for path in (directory, tmp_path / "encoder"))
    assert straight.read_bytes() == resumed.read_bytes()
    # An unfinished training of version 0.1 is recognised.
    (tmp_path / "old-pretraining").mkdir()
    (tmp_path / "old-pretraining" / "history.json").write_text("[]")
    with pytest.raises(UserError, match="unfinished training of version 0.1"):
        pretrain.pretrain_encoder(config, tmp_path / "old")
    # A directory that does not come from this training is never changed.
    shutil.rmtree(tmp_path / "encoder-pretraining")
    with pytest.raises(UserError, match="name another directory"):
        pretrain.pretrain_encoder(config, tmp_path / "encoder")


def test_four_devices_equal_one(finished, tmp_path):
    """Rows and parameters are split over the mesh. Losses agree up to float32 rounding."""
    config, _ = finished
    histories = []
    for data, fsdp in ((1, 1), (2, 2)):
        keys = {"mesh.data": data, "mesh.fsdp": fsdp, "pretrain.log_every": 1}
        config = config_for(config.data.path, **keys, **{"pretrain.duration.steps": 3})
        output = tmp_path / f"{data}x{fsdp}"
        pretrain.pretrain_encoder(config, output)
        histories.append(read_metrics(output.with_name(f"{output.name}-pretraining")))
    for key in ("loss", "validation_loss"):
        one, four = ([entry[key] for entry in history if key in entry] for history in histories)
        assert len(one) == (3 if key == "loss" else 1)
        np.testing.assert_allclose(four, one, rtol=1e-5)


def test_elf_trains_on_it(finished, tmp_path):
    _, directory = finished
    config = tiny_config(
        **{
            "data.kind": "jsonl",
            "data.path": str(write_pairs(tmp_path / "pairs.jsonl")),
            "data.field": "target",
            "data.source_field": "source",
            "data.source_length": 10,
            "data.length": 24,
            "data.validation_fraction": 0.3,
            "data.tokenizer": str(directory),
            "encoder.kind": "t5",
            "encoder.path": str(directory),
            "optimizer.name": "adamw",
            "train.duration.steps": 1,
        }
    )
    training = trainer.build_training(config, tmp_path / "run")
    run = training.run
    _, metrics = run.train_step(run.state, run.place(next(run.iterator), 0))
    assert np.isfinite(metrics["loss"]) and metrics["gradient_norm"] > 0
    # Sampling uses the statistics of training, and the vocabulary size is that of the tokenizer.
    kept = json.loads((tmp_path / "run" / STATISTICS).read_text())
    size = len(load_tokenizer(tmp_path / "run" / "tokenizer"))
    method, _ = build_method(config, size, training.mesh, tmp_path / "run")
    for encoder in (method.encoder, training.method.encoder):
        assert (encoder.mean, encoder.std) == (kept["mean"], kept["std"])
    assert training.method.vocab_size == size == len(load_tokenizer(directory))


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"pretrain.version": "v2"}, "use one of v1.0, v1.1"),
        ({"pretrain.depth": 0}, "pretrain.depth is 0"),
        (
            {"pretrain.batch_size": 15, "mesh.data": 2},
            "config.pretrain.batch_size=15 is not divisible",
        ),
        ({"pretrain.density": 1.5}, "pretrain.density"),
        ({"pretrain.duration.epochs": 1.0}, "set one of steps, epochs, examples"),
        ({"pretrain.duration.steps": 0}, "pretrain.duration is 0"),
    ],
)
def test_settings_that_cannot_be(keys, message, tmp_path):
    config = config_for(write_book(tmp_path / "book.txt"), **keys)
    with pytest.raises(UserError, match=message):
        pretrain.pretrain_encoder(config, tmp_path / "out" / "encoder")
    assert not (tmp_path / "out").exists()
