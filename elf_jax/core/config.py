"""Reads, changes, compares and keeps configs.

`defaults.py` has every key, `checks.py` has the rules for values, `renames.py` has the names that
keys had in earlier versions.
"""

import difflib
import pathlib
import runpy
import shlex
import sys

from ml_collections import ConfigDict

from elf_jax.core import allowed, checksums, defaults, paths
from elf_jax.core.errors import UserError, explain
from elf_jax.core.files import read_json, write_json
from elf_jax.core.renames import PROTOCOLS, translate
from elf_jax.core.workdir import CONFIG

NOT_SETTINGS = ("model_type", "export")  # other keys in the config.json of an export

# These keys may change in a workdir: nothing that was computed before depends on them.
MAY_CHANGE = (
    "train.duration.",
    "train.log_every",
    "train.validate_every",
    "train.samples",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.max_minutes",
    "distill.",  # a distillation compares these itself
    "mesh.",
    "sample.",
    "fill.",
    "evaluate.",
    "sweep.",
    "compare.",
    "scorer.",
)
# These may change too if the rows of the data stay the same, which their fingerprint shows.
PLACES = ("data.path", "data.validation_path", "data.prepared", "data.bad_lines")
# A training keeps the values of these keys that it began with, whatever the config says now. A
# workdir of an earlier version, which did not have the key, has this value.
FOLLOWED = {
    "optimizer.ema_warmup": False,
    "data.longest_block": 0,
    "model.token_table": False,
    "model.hide_padding": False,
}
# What a key that is missing in a config of an earlier version has there.
BEFORE = {**FOLLOWED, "scorer.optimizer": "adamw"}
# Keys of section `sample` that a protocol cannot set: weights are loaded once for all protocols.
NOT_OF_PROTOCOLS = ("num_samples", "batch_size", "weights", "seed")


def run_config_file(path):
    """The config that the function get_config() of a Python file returns.

    Args:
      path: such as configs/owt.py, or configs/owt.py:elf_l for get_config("elf_l").

    Raises:
      UserError: there is no such file, or no such variant.
    """
    file, _, variant = str(path).partition(":")
    if not pathlib.Path(file).is_file():
        raise UserError(f"no config at {file!r}: the folder configs/ has all configs")
    try:
        return runpy.run_path(file)["get_config"](*([variant] if variant else []))
    except OSError as error:
        raise UserError(explain(error) or f"{file} cannot be read: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} gives no config ({error}): check file and variant") from None


def flatten(config, prefix=""):
    """{"section.key": value} of every leaf of a config. The protocols are one leaf, a dict."""
    flat = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name == PROTOCOLS:
            flat[name] = value.to_dict() if isinstance(value, ConfigDict) else value
        elif isinstance(value, ConfigDict):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def update(config, flat):
    """Sets the keys of `flat` ("section.key" to value) in `config`.

    The protocols may be set as a whole or key by key: "evaluate.protocols.NAME.steps".

    Raises:
      UserError: the config does not have the key (the message names the nearest one), or the value
        has another type.
    """
    known = flatten(config)
    for name, value in flat.items():
        if name == PROTOCOLS:
            _set_protocols(config, value)
        elif name.startswith(f"{PROTOCOLS}."):
            _set_protocol_key(config, name, value)
        elif name not in known:
            raise UserError(f"unknown config key {name!r}: {nearest(name, known)}")
        else:
            _set(config, name, value)


def update_from_text(config, flat):
    """`update` with values as text, as on a command line. Of a duration, the unit that is set
    replaces the one that was set before.

    Raises:
      UserError: as `update`, or a text is no value of the type of its key.
    """
    known = flatten(config)
    values = {name: _parse(name, text, known.get(name)) for name, text in flat.items()}
    for section in {name.rpartition(".")[0] for name in flat} & set(allowed.DURATIONS):
        units = (f"{section}.{unit}" for unit in defaults.duration())
        values |= {unit: type(known[unit])(0) for unit in units if unit not in flat}
    update(config, values)


