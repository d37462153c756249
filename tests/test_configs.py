"""Every shipped config builds and traces a step; a config is the same after writing and reading."""

import importlib
import json
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

import configs
from configs import owt
from elf_jax.commands import sizes
from elf_jax.core import defaults
from elf_jax.core.allowed import METHOD_SECTIONS
from elf_jax.core.config import check_same, flatten, nearest, read_config, update, write_config
from elf_jax.core.errors import UserError
from elf_jax.training import trainer
from tests.tiny import write_book, write_pairs

SHIPPED = sorted(
    path.stem for path in Path(configs.__file__).parent.glob("*.py") if path.stem != "__init__"
)


VARIANTS = ("quickstart:elf_fill", "text:elf_whole", "text:mdlm_fill", "seq2seq:elf_whole")


@pytest.mark.parametrize("name", [*SHIPPED, *VARIANTS])
def test_every_config_makes_a_step(name, tmp_path):
    name, *variant = name.split(":")
    config = importlib.import_module(f"configs.{name}").get_config(*variant)
    assert config.is_locked
    tiny = {
        "data.length": 8,
        "data.vocab_size": 300,
        "data.given.slack": 2,
        "encoder.width": 8,
        "model.depth": 1,
        "model.width": 16,
        "model.heads": 2,
        "train.batch_size": 8,
        "train.validation_batches": 1,
        "mesh.data": 1,
    }
    if config.data.kind in ("tfds", "hf", "jsonl"):  # a small local file instead of a download
        tiny.update(_local_data(config.data, tmp_path))
        tiny.update({"encoder.kind": "gaussian", "encoder.std": 1.0})
    elif config.data.kind == "text":
        tiny["data.path"] = str(write_book(tmp_path / "book.txt"))
        tiny["data.validation_fraction"] = 0.3
    update(config, tiny)
    config = sizes.fitted(config)
    run = trainer.build_training(config, tmp_path / "run").run
    # The step is only traced, which checks all shapes and types, but not compiled.
    state, metrics = jax.eval_shape(run.train_step, run.state, run.place(next(run.iterator), 0))
    assert state.params.keys() == run.state.params.keys() and run.shown.keys() <= metrics.keys()
    run.checkpoints.close()


def _local_data(data, directory):
    path = directory / "data.jsonl"
    keys = {"data.kind": "jsonl", "data.tokenizer": "bpe", "data.validation_split": ""}
    keys.update({"data.validation_fraction": 0.3, "data.prepared": str(directory / "prepared")})
    if data.source_field:
        keys.update({"data.source_field": "source", "data.field": "target"})
        return {**keys, "data.path": str(write_pairs(path)), "data.source_length": 4}
    path.write_text("".join(f'{{"text": "document {i}"}}\n' for i in range(200)))
    return {**keys, "data.path": str(path)}


@pytest.mark.parametrize("size, depth", [("elf_b", 12), ("elf_m", 24), ("elf_l", 32)])
def test_sizes_of_openwebtext(size, depth):
    assert owt.get_config(size).model.depth == depth
    with pytest.raises(ValueError, match="no size 's'"):
        owt.get_config("elf_s")


@pytest.mark.parametrize("name", ["text", "seq2seq"])
def test_whole_rows_are_a_variant(name):
    get_config = importlib.import_module(f"configs.{name}").get_config
    blocks, whole = get_config("elf"), get_config("elf_whole")
    assert blocks.model.block_length == 1 and blocks.model.token_table
    assert whole.method == "elf" and not whole.model.block_length and not whole.model.token_table
    assert blocks.sample.token_temperature and not whole.sample.token_temperature
    assert whole.sample.sampler == "sde" and whole.sample.steps >= 32
    assert get_config("mdlm").model.block_length == 0
    for config in (blocks, whole, get_config("mdlm")):
        assert config.optimizer.adam_scale == 1.0
    with pytest.raises(ValueError, match="no method 'mdlm_whole'|no variant 'mdlm_whole'"):
        get_config("mdlm_whole")


def test_a_text_model_that_fills_writes_whole_rows():
    config = importlib.import_module("configs.text").get_config("elf_fill")
    assert config.model.block_length == 0 and config.data.given.spans > 0


def test_a_config_survives_being_kept(tmp_path):
    config = defaults.get_config()
    config.seed = 3
    write_config(tmp_path, config)
    assert read_config(tmp_path).to_dict() == config.to_dict()
    assert check_same(tmp_path, config) == {}


def test_a_kept_config_that_does_not_fit_is_refused(tmp_path):
    config = defaults.get_config().to_dict()
    config["train"]["batchsize"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="did you mean 'train.batch_size'"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="restore the file"):
        read_config(tmp_path)


def test_a_misplaced_key_is_found_by_its_name():
    known = flatten(defaults.get_config())
    assert "'optimizer.learning_rate'" in nearest("train.learning_rate", known)
    assert "defaults.py" in nearest("qqqq", known)
    with pytest.raises(UserError, match="must be of type int"):
        update(defaults.get_config(), {"train.batch_size": "many"})
    assert isinstance(defaults.get_config().train, ConfigDict)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_config_of_elf_does_not_know_the_rivals(name):
    """A workdir of a version without the other methods has the defaults in their sections, so these
    must stay what ELF's configs have. Otherwise its training would be refused.
    """
    config, plain = importlib.import_module(f"configs.{name}").get_config(), defaults.get_config()
    assert config.method == plain.method
    for section in METHOD_SECTIONS:
        assert config[section].to_dict() == plain[section].to_dict(), section
