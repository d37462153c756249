"""Exported models: complete, readable by other programs, and the same model when loaded again."""

import json
import shutil

import huggingface_hub
import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from elf_jax import commands
from elf_jax.checkpoints import export as export_module
from elf_jax.checkpoints.export import export
from elf_jax.checkpoints.origins import find_origin
from elf_jax.checkpoints.trained import load_trained
from elf_jax.core.config import read_config
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import TOKENIZER
from elf_jax.data.dataset import load_dataset
from elf_jax.evaluation.card import model_card, read_results
from elf_jax.generation.generate import generate
from tests.conftest import GOLDEN
from tests.tiny import pairs_config, save_random_weights, save_words, tiny_config, write_pairs


@pytest.fixture(scope="module")
def exported(pairs_workdir, tmp_path_factory):
    output = tmp_path_factory.mktemp("exports") / "model"
    return commands.export(pairs_workdir, output=output)


def conditions(trained):
    """The held-out rows, with the tokenizer that came with the model."""
    return load_dataset(trained.config.data, f"{trained.origin}/{TOKENIZER}").validation


def assert_same(one, two):
    one, two = jax.tree.leaves(one), jax.tree.leaves(two)
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_samples_are_the_same_to_the_last_bit(pairs_workdir, exported):
    before, after = load_trained(pairs_workdir), load_trained(find_origin(exported))
    assert find_origin(exported).kind == "export"
    assert_same(after.params, before.params)
    assert_same(after.frozen, before.frozen)
    assert after.config.to_dict() == before.config.to_dict()
    assert (after.step, after.progress) == (before.step, before.progress)
    rows = [generate(model, 4, 1, conditions(model)) for model in (before, after)]
    assert_same(*rows)
    assert len({tuple(row) for row in rows[0]}) > 1


def test_what_is_in_the_directory(exported, pairs_workdir):
    files = {path.relative_to(exported).as_posix() for path in exported.rglob("*")}
    assert files >= {"model.safetensors", "encoder.safetensors", "config.json", "README.md"}
    assert "tokenizer/tokenizer.json" in files
    tensors = safetensors.numpy.load_file(exported / "model.safetensors")
    params = traverse_util.flatten_dict(load_trained(pairs_workdir).params, sep="/")
    assert tensors.keys() == params.keys() and "blocks/attn/qkv/kernel" in tensors
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.float32)}
    config = json.loads((exported / "config.json").read_text())
    assert config["model_type"] == "elf" and config["export"]["format"] == 1
    assert config["model"]["width"] == 16


def test_the_card_without_and_with_results(pairs_workdir, exported, tmp_path):
    card = (exported / "README.md").read_text()
    assert "None was made" in card and "train_rows" in card and "--source=FILE" in card
    copy = shutil.copytree(pairs_workdir, tmp_path / "run")
    numbers = {
        "bleu": 12.5,
        "validation_loss": 2.0,
        "steps": 7,
        "signatures": {"bleu": "nrefs:1|case:mixed"},
        "protocols": {
            "ode": {"bleu": {"mean": 12.5, "standard_error": 0.25, "seeds": 2}},
            "sde": {"bleu": {"mean": 11.0, "standard_error": None, "seeds": 1}},
        },
        "provenance": {"num_samples": 9, "checkpoint": str(copy)},
    }
    (copy / "evaluation.json").write_text(json.dumps(numbers))
    commands.export(copy, output=tmp_path / "out")
    card = huggingface_hub.ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == "elf-jax" and card.data.pipeline_tag == "translation"
    assert [(r.metric_type, r.metric_value) for r in card.data.eval_results] == [
        ("bleu", 12.5),
        ("validation_loss", 2.0),
    ]
    assert "| bleu | 12.5000 ± 0.2500 | 11.0000 |" in card.text
    assert "| num_samples | 9 |" in card.text and "| bleu | nrefs:1\\|case:mixed |" in card.text
    # The card is published, so it must not contain local paths.
    assert str(tmp_path) not in card.text
    (copy / "evaluation.json").write_text("{")
    with pytest.raises(UserError, match="evaluation.json is damaged"):
        commands.export(copy, output=tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "damaged",
    [
        {"protocols": {"ode": {"bleu": {"meao": 1.0, "standard_error": None}}}},
        {"protocols": {"ode": {"bleu": {"mean": 1.0, "standard_erros": None}}}},
        {"protocols": {"ode": {"bleu": {"mean": 1.0, "standard_error": "0.1"}}}},
        {"protocols": {"ode": {"bleu": 1.0}}},
        {"protocols": {"ode": 1.0}},
        {"protocols": ["ode"]},
        {"real": 3},
        {"signatures": None},
        {"provenance": "here"},
    ],
)
def test_a_damaged_summary_is_said(damaged, tmp_path):
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps({"bleu": 1.0} | damaged))
    with pytest.raises(UserError, match="it is no summary of an evaluation.*: remove it and run"):
        read_results(path)