def _parse(name, text, before):
    """A text as a value of the type of `before`. Lists, protocols and unknown keys stay as they
    are: `update` reads them.
    """
    if not isinstance(text, str) or not isinstance(before, bool | int | float):
        return text
    try:
        if isinstance(before, bool):
            return {"true": True, "false": False}[text.lower()]
        return type(before)(text)
    except (KeyError, ValueError):
        wanted = type(before).__name__
        raise UserError(f"config.{name} must be of type {wanted}, not {text!r}") from None


def _set(config, name, value):
    *parents, leaf = name.split(".")
    section = config
    for parent in parents:
        section = section[parent]
    try:
        if value is None:  # a ConfigDict would take it for every type
            raise TypeError
        if isinstance(section[leaf], tuple):
            value = _values(config, name, leaf, value)
        section[leaf] = value
    except TypeError:
        wanted = section.get_type(leaf).__name__
        raise UserError(f"config.{name} must be of type {wanted}, not {value!r}") from None


def _values(config, name, key, values):
    """A list of `sweep` or `compare` as a tuple; its values get the type of the key in `sample`."""
    values = [values] if isinstance(values, str | int | float) else values  # JSON has no tuples
    parts = [part.strip() for value in values for part in str(value).split(",")]
    wanted = type(config.sample[key])
    try:
        return tuple(wanted(part) for part in parts if part)
    except ValueError:
        raise UserError(
            f"config.{name} has {values!r}: give a list of values of type {wanted.__name__}"
        ) from None


def _set_protocols(config, protocols):
    is_section = isinstance(protocols, dict | ConfigDict)
    if not (is_section and all(isinstance(one, dict | ConfigDict) for one in protocols.values())):
        raise UserError(
            f"config.{PROTOCOLS} is {protocols!r}: write {PROTOCOLS}.NAME.KEY, such as .steps"
        )
    with config.unlocked():
        config.evaluate.protocols = ConfigDict()
    for protocol, values in protocols.items():
        _add_protocol(config, protocol)
        for key, value in values.items():
            _set_protocol_key(config, f"{PROTOCOLS}.{protocol}.{key}", value)


def _set_protocol_key(config, name, value):
    """Sets one key of a protocol: a key of section `sample`, with the type that it has there."""
    _, _, protocol, *rest = name.split(".")
    if len(rest) != 1:
        raise UserError(f"unknown config key {name!r}: write {PROTOCOLS}.NAME.KEY, such as .steps")
    key, sample = rest[0], config.sample
    known = [f"{PROTOCOLS}.{protocol}.{one}" for one in sample if one not in NOT_OF_PROTOCOLS]
    if name not in known:
        raise UserError(f"unknown config key {name!r}: {nearest(name, known)}")
    wanted = type(sample[key])
    try:
        if wanted is int and isinstance(value, float) and value != int(value):
            raise ValueError
        value = wanted(value)
    except (TypeError, ValueError):
        raise UserError(f"config.{name} must be of type {wanted.__name__}, not {value!r}") from None
    _add_protocol(config, protocol)
    with config.unlocked():
        config.evaluate.protocols[protocol][key] = value


def _add_protocol(config, name):
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UserError(
            f"config.{PROTOCOLS} has a protocol named {name!r}: use letters, digits, - and _"
        )
    if name not in config.evaluate.protocols:
        with config.unlocked():
            config.evaluate.protocols[name] = ConfigDict()


def nearest(name, known):
    """A hint for an unknown key: the known key that was probably meant."""
    close = difflib.get_close_matches(name, known, 1, 0.5)
    # A key may be in another section than the user wrote. Then its last part alone matches.
    same_leaf = [key for key in known if key.split(".")[-1] == name.split(".")[-1]]
    best = same_leaf or close
    return f"did you mean {best[0]!r}?" if best else "elf_jax/core/defaults.py lists all keys"


def expanded(config):
    """The config with `~` expanded in its paths; a copy, if there is any."""
    flat = flatten(config)
    changes = {key: path for key, path in paths.expand_keys(flat).items() if path != flat[key]}
    if changes:
        config = config.copy_and_resolve_references()
        update(config, changes)
    return config


