"""Config keys that had another name in an earlier version.

The table below translates them, so that workdirs, exports and command lines of earlier versions
keep working.
"""

import dataclasses
from collections.abc import Callable

from elf_jax.core.errors import UserError

PROTOCOLS = "evaluate.protocols"


def _same(value):
    return value


def _values(text):
    """ "1,1.5" as ("1", "1.5"), the form of the lists in section `sweep`."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _protocols(text):
    """ "NAME: KEY=VALUE, KEY=VALUE; NAME: ..." as {NAME: {KEY: VALUE}}.

    The name "sample" alone was the default. It meant the section `sample` as it is.

    Raises:
      UserError: two protocols have the same name.
    """
    protocols = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, _, pairs = part.partition(":")
        pairs = (pair.partition("=") for pair in pairs.split(",") if pair.strip())
        if name.strip() in protocols:
            raise UserError(f"config.{PROTOCOLS} names {name.strip()!r} twice: name each once")
        protocols[name.strip()] = {key.strip(): value.strip() for key, _, value in pairs}
    return {} if protocols == {"sample": {}} else protocols


@dataclasses.dataclass(frozen=True)
class Rename:
    """A key with a new name, or a value in a new form.

    Attributes:
      version: the first one with the new name. old, new: "section.key".
      convert: function from a string in the old form to the value in the new form. A value that is
        no string has the new form already.
    """

    version: str
    old: str
    new: str
    convert: Callable = _same


RENAMES = (
    Rename("0.2", "data.source", "data.kind"),
    Rename("0.2", "sweep.guidance_scales", "sweep.guidance_scale", _values),
    Rename("0.2", "sweep.cfg_scales", "sweep.cfg_scale", _values),
    Rename("0.2", "sweep.gammas", "sweep.gamma", _values),
    Rename("0.2", "sweep.time_grids", "sweep.time_grid", _values),
    Rename("0.2", "sweep.steps", "sweep.steps", _values),
    Rename("0.2", PROTOCOLS, PROTOCOLS, _protocols),
)


def translate(flat):
    """Translates {"section.key": value} of any version to the names and forms of this version.

    A value that has the new form already stays as it is.
    """
    renames = {rename.old: rename for rename in RENAMES}
    translated = {}
    for name, value in flat.items():
        rename = renames.get(name)
        if rename is None:
            translated[name] = value
        elif rename.convert is _same or not isinstance(value, str):
            translated[rename.new] = value
        else:
            translated[rename.new] = rename.convert(value)
    return translated


def translate_arguments(arguments):
    """Translates the config keys in command-line arguments to their new names; a list of strings.

    Values keep their form: on the command line, the lists of a sweep are written as before.
    """
    names = {f"config.{rename.old}": f"config.{rename.new}" for rename in RENAMES}
    translated = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        name = flag.lstrip("-")
        if flag.startswith("-") and name in names:
            flag = f"--{names[name]}"
        translated.append(f"{flag}{equals}{value}")
    return translated
