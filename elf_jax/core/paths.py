"""`~` at the start of a path: the home directory, as in a shell.

A shell does not expand the `~` in --workdir=~/run, and a notebook has no shell. So the commands
expand it: in their arguments and in the keys of the config that are paths.
"""

import os

from elf_jax.core.errors import UserError

# Keys of a config that are a path, and keys that are paths with commas between them.
PATHS = (
    "data.prepared",
    "data.tokenizer",
    "encoder.path",
    "evaluate.output",
    "scorer.path",
)
LISTS = ("data.path", "data.validation_path")


def expand(path):
    """A path with the home directory in place of a leading `~` or `~user`.

    URLs, names on the Hugging Face hub, and paths with a `~` further on stay as they are. So does
    everything that is no path, such as None.

    Raises:
      UserError: the path has a NUL byte. Every function of the operating system fails with it.
    """
    if not isinstance(path, str | os.PathLike):
        return path
    if "\0" in os.fsdecode(path):
        raise UserError(
            f"the path {os.fsdecode(path)!r} has a NUL byte, which no path has: correct it"
        )
    return os.path.expanduser(path)


def expand_keys(flat):
    """{"section.key": value} of a config, with `expand` applied to the keys that are paths."""
    expanded = dict(flat)
    for key in (key for key in PATHS if key in flat):
        expanded[key] = expand(flat[key])
    for key in (key for key in LISTS if key in flat):
        expanded[key] = ",".join(map(_expand_part, flat[key].split(",")))
    return expanded


def _expand_part(part):
    name = part.lstrip()  # the spaces after a comma stay: unchanged text is the same config
    return part[: len(part) - len(name)] + expand(name)