def write_config(workdir, config):
    """Writes the full config into the workdir."""
    write_json(pathlib.Path(workdir) / CONFIG, config.to_dict())


def read_config(workdir):
    """The full config that the model in a workdir or an export was trained with.

    Raises:
      UserError: there is no config, or it does not fit this version.
    """
    path = pathlib.Path(workdir) / CONFIG
    if not path.is_file():
        raise UserError(
            f"no trained model in {str(workdir)!r} ({CONFIG} is missing): train one with "
            f"--config=CONFIG --workdir={workdir}, or name its workdir"
        )
    checksums.check(path)
    config, values = defaults.get_config(), read_json(path)
    try:
        values = {name: value for name, value in values.items() if name not in NOT_SETTINGS}
        update(config, {**BEFORE, **translate(flatten(ConfigDict(values)))})
    except (ValueError, TypeError, AttributeError, UserError) as error:
        raise UserError(f"{path} cannot be used ({error}): restore the file") from None
    return expanded(config)


def followed(workdir, config):
    """A config in which the keys of FOLLOWED have the values of a workdir.

    The config itself is returned if there is no workdir yet, or all are the same.
    """
    if not (pathlib.Path(workdir) / CONFIG).is_file():
        return config
    kept, now = flatten(read_config(workdir)), flatten(config)
    differ = {name: kept[name] for name in FOLLOWED if name in now and kept[name] != now[name]}
    if not differ:
        return config
    config = config.copy_and_resolve_references()
    update(config, differ)
    return config


def say_followed(asked, config):
    """Prints a line for each key in which the result of `followed` is not what was asked for."""
    asked, config = flatten(asked), flatten(config)
    for name in FOLLOWED:
        if asked[name] != config[name]:
            note = f"config.{name} stays {config[name]!r} here, as at the beginning"
            print(note, file=sys.stderr)


def check_same(workdir, config, only=lambda name: True, fixed=lambda name: False):
    """Compares a config with the one that a workdir was made with.

    Args:
      only: function (key) -> bool, whether a difference in this key is an error. A key that
        `may_change` is no error.
      fixed: function (key) -> bool, whether a key may not change here although it `may_change`.

    Returns:
      {"section.key": (value there, value now)} of the keys that differ and may change; empty if
      there is no workdir yet.

    Raises:
      UserError: other keys differ; the message names them.
    """
    if not (pathlib.Path(workdir) / CONFIG).is_file():
        return {}
    before, now = flatten(read_config(workdir)), flatten(expanded(config))
    changed = {
        name: (before.get(name), now.get(name))
        for name in sorted(set(before) | set(now))
        if before.get(name) != now.get(name)
    }

    def refuses(name):
        return fixed(name) or (only(name) and not may_change(name))

    refused = [
        f"{name} ({there!r} there, {here!r} now)"
        for name, (there, here) in changed.items()
        if refuses(name)
    ]
    if refused:
        raise UserError(
            f"workdir {str(workdir)!r} was made with another config; it differs in "
            f"{', '.join(refused)}: use the same values{_as_flags(changed, refuses)} or another "
            "--workdir"
        )
    return {name: values for name, values in changed.items() if may_change(name)}


def _as_flags(changed, refuses):
    """The refused values of the workdir as flags, in brackets; empty if there are many."""
    flags = [
        f"--config.{name}={shlex.quote(str(there))}"
        for name, (there, _) in changed.items()
        if refuses(name)
    ]
    return f" ({' '.join(flags)})" if len(flags) <= 3 else ""


def is_of_data(name):
    """Whether the rows of the data, or how they are read, depend on the key `name`. The law of the
    given positions is of the training alone.
    """
    return name.startswith("data.") and not name.startswith("data.given.")


def may_change(name):
    """Whether the value of the key `name` may change in a workdir."""
    return name.startswith(MAY_CHANGE) or name in PLACES
