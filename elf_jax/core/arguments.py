"""`~` in the arguments of the commands: expanded for the command line and for notebooks alike."""

import functools
import inspect

from elf_jax.core import config as config_module
from elf_jax.core import paths

# The names of paths.
PATHS = ("path", "workdir", "checkpoint", "teacher", "source", "output", "scorer")


def expanding(command):
    """The command, with `~` expanded in the paths of its arguments and of its config.

    Args:
      command: a function. Its arguments named in PATHS are paths; `config` is a config or None. It
        gets a copy of a config in which something was expanded.
    """
    signature = inspect.signature(command)

    @functools.wraps(command)
    def run(*args, **kwargs):
        given = signature.bind(*args, **kwargs)
        for name, value in given.arguments.items():
            if name in PATHS:
                given.arguments[name] = paths.expand(value)
            elif name == "config" and value is not None:
                given.arguments[name] = config_module.expanded(value)
        return command(*given.args, **given.kwargs)

    return run
