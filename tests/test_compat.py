"""Workdirs, exports, configs and command lines of version 0.1 keep working."""

import json
import shutil
from pathlib import Path

import pytest

from elf_jax.core.config import flatten, read_config
from tests.command import cli

KEPT = Path(__file__).parent / "compat"
SAMPLES = ["--mode=sample", "--num_samples=4", "--steps=4", "--seed=3"]


@pytest.fixture
def home(tmp_path):
    """A copy of the files that version 0.1 wrote."""
    return shutil.copytree(KEPT, tmp_path / "home")


@pytest.mark.parametrize("model", ["--workdir=text_run", "--checkpoint=text_export"])
def test_the_samples_are_the_same_to_the_byte(model, home):
    done = cli(*SAMPLES, model, cwd=home, optimised=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.encode() == (home / "text_run_samples.txt").read_bytes()


def test_a_workdir_goes_on(home):
    """Trains two more steps, with the command line and the data of version 0.1."""
    kept = json.loads((home / "text_run" / "config.json").read_text())
    keys = flatten_json(kept)
    keys["train.duration.steps"] = 14
    arguments = [f"--config.{name}={value}" for name, value in keys.items()]
    done = cli("--config=BASE", "--workdir=text_run", *arguments, cwd=home)
    assert done.returncode == 0, done.stderr
    assert "resuming from the checkpoint of step 12" in done.stdout
    steps = [json.loads(line)["step"] for line in (home / "text_run" / "metrics.jsonl").open()]
    assert steps[-1] == 14
    # The config is saved with the names of this version.
    config = json.loads((home / "text_run" / "config.json").read_text())
    assert config["data"]["kind"] == "jsonl" and "source" not in config["data"]


def flatten_json(values, prefix=""):
    """{"section.key": value} of a config.json of version 0.1."""
    flat = {}
    for name, value in values.items():
        nested = isinstance(value, dict)
        flat.update(flatten_json(value, f"{prefix}{name}.") if nested else {prefix + name: value})
    return flat


def test_evaluation_and_export(home):
    args = ["--workdir=text_run", "--num_samples=5"]
    done = cli("--mode=evaluate", *args, cwd=home)
    assert done.returncode == 0, done.stderr
    assert "validation_loss" in done.stdout
    done = cli("--mode=export", "--workdir=text_run", "--output=again", cwd=home)
    assert done.returncode == 0, done.stderr
    one, two = (home / name / "model.safetensors" for name in ("text_export", "again"))
    assert one.read_bytes() == two.read_bytes()


def test_the_config_is_read_under_its_new_names():
    flat = flatten(read_config(KEPT / "text_run"))
    assert flat["data.kind"] == "jsonl" and flat["method"] == "elf"
    assert flat["sweep.steps"] == (16, 32, 64) and flat["sweep.gamma"] == (1.0, 1.5)
    assert flat["evaluate.protocols"] == {}
