"""Configs as records: kept with what they made, read back, compared."""

import difflib
import json
import pathlib

from ml_collections import ConfigDict

from configs import base
from elf_jax.errors import UserError
from elf_jax.files import write_json

FILE = "config.json"
NOT_SETTINGS = ("model_type", "export")  # what an exported model's config.json holds besides


def flatten(config, prefix=""):
    """{"section.key": value} of every leaf of a config."""
    flat = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, ConfigDict) else {name: value})
    return flat


def update(config, flat):
    """Sets the keys of `flat` ("section.key" to value) in `config`.

    Raises:
      UserError: a key that the config does not have (naming the nearest), or a value of another
        type.
    """
    known = flatten(config)
    for name, value in flat.items():
        if name not in known:
            raise UserError(f"unknown config key {name!r}: {nearest(name, known)}")
        *parents, leaf = name.split(".")
        section = config
        for parent in parents:
            section = section[parent]
        try:
            section[leaf] = value
        except TypeError:
            kind = type(known[name]).__name__
            raise UserError(f"config.{name} must be of type {kind}, not {value!r}") from None


def nearest(name, known):
    """A hint at the known key that `name` may have meant."""
    close = difflib.get_close_matches(name, known, 1, 0.5)
    # A misplaced key may have another section: then the last part alone finds it.
    same_leaf = [key for key in known if key.split(".")[-1] == name.split(".")[-1]]
    best = same_leaf or close
    return f"did you mean {best[0]!r}?" if best else "configs/base.py lists all keys"


def save(workdir, config):
    """Keeps the full config in the workdir."""
    write_json(pathlib.Path(workdir) / FILE, config.to_dict())


def load(workdir):
    """The full config that the workdir's model was trained with.

    Raises:
      UserError: there is none, or it does not fit this version.
    """
    path = pathlib.Path(workdir) / FILE
    if not path.is_file():
        raise UserError(
            f"no trained model in {str(workdir)!r} ({FILE} is missing): train one with "
            f"--config=CONFIG --workdir={workdir}, or name its workdir"
        )
    config = base.get_config()
    try:
        values = dict(json.loads(path.read_text(encoding="utf-8")))
        values = {name: value for name, value in values.items() if name not in NOT_SETTINGS}
        update(config, flatten(ConfigDict(values)))
    except (ValueError, UserError) as error:
        raise UserError(f"{path} cannot be used ({error}): restore the file") from None
    return config


def check_same(workdir, config, only=lambda name: True):
    """Raises UserError if the workdir was made with another config; it names the keys."""
    if not (pathlib.Path(workdir) / FILE).is_file():
        return
    before, now = flatten(load(workdir)), flatten(config)
    names = sorted(set(before) | set(now))
    differ = [
        f"{name} ({before.get(name)!r} there, {now.get(name)!r} now)"
        for name in names
        if before.get(name) != now.get(name) and only(name)
    ]
    if differ:
        raise UserError(
            f"workdir {str(workdir)!r} was made with another config; it differs in "
            f"{', '.join(differ)}: use the same values or another --workdir"
        )
