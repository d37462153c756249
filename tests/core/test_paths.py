"""`~` in paths: where it is the home directory and where it stays."""

import getpass
import inspect
import pathlib

import pytest

from elf_jax import commands
from elf_jax.core import config, paths
from elf_jax.core.arguments import PATHS
from elf_jax.core.errors import UserError
from tests.tiny import tiny_config


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_what_is_expanded(home):
    assert paths.expand("~") == str(home) and paths.expand("~/a~/~") == f"{home}/a~/~"
    assert pathlib.Path(paths.expand(pathlib.Path("~/a"))) == home / "a"
    user = getpass.getuser()
    assert paths.expand(f"~{user}/a") == str(pathlib.Path(f"~{user}").expanduser() / "a")
    for same in ("gs://b/~/a", "google-t5/t5-small", "a/~/b", "./~", "b~", "-", "", None, ["~"]):
        assert paths.expand(same) == same


def test_a_nul_byte(home):
    """From a notebook or a config file; no command line can have one."""
    for call in (
        lambda: commands.train(tiny_config(), "a\0b"),
        lambda: commands.train(tiny_config(**{"evaluate.output": "a\0b"}), "run"),
        lambda: commands.fill("run", text="___", output="a\0b"),
        lambda: commands.distill("a\0b", "run"),
    ):
        with pytest.raises(UserError, match=r"^the path 'a\\x00b' has a NUL byte.*: correct it$"):
            call()


def test_the_config_is_a_copy(home):
    keys = {
        **dict.fromkeys(paths.PATHS, "~/a"),
        "data.path": "~/a.txt, x/~.txt,gs://b/~,~/b/*.txt",
        "data.validation_path": "~/c.txt",
    }
    given = tiny_config(**keys)
    made = config.flatten(config.expanded(given))
    assert config.flatten(given) | keys == config.flatten(given)
    assert {made[key] for key in paths.PATHS} == {f"{home}/a"}
    assert made["data.path"] == f"{home}/a.txt, x/~.txt,gs://b/~,{home}/b/*.txt"
    assert made["data.validation_path"] == f"{home}/c.txt"
    plain = tiny_config()
    assert config.expanded(plain) is plain


def test_a_workdir_of_plain_text_is_the_same(home):
    """A config.json of an earlier version has `~` in it."""
    before = tiny_config(**{"data.tokenizer": "~/t", "encoder.path": "~/e"})
    config.write_config(home, before)
    assert config.check_same(home, config.expanded(before)) == {}
    assert config.check_same(home, before) == {}
    assert config.read_config(home).data.tokenizer == f"{home}/t"


def test_every_path_of_every_command_is_expanded(home):
    for name in (*main_commands(), "samples", "load_config"):
        command = getattr(commands, name)
        parameters = inspect.signature(command).parameters
        assert command.__wrapped__ and parameters.keys() & {*PATHS, "config"}, name
    with pytest.raises(UserError, match=f"no trained model in '{home}/run'"):
        list(commands.samples("~/run"))
    with pytest.raises(UserError, match=f"no config at '{home}/my.py'"):
        commands.load_config("~/my.py")


def main_commands():
    import main

    return [command.__name__ for command in main.MODES.values()]
