"""Checksums of files, in the form that the program `sha256sum` writes and reads.

A directory that is written once has a file SHA256SUMS with a line for each of its files. A file is
compared with its line before it is used, so that no damage passes unseen. Files without a line, as
of an earlier version or of other programs, are not compared. `sha256sum -c SHA256SUMS` does the
same by hand.
"""

import hashlib
import pathlib
import re

from elf_jax.core.errors import UserError
from elf_jax.core.files import check_downloaded, write_text
from elf_jax.core.workdir import SUMS

_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def file_sha256(path):
    """SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(directory, names=None):
    """Writes the checksums of files in a directory, whole or not at all.

    Args:
      directory: where the files are, and where SHA256SUMS goes.
      names: of the files; those that do not exist are left out. None: all files in the directory,
        without its subdirectories.
    """
    directory = pathlib.Path(directory)
    if names is None:
        names = sorted(path.name for path in directory.iterdir() if path.name != SUMS)
    found = [name for name in names if (directory / name).is_file()]
    lines = [f"{file_sha256(directory / name)}  {name}\n" for name in found]
    write_text(directory / SUMS, "".join(lines))


def write_tree(directory):
    """`write` for a directory and for all directories in it."""
    for path in (directory, *pathlib.Path(directory).rglob("*")):
        if path.is_dir():
            write(path)


def forget(directory):
    """Removes the checksums of a directory, before its files are written again.

    If the program ends in between, the directory has no checksums, and not wrong ones.
    """
    (pathlib.Path(directory) / SUMS).unlink(missing_ok=True)


def read(directory):
    """{name: hexadecimal digits} of a directory; empty if it has no checksums.

    Raises:
      UserError: SHA256SUMS itself is damaged.
    """
    path = pathlib.Path(directory) / SUMS
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise _damaged(path) from None
    found = [_LINE.fullmatch(line) for line in lines[:-1]]
    if lines[-1] or not all(found):
        raise _damaged(path)
    return {match[2]: match[1] for match in found}


def check(path):
    """Raises UserError if a file does not have the checksum that stands beside it, or is missing
    although it has one.

    The same for a Git LFS pointer, whose name says what is wrong.
    """
    path = pathlib.Path(path)
    check_downloaded(path)
    known = read(path.parent).get(path.name)
    if known is None:
        return
    if not path.is_file():
        raise UserError(f"{path} is missing, which {SUMS} names: restore the directory")
    if file_sha256(path) != known:
        raise UserError(
            f"{path} has changed since it was written (its SHA-256 is not the one in {SUMS}): "
            f"restore the file, or remove {path.parent / SUMS} if you changed it on purpose"
        )


def is_there(path):
    """Whether a file is there. Raises UserError as `check`, also for a file that is missing."""
    check(path)
    return pathlib.Path(path).is_file()


def check_directory(directory, wanted=lambda name: True):
    """`check` for the files of a directory that have a checksum.

    Args:
      wanted: function (name) -> bool, which files are compared.

    Raises:
      UserError: a file has changed or is missing.
    """
    directory = pathlib.Path(directory)
    for name in filter(wanted, read(directory)):
        check(directory / name)


def _damaged(path):
    return UserError(f"{path} is damaged: restore the directory, or remove this file")
