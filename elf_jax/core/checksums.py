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
from elf_jax.core.store import location
from elf_jax.core.workdir import SUMS

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")  # the star: sha256sum -b


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

    Lines that cannot be read are left out, as `sha256sum` does: then a file is not compared. The
    file may be that of another program, with files of subdirectories; these are left out too.
    """
    path = pathlib.Path(directory) / SUMS
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = [match for match in map(_LINE.fullmatch, lines) if match]
    return {match[2]: match[1] for match in found if "/" not in match[2]}


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
    place = location(path)  # of a mirror, the store: there the user must act
    if not path.is_file():
        raise UserError(f"{place} is missing, which {SUMS} names: restore the directory")
    if file_sha256(path) != known:
        raise UserError(
            f"{place} has changed since it was written (its SHA-256 is not the one in {SUMS}): "
            f"restore the file, or remove {location(path.parent / SUMS)} if you changed it on "
            "purpose"
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