def test_live_weights_are_exported_when_asked_for(pairs_workdir, tmp_path):
    config = read_config(pairs_workdir)
    config.sample.weights = "live"
    live = load_trained(pairs_workdir, config)
    export(live, tmp_path / "live", "card")
    again = load_trained(find_origin(tmp_path / "live"))
    assert_same(again.params, live.params)
    again.config.sample.weights = "ema"
    with pytest.raises(UserError, match="holds the live weights only: use --weights=live"):
        load_trained(find_origin(tmp_path / "live"), again.config)


def test_whole_or_not_at_all(pairs_workdir, tmp_path, monkeypatch):
    trained = load_trained(pairs_workdir)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UserError, match="exists and is no exported model"):
        export(trained, tmp_path / "mine", "card")
    export(trained, tmp_path / "model", "card")
    before = (tmp_path / "model" / "README.md").read_text()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(export_module, "write_text", fail)
    for name in ("model", "other"):
        with pytest.raises(OSError, match="disk full"):
            export(trained, tmp_path / name, "other")
    assert (tmp_path / "model" / "README.md").read_text() == before == "card"
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "model"}


def test_damage_is_named(exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="model.safetensors has changed since it was written"):
        load_trained(find_origin(copy))
    (copy / "SHA256SUMS").unlink()  # as in exports of version 0.2
    with pytest.raises(UserError, match="copy is damaged"):
        load_trained(find_origin(copy))
    config = json.loads((copy / "config.json").read_text())
    config["export"]["format"] = 2
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="has format 2, and this version reads up to 1"):
        load_trained(find_origin(copy))


def test_a_git_lfs_pointer_is_called_by_its_name(exported, tmp_path):
    for name in ("model.safetensors", "encoder.safetensors", "tokenizer/tokenizer.json"):
        copy = shutil.copytree(exported, tmp_path / name.replace("/", "-"))
        (copy / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
        with pytest.raises(UserError, match=f"{name} is a Git LFS pointer.*run git lfs pull"):
            load_trained(find_origin(copy))


def test_a_local_t5_goes_along(tmp_path):
    t5 = shutil.copytree(GOLDEN / "t5_tiny", tmp_path / "t5")
    vocabulary = save_words(tmp_path / "words", 50)
    config = pairs_config(
        write_pairs(tmp_path / "pairs.jsonl"),
        **{"encoder.kind": "t5", "encoder.path": str(t5), "data.tokenizer": str(vocabulary)},
    )
    before = load_trained(save_random_weights(config, tmp_path / "run"))
    export(before, tmp_path / "model", model_card(before, "model"))
    shutil.rmtree(t5)
    shutil.rmtree(vocabulary)
    after = load_trained(find_origin(tmp_path / "model"))
    assert_same(after.frozen, before.frozen)
    scales = [(m.method.encoder.mean, m.method.encoder.std) for m in (before, after)]
    assert scales[0] == scales[1] != (0.0, 1.0)  # measured, and exported with the model
    assert_same(after.params, before.params)


def test_a_published_checkpoint_can_be_exported(tmp_path, golden_params):
    config = tiny_config(
        **{
            "data.length": 16,
            "data.tokenizer": str(save_words(tmp_path / "words", 64)),
            "encoder.width": 32,
            "model.depth": 4,
            "model.width": 48,
            "model.heads": 4,
            "sample.weights": "live",
        }
    )
    published = load_trained(find_origin(GOLDEN / "reference_checkpoint.msgpack"), config)
    export(published, tmp_path / "model", "card")
    again = load_trained(find_origin(tmp_path / "model"))
    assert_same(again.params, golden_params)
    assert again.step == 123 and again.progress == {"train_seconds": None}
