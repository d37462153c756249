"""The flags of the command line, and the command that they call.

Every argument of a command is a flag, and so is every key of the config's section `sample`.
"""

import errno
import inspect
import os
import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from elf_jax.commands.shared import LISTS, SEVERAL
from elf_jax.core import config, defaults, paths
from elf_jax.core.console import fail
from elf_jax.core.errors import UserError, explain
from elf_jax.core.renames import PROTOCOLS, translate, translate_arguments

SETTINGS = tuple(name for name in defaults.get_config().sample if name != "batch_size")
TEXTS = (
    "workdir",
    "workdirs",
    "checkpoint",
    "teacher",
    "text",
    "source",
    "output",
    "topology",
    "program",
    "scorer",
    "host",
)
# Arguments that are numbers and are not of the section `sample`.
NUMBERS = {"gap": int, "strength": float, "port": int}
_ADDED = {}  # {config key: text} of protocols, which may be new: absl refuses new keys
_KEYS = {}  # {config key: text} of a mode that takes the config of a model and needs no file
_WITHOUT_CONFIG = "config.{} is given without --config: name a config"


class _Several(flags.ArgumentParser):
    """Parses one value, or several with commas between, to a list."""

    def __init__(self, type_):
        self.type = type_

    def parse(self, argument):
        return [self.type(part.strip()) for part in argument.split(",")]

    def flag_type(self):
        return f"{self.type.__name__} list"


def define_flags(modes):
    """Defines all flags; `modes` is {name: command}."""
    see = "see --help"
    config_flags.DEFINE_config_file("config", None, see)
    flags.DEFINE_string("mode", "train", " | ".join(modes))
    flags.DEFINE_enum("format", None, ("text", "jsonl", "html"), see)
    for name in TEXTS:
        flags.DEFINE_string(name, None, see)
    define = {int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}
    for name, type_ in NUMBERS.items():
        define[type_](name, None, see)
    for name in SETTINGS:
        type_ = type(defaults.get_config().sample[name])
        if name in SEVERAL:
            flags.DEFINE(_Several(type_), name, None, see)
        else:
            define[type_](name, None, see)


def parse(argv, text):
    """Parses the flags. A mistake in them ends the program with one line. --help prints `text`."""
    if any(argument in ("--help", "-help", "-h", "--helpfull") for argument in argv[1:]):
        print(text.strip(), flush=True)
        sys.exit(0)
    argv = _without_keys(_without_protocols(translate_arguments(_with_home(argv))))
    sys.argv = argv  # here the config's flag looks for keys to set
    try:
        rest = flags.FLAGS(argv)
        if flags.FLAGS.config is not None:
            flags.FLAGS.config.to_dict()  # loads the file, so that errors show now
        return rest
    except (AttributeError, KeyError) as error:
        fail(_unknown_key(argv) or error)
    except flags.UnrecognizedFlagError as error:
        key = next((a for a in argv if a.lstrip("-").startswith("config.")), None)
        if key and not any(a.lstrip("-").startswith("config=") for a in argv):
            fail(_WITHOUT_CONFIG.format(key.lstrip("-").removeprefix("config.").split("=")[0]))
        fail(f"{error}: python main.py --help lists all flags")
    except OSError as error:
        fail(_unread_config(argv, error))
    except (flags.Error, TypeError, ValueError) as error:
        fail(_failed_config(argv, error))


def _with_home(argv):
    """The arguments with `~` expanded in the path of the config file, which absl opens."""
    arguments, before = [], ""
    for argument in argv:
        name, equals, value = argument.partition("=")
        if before.lstrip("-") == "config" and before.startswith("-"):
            argument = paths.expand(argument)
        elif equals and name.startswith("-") and name.lstrip("-") == "config":
            argument = f"{name}={paths.expand(value)}"
        arguments.append(argument)
        before = argument
    return arguments


def _unread_config(argv, error):
    """The message for a config file that was not read."""
    while error.__cause__ is not None:  # absl raises an error of its own
        error = error.__cause__
    if error.errno not in (None, errno.ENOENT):
        return explain(error) or error
    return f"no config at {_config_files(argv)[-1]!r}: the folder configs/ has all configs"


def _failed_config(argv, error):
    """The message for an error of absl. That of a config file with its function get_config is a
    whole traceback; then it is told again in a line.
    """
    given = _config_files(argv)
    if given and "Traceback" in str(error):
        try:
            config.run_config_file(given[-1])
        except UserError as reason:
            return reason
    return error


