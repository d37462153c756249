"""Sizes by rule: the commands measure the data, say what they chose, and keep it in the workdir."""

import pytest

from elf_jax import commands
from elf_jax.commands import sizes
from elf_jax.commands.shared import model_of
from elf_jax.core.config import flatten, read_config, write_config
from elf_jax.core.errors import UserError
from elf_jax.core.fitting import KEYS, SIZES
from tests.command import ROOT
from tests.tiny import pairs_config, save_random_weights, write_book, write_pairs

TEXT, PAIRS = f"{ROOT}/configs/text.py", f"{ROOT}/configs/seq2seq.py"
TINY = {
    "data.validation_fraction": 0.3,
    "data.length": 8,
    "encoder.width": 8,
    "model.depth": 1,
    "model.width": 16,
    "optimizer.name": "adamw",
    "train.batch_size": 16,
    "train.validation_batches": 1,
    "train.samples": 0,
    "train.duration.steps": 2,
    "mesh.data": 1,
}


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return write_book(tmp_path_factory.mktemp("book") / "book.txt")


def load(file, path, **keys):
    return commands.load_config(file, **{"data.path": str(path), **keys})


def test_a_training_keeps_what_was_chosen(book, tmp_path, capsys):
    config = load(TEXT, book, **TINY)
    commands.train(config, tmp_path)
    said = capsys.readouterr().err
    assert said.count("sizes by rule") == 1
    assert "for 4.2k tokens on a CPU: vocabulary 512, time_mean -0.9, learning rate 0.08" in said
    kept = read_config(tmp_path)
    assert None not in flatten(kept).values() and kept.data.vocab_size == 512
    assert config.data.vocab_size is None  # the config of the caller stays as it is
    _, known = model_of(tmp_path, config, None)  # of sampling and evaluation
    assert known.to_dict() == kept.to_dict()
    commands.train(config, tmp_path)
    assert "sizes by rule" not in capsys.readouterr().err
    assert read_config(tmp_path).to_dict() == kept.to_dict()


def test_a_workdir_keeps_its_numbers_though_the_data_grows(tmp_path, capsys):
    path = write_book(tmp_path / "book.txt")
    first = sizes.fitted(load(TEXT, path), tmp_path)
    write_config(tmp_path, first)
    write_book(path, 6000)
    capsys.readouterr()
    again = sizes.fitted(load(TEXT, path), tmp_path, topology="v5p:2x2x1")
    assert again.to_dict() == first.to_dict() and not capsys.readouterr().err
    longer = sizes.fitted(load(TEXT, path, **{"train.duration.epochs": 3.0}), tmp_path)
    assert longer.train.duration.to_dict() == {"steps": 0, "epochs": 3.0, "examples": 0}
    new = sizes.fitted(load(TEXT, path))
    assert new.data.vocab_size > first.data.vocab_size
    assert "sizes by rule for 576k tokens" in capsys.readouterr().err


def test_what_the_user_sets_is_kept(book, capsys):
    config = sizes.fitted(load(TEXT, book, **{"model.width": 384, "data.vocab_size": 1000}))
    assert config.model.width == 384 and config.optimizer.learning_rate == 0.0089
    said = capsys.readouterr().err
    assert "vocabulary" not in said and "learning rate 0.0089" in said
    plain = commands.load_config(f"{ROOT}/configs/quickstart.py")
    assert sizes.fitted(plain) is plain and not capsys.readouterr().err


def test_pairs_with_long_sources(tmp_path, capsys):
    path = tmp_path / "long.jsonl"
    line = '{"source": "%s %d", "target": "short"}\n'
    path.write_text("".join(line % ("word " * 400, i) for i in range(50)))
    config = sizes.fitted(load(PAIRS, path))
    assert (config.data.source_length, config.data.length) == (192, 200)
    assert "rows of 200 with sources of 192" in capsys.readouterr().err
    config = sizes.fitted(load(PAIRS, path), topology="h100")
    assert config.data.source_length == 512 and "on an accelerator" in capsys.readouterr().err


def test_a_training_from_a_model_has_its_sizes(tmp_path):
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    model = pairs_config(pairs)
    save_random_weights(model, tmp_path / "model")
    config = sizes.fitted(load(PAIRS, pairs), tmp_path / "new", tmp_path / "model")
    values, kept = flatten(config), flatten(model)
    assert {key: values[key] for key in SIZES} == {key: kept[key] for key in SIZES}
    assert config.optimizer.learning_rate == 0.08 and config.train.duration.steps == 1000


def test_one_line_without_data(tmp_path):
    with pytest.raises(UserError) as error:
        commands.train(commands.load_config(TEXT), tmp_path / "run")
    message = "config.data.path is empty, and the rule needs the data to choose "
    assert str(error.value) == f"{message}config.data.vocab_size: name the data, or set these keys"
    with pytest.raises(UserError, match="config.data.vocab_size, config.model.width: name"):
        commands.compile_report(commands.load_config(TEXT), topology="h100")
    with pytest.raises(UserError, match="config.data.kind is 'jsonI'"):
        commands.train(commands.load_config(TEXT, **{"data.kind": "jsonI"}), tmp_path / "run")


def test_every_key_by_rule_is_a_key():
    config = commands.load_config(TEXT)
    assert {key for key, value in flatten(config).items() if value is None} == set(KEYS)
