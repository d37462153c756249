"""The flags of the command line, and which command they come to.

Every argument of a command is a flag, and so is every key of the config's section `sample`.
"""

import inspect
import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from elf_jax.commands import SEVERAL
from elf_jax.core import config, defaults
from elf_jax.core.errors import UserError
from elf_jax.core.renames import PROTOCOLS, translate, translate_arguments

SETTINGS = tuple(name for name in defaults.get_config().sample if name != "batch_size")
TEXTS = ("workdir", "checkpoint", "source", "output", "topology", "program", "scorer")
_ADDED = {}  # {config key: text} of protocols, whose names a config need not have


class _Several(flags.ArgumentParser):
    """One value or several with commas between: a list."""

    def __init__(self, kind):
        self.kind = kind

    def parse(self, argument):
        return [self.kind(part.strip()) for part in argument.split(",")]

    def flag_type(self):
        return f"{self.kind.__name__} list"


def define_flags(modes):
    """Defines all flags; `modes` is {name: command}."""
    see = "see --help"
    config_flags.DEFINE_config_file("config", None, see)
    flags.DEFINE_string("mode", "train", " | ".join(modes))
    flags.DEFINE_enum("format", None, ("text", "jsonl"), see)
    for name in TEXTS:
        flags.DEFINE_string(name, None, see)
    define = {int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}
    for name in SETTINGS:
        kind = type(defaults.get_config().sample[name])
        if name in SEVERAL:
            flags.DEFINE(_Several(kind), name, None, see)
        else:
            define[kind](name, None, see)


def parse(argv, text):
    """Flags, with every mistake in them as one line; --help prints `text`."""
    if any(argument in ("--help", "-help", "-h", "--helpfull") for argument in argv[1:]):
        print(text.strip())
        sys.exit(0)
    argv = _without_protocols(translate_arguments(argv))
    sys.argv = argv  # where the config's flag looks for keys to set
    try:
        rest = flags.FLAGS(argv)
        if flags.FLAGS.config is not None:
            flags.FLAGS.config.to_dict()  # a config that is not there shows only when it is touched
        return rest
    except (AttributeError, KeyError) as error:
        fail(_unknown_key(argv) or error)
    except flags.UnrecognizedFlagError as error:
        fail(f"{error}: python main.py --help lists all flags")
    except OSError:
        given = [a.split("=", 1)[1] for a in argv if a.lstrip("-").startswith("config=")]
        fail(f"no config at {given[-1]!r}: see configs/ for those that there are")
    except (flags.Error, TypeError, ValueError) as error:
        fail(error)


def _without_protocols(argv):
    """The arguments but those that set protocols, which are kept for `_config`."""
    _ADDED.clear()
    rest, arguments = [], iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        key = name.lstrip("-").removeprefix("config.")
        if name.startswith("-") and (key == PROTOCOLS or key.startswith(f"{PROTOCOLS}.")):
            _ADDED[key] = value if equals else next(arguments, "")
        else:
            rest.append(argument)
    return rest


def _unknown_key(argv):
    """The message for the first override of a key that configs do not have, or None."""
    known = config.flatten(defaults.get_config())
    for argument in argv[1:]:
        name = argument.lstrip("-").split("=")[0]
        if name.startswith("config.") and name[7:] not in known:
            return f"unknown config key {name[7:]!r}: {config.nearest(name[7:], known)}"
    return None


def command_of(argv, modes):
    """(the command of --mode, its arguments as a dict).

    Raises:
      UserError: an unknown mode, a flag that the mode does not take, or one that is missing.
    """
    if argv[1:]:
        raise UserError(f"unknown argument {argv[1]!r}: settings are given as --name=value")
    mode = flags.FLAGS.mode
    if mode not in modes:
        raise UserError(f"--mode is {mode!r}; use one of {', '.join(modes)}")
    given = _given(mode)
    for name in given.keys() - {"config", "workdir"}:
        takers = [other for other, command in modes.items() if _takes(command, name)]
        if mode not in takers:
            raise UserError(f"--{name} is for --mode={' and '.join(takers)}: leave it out")
    parameters = inspect.signature(modes[mode]).parameters
    required = [name for name, one in parameters.items() if one.default is one.empty]
    if "config" in required and "config" not in given:
        raise UserError("--config is missing: for example --config=configs/quickstart.py")
    if "workdir" not in given and ("workdir" in required or "checkpoint" not in given):
        given["workdir"] = _default_workdir(given)
    taken = {name: value for name, value in given.items() if _takes(modes[mode], name)}
    return modes[mode], taken


def _given(mode):
    """{name: value} of the flags that were given."""
    names = ("config", "format", *TEXTS, *SETTINGS)
    given = {name: flags.FLAGS[name].value for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    if "config" in given:
        # Lists are typed and split as they are in a config that is read from a file.
        lists = {f"sweep.{name}": given["config"].sweep[name] for name in SEVERAL}
        config.update(given["config"], lists | translate(_ADDED))
    elif _ADDED:
        raise UserError(f"config.{next(iter(_ADDED))} is given without --config: name a config")
    for name in (name for name in SEVERAL if name in given and mode != "sweep"):
        if len(given[name]) > 1:
            raise UserError(f"--{name} has several values, which is for --mode=sweep: give one")
        (given[name],) = given[name]
    return given


def _takes(command, name):
    parameters = inspect.signature(command).parameters
    return name in parameters or (name in SETTINGS and "settings" in parameters)


def _default_workdir(given):
    """runs/NAME, after the config; None without one."""
    if "config" not in given:
        return None
    file = flags.FLAGS["config"].config_filename.split(":")[0]
    return str(pathlib.Path("runs") / pathlib.Path(file).stem)


def fail(error):
    """One line to standard error, and exit code 2."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)