def _config_files(argv):
    """The values of --config."""
    return [a.split("=", 1)[1] for a in argv if a.lstrip("-").startswith("config=")]


def _without_protocols(argv):
    """The arguments without those that set protocols, which are kept for `_given`."""
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


def _without_keys(argv):
    """The arguments without those that set config keys, if there is no config file and the mode is
    distill, whose config is that of the teacher. They are kept for `_given`.
    """
    _KEYS.clear()
    names = [argument.lstrip("-") for argument in argv if argument.startswith("-")]
    modes = [a for one, a in zip(argv, argv[1:], strict=False) if one.lstrip("-") == "mode"]
    if "mode=distill" not in names and "distill" not in modes:
        return argv
    if any(name == "config" or name.startswith("config=") for name in names):
        return argv
    rest, arguments = [], iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("-") and name.lstrip("-").startswith("config."):
            key = name.lstrip("-").removeprefix("config.")
            _KEYS[key] = value if equals else next(arguments, "")
        else:
            rest.append(argument)
    return rest


def _unknown_key(argv):
    """The message for the first config key in `argv` that does not exist, or None."""
    known = config.flatten(defaults.get_config())
    for argument in argv[1:]:
        name = argument.lstrip("-").split("=")[0]
        if name.startswith("config.") and name[7:] not in known:
            return f"unknown config key {name[7:]!r}: {config.nearest(name[7:], known)}"
    return None


def command_of(argv, modes):
    """(the command of --mode, its arguments as a dict).

    Raises:
      UserError: the mode is unknown, a flag is not for this mode, or a flag is missing.
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
    of_a_model = {"workdir", "checkpoint"} <= parameters.keys()
    named = any(given.get(name) for name in ("workdir", "checkpoint", "workdirs"))
    if of_a_model and not named:  # here, before the libraries of models are imported
        raise UserError("--workdir is missing: name the directory of a trained model")
    taken = {name: value for name, value in given.items() if _takes(modes[mode], name)}
    return modes[mode], taken


def _given(mode):
    """{name: value} of the flags that the user gave."""
    names = ("config", "format", *TEXTS, *NUMBERS, *SETTINGS)
    given = {name: flags.FLAGS[name].value for name in names}
    # An empty text, as of a shell variable that is not set, is no value.
    given = {name: value for name, value in given.items() if value not in (None, "")}
    if "text" in given:
        given["text"] = _in_utf8(given["text"])
    added = translate(_ADDED)
    _ADDED.clear()
    if mode == "distill" and "config" not in given:
        given["keys"], added = {**_KEYS, **added}, {}
    _KEYS.clear()
    if "config" in given:
        # The lists of a sweep are split and typed as in a config that is read from a file.
        lists = {
            f"{section}.{name}": given["config"][section][name]
            for section, names in LISTS.items()
            for name in names
        }
        lists["distill.steps"] = given["config"].distill.steps
        config.update(given["config"], lists | added)
    elif added:
        raise UserError(_WITHOUT_CONFIG.format(next(iter(added))))
    for name in (name for name in SEVERAL if name in given and name not in LISTS.get(mode, ())):
        if len(given[name]) > 1:
            takers = " and ".join(one for one, names in LISTS.items() if name in names)
            raise UserError(
                f"--{name} has several values, which only --mode={takers} takes: give one"
            )
        (given[name],) = given[name]
    return given


def _in_utf8(text):
    """A text as the user wrote it. Python decodes arguments by the locale, which may be ASCII; of
    bytes that it cannot decode it makes halves of surrogate pairs.
    """
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        pass
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        raise UserError(
            "--text is not UTF-8: use a terminal with UTF-8, or a file in UTF-8 in --source"
        ) from None


def _takes(command, name):
    parameters = inspect.signature(command).parameters
    return name in parameters or (name in SETTINGS and "settings" in parameters)


def _default_workdir(given):
    """runs/NAME or runs/NAME_VARIANT, with the name of the config file; None without a config."""
    if "config" not in given:
        return None
    file, _, variant = flags.FLAGS["config"].config_filename.partition(":")
    name = "_".join(part for part in (pathlib.Path(file).stem, variant) if part)
    return str(pathlib.Path("runs") / name)
