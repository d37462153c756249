"""The functions behind the modes, with plain arguments, as a notebook calls them."""

import json
import shutil

import pytest

from elf_jax import commands
from elf_jax.core.config import read_config, write_config
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import SUMS
from tests.command import ROOT
from tests.tiny import NAMES, QUICK

KEYS = {**QUICK, "mesh.data": 1, "train.duration.steps": 2, "sample.steps": 2}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A workdir that was trained as the README shows."""
    workdir = tmp_path_factory.mktemp("commands") / "run"
    commands.train(commands.load_config(f"{ROOT}/configs/quickstart.py", **KEYS), workdir)
    return workdir


def test_samples_are_those_of_the_command(workdir, tmp_path, capsys):
    pairs = list(commands.samples(workdir, num_samples=3, seed=5))
    assert len(pairs) == 3 and all(source is None for source, _ in pairs)
    commands.sample(workdir, num_samples=3, seed=5, format="jsonl", output=tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == [text for _, text in pairs]
    capsys.readouterr()
    commands.sample(workdir, num_samples=3, seed=5)
    assert capsys.readouterr().out == "".join(f"{text}\n" for _, text in pairs)


def test_a_setting_that_the_method_does_not_have_is_said(workdir, capsys):
    list(commands.samples(workdir, num_samples=1, temperature=0.5, gamma=0.5))
    said = capsys.readouterr().err
    assert "note: --temperature changes nothing: elf has no such setting" in said
    list(commands.samples(workdir, num_samples=1, seed=1, weights="live"))
    assert "changes nothing" not in capsys.readouterr().err


def test_numbers_points_and_exports(workdir, tmp_path):
    numbers = commands.evaluate(workdir, num_samples=2, steps=1)
    assert numbers["provenance"]["protocol"] == "flags" and numbers["provenance"]["steps"] == 1
    with pytest.raises(UserError, match="a sweep draws Gen. PPL, BLEU or ROUGE, and there is none"):
        commands.sweep(workdir, steps=[1, 2])
    output = commands.export(workdir, output=tmp_path / "model", weights="live")
    again = list(commands.samples(checkpoint=output, weights="live", num_samples=2))
    assert again == list(commands.samples(workdir, weights="live", num_samples=2))


def test_answers_to_a_list(pairs_workdir):
    answers = list(commands.samples(pairs_workdir, source=["abc", "", "fed"]))
    assert [source for source, _ in answers] == ["abc", "", "fed"] and answers[1][1] == ""


def test_a_config_is_loaded_with_its_variant_and_keys():
    config = commands.load_config(f"{ROOT}/configs/owt.py:elf_m", **{"train.batch_size": 8})
    assert (config.model.depth, config.train.batch_size) == (24, 8) and config.is_locked
    old = commands.load_config(f"{ROOT}/configs/base.py", **{"data.source": "jsonl"})
    assert old.data.kind == "jsonl"
    for path, message in {
        "configs/none.py": "no config at 'configs/none.py'",
        f"{ROOT}/configs/owt.py:elf_s": "no size 's'",
        f"{ROOT}/configs/base.py:large": "gives no config",
    }.items():
        with pytest.raises(UserError, match=message):
            commands.load_config(path)
    with pytest.raises(UserError, match="did you mean 'train.batch_size'"):
        commands.load_config(f"{ROOT}/configs/base.py", **{"train.batchsize": 8})


def test_what_is_missing_is_said(workdir, tmp_path):
    with pytest.raises(UserError, match="--workdir is missing"):
        list(commands.samples())
    with pytest.raises(UserError, match="no trained model in"):
        commands.evaluate(tmp_path)
    with pytest.raises(UserError, match="unknown config key 'sample.stepz'"):
        list(commands.samples(workdir, stepz=3))


def test_with_checkpoint_the_held_out_text_may_be_another(workdir, tmp_path):
    """The model of a workdir, evaluated on a file of the user's: numbers of that file."""
    names = NAMES.read_text().splitlines()
    losses = []
    for part in (names[:60], names[60:120]):
        held_out = tmp_path / "held_out.jsonl"
        held_out.write_text("\n".join(part) + "\n")
        config = read_config(workdir)
        config.data.validation_path = str(held_out)
        numbers = commands.evaluate(
            tmp_path / "numbers", config, checkpoint=workdir, num_samples=2, steps=1
        )
        losses.append(numbers["validation_loss"])
    assert losses[0] != losses[1]


def test_a_scorer_of_other_data_is_refused(workdir, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(NAMES.read_text().splitlines()[:100]) + "\n")
    config = read_config(workdir)
    config.data.path = str(other)
    with pytest.raises(UserError, match="the data has changed since"):
        commands.train_scorer(workdir, config)
    assert not (workdir / "scorer").exists()


def test_a_value_that_sampling_does_not_use_is_not_in_its_way(workdir, tmp_path):
    """Version 0.1 wrote such configs; only what needs the value refuses it."""
    run = shutil.copytree(workdir, tmp_path / "run")
    config = read_config(run)
    config.scorer.length, config.evaluate.num_samples = 64, 0
    write_config(run, config)
    (run / SUMS).unlink()
    assert len(list(commands.samples(run, num_samples=2))) == 2
    with pytest.raises(UserError, match="evaluate.num_samples is 0"):
        commands.evaluate(run)
