"""Configs and command lines of earlier versions: every old name and every old form of a value."""

import json
import re
import sys
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

import main
from elf_jax import command_line, commands
from elf_jax.core import checks, defaults
from elf_jax.core.config import flatten, read_config, update
from elf_jax.core.errors import UserError
from elf_jax.core.renames import RENAMES, translate, translate_arguments

ROOT = Path(main.__file__).parent
PROTOCOLS = "evaluate.protocols"
# (old key, value in the old form, new key, value in a config of this version)
OLD = [
    ("data.source", "text", "data.kind", "text"),
    ("sweep.guidance_scales", "1, 1.5,3", "sweep.guidance_scale", (1.0, 1.5, 3.0)),
    ("sweep.cfg_scales", "", "sweep.cfg_scale", ()),
    ("sweep.gammas", "1", "sweep.gamma", (1.0,)),
    ("sweep.time_grids", "uniform,logit_normal", "sweep.time_grid", ("uniform", "logit_normal")),
    ("sweep.steps", "16,32", "sweep.steps", (16, 32)),
    (
        PROTOCOLS,
        " sde32 : sampler=sde, steps=32 ; ode-1:cfg_scale=2;plain;",
        PROTOCOLS,
        {"sde32": {"sampler": "sde", "steps": 32}, "ode-1": {"cfg_scale": 2.0}, "plain": {}},
    ),
    (PROTOCOLS, "sample", PROTOCOLS, {}),  # the default of version 0.1: no protocols
    (PROTOCOLS, "", PROTOCOLS, {}),
]


def test_the_table_names_keys_of_today():
    known, tested = flatten(defaults.get_config()), {(old, new) for old, _, new, _ in OLD}
    assert {(rename.old, rename.new) for rename in RENAMES} == tested
    for rename in RENAMES:
        assert rename.new in known and re.fullmatch(r"\d+\.\d+", rename.version)
        assert rename.old == rename.new or rename.old not in known


@pytest.mark.parametrize("old, value, new, expected", OLD)
def test_every_entry(old, value, new, expected):
    translated = translate({old: value, "seed": 3})
    assert translated.keys() == {new, "seed"} and translated["seed"] == 3
    config = defaults.get_config()
    update(config, translated)
    checks.check(config)
    assert flatten(config)[new] == expected
    # A key and value in the new form are not changed.
    assert translate({new: expected}) == {new: expected}


def test_a_kept_config_of_version_0_1(tmp_path):
    values = defaults.get_config().to_dict()
    values["data"]["source"] = "jsonl"
    del values["data"]["kind"]
    values["sweep"] = {"steps": "8", "gammas": "1,2", "num_samples": 4}
    values["evaluate"]["protocols"] = "a: steps=3; b: gamma=1, time_grid=uniform"
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = read_config(tmp_path)
    assert config.data.kind == "jsonl" and config.sweep.num_samples == 4
    assert config.sweep.steps == (8,) and config.sweep.gamma == (1.0, 2.0)
    assert config.evaluate.protocols.to_dict() == {
        "a": {"steps": 3},
        "b": {"gamma": 1.0, "time_grid": "uniform"},
    }


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: steps=1; a: steps=2", "names 'a' twice"),
        ("steps=3", "a protocol named 'steps=3'"),
        ("a: stepz=3", "unknown config key 'evaluate.protocols.a.stepz'"),
        ("a: steps=1.5", "evaluate.protocols.a.steps must be of type int"),
        ("a: steps", "evaluate.protocols.a.steps must be of type int"),
    ],
)
def test_protocols_that_cannot_be(text, message):
    with pytest.raises(UserError, match=message):
        update(defaults.get_config(), translate({PROTOCOLS: text}))


def test_arguments():
    old = ["main.py", "--config.data.source=text", "-config.sweep.gammas=1,2", "--seed=1"]
    new = ["main.py", "--config.data.kind=text", "--config.sweep.gamma=1,2", "--seed=1"]
    assert translate_arguments(old) == translate_arguments(new) == new
    # A value as a separate argument, a value that contains "=", a key that only begins like an old
    # name.
    rest = [
        "--config.data.source",
        "text",
        "--config.data.path=a=b",
        "--config.data.source_field=x",
    ]
    assert translate_arguments(rest) == ["--config.data.kind", *rest[1:]]
    assert translate_arguments(["config.data.source=text"]) == ["config.data.source=text"]


@pytest.mark.parametrize("several", ["1,2", "(1, 2)"])
def test_a_command_line_of_version_0_1(several):
    """It gives the same config as the keys of this version."""
    argv = ["main.py", f"--config={ROOT}/configs/text.py", "--workdir=x"]
    argv += ["--config.data.source=jsonl", f"--config.sweep.guidance_scales={several}"]
    argv += ["--config.sweep.steps=4", "--config.sweep.time_grids=uniform,logit_normal"]
    argv += ["--config.evaluate.protocols=a: steps=3; b: gamma=1"]
    with flagsaver.flagsaver(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", sys.argv)  # `main.parse` sets it
        flags.FLAGS.unparse_flags()
        command, given = command_line.command_of(main.parse(argv), main.MODES)
    config = given["config"]
    assert command is commands.train and config.data.kind == "jsonl"
    assert config.sweep.guidance_scale == (1.0, 2.0) and config.sweep.steps == (4,)
    assert config.sweep.time_grid == ("uniform", "logit_normal")
    assert config.evaluate.protocols.to_dict() == {"a": {"steps": 3}, "b": {"gamma": 1.0}}
    assert isinstance(config.sweep.guidance_scale[0], float)
