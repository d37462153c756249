"""Text files: which files a config names, and what is in them.

Paths are files, globs, or URLs of a store, with commas between them. Files that end in .gz are
decompressed while they are read. Files are sorted, so that every run reads them in the same order.
"""

import glob
import gzip
import os
import pathlib
import zlib

from elf_jax.core import store
from elf_jax.core.errors import UserError


class MissingFiles(UserError):
    """A file that the config names is not there.

    Attributes:
      path: of the file, as text. key: the key of config.data that names it, such as "path".
    """

    def __init__(self, message, path="", key=""):
        super().__init__(message)
        self.path, self.key = str(path), key


def find_files(path, key="path"):
    """The files that comma-separated paths, globs and URLs name.

    Args:
      path: the text of the config. key: its key in config.data, for messages.

    Returns:
      List of paths, sorted; a file that is named twice is there once. Files of a store are copied
      to this machine first; they are in the order of their URLs.

    Raises:
      MissingFiles: a path or glob matches no file. UserError: `path` is empty, or the store cannot
        be read.
    """
    return list(_locate(path, key).values())


def check_apart(settings):
    """Raises UserError if a file is both in settings.path and in settings.validation_path."""
    both = set(_locate(settings.path, "path"))
    both &= set(_locate(settings.validation_path, "validation_path"))
    if both:
        raise UserError(
            f"{min(both)} is in config.data.path and in config.data.validation_path: take it out "
            "of one of them"
        )


def _locate(path, key):
    """{where a file really is, a path or a URL: the file to read} of `find_files`."""
    if not path:
        raise UserError(f"config.data.{key} is empty: give a file or a glob, such as books/*.txt")
    found = {}  # the name of a file -> the file to read
    for pattern in path.split(","):
        pattern = pattern.strip()
        if store.is_url(pattern):
            matches = store.copy(pattern)[1]
        else:
            names = {pattern, *glob.glob(pattern, recursive=True)}
            matches = {name: name for name in names if pathlib.Path(name).is_file()}
        if not matches:
            message = f"no file matches {pattern!r}: check config.data.{key}"
            raise MissingFiles(message, pattern, key)
        found |= matches
    # Of a link and its target the name that sorts last is kept, and files are ordered by name: the
    # name, not the target of a link, says whether a file is compressed.
    names = {_real(name): name for name in sorted(found)}
    return {real: found[name] for real, name in sorted(names.items(), key=lambda item: item[1])}


def _real(name):
    return name if store.is_url(name) else os.path.realpath(name)


def read_lines(file):
    """Yields the lines of a file as bytes, decompressed, each with its line end.

    One line at a time is in memory, never the whole file.

    Raises:
      UserError: the file is empty or damaged.
    """
    opener = gzip.open if file.endswith(".gz") else open
    empty = True
    try:
        with opener(file, "rb") as lines:
            for line in lines:
                empty = False
                yield line
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} cannot be read ({error}): copy the file again") from None
    if empty:
        raise UserError(f"{file} is empty: remove it from the config, or fill it")


def read_text(file):
    """The whole text of a file, line ends as they are.

    Raises:
      UserError: the file is empty, damaged or not UTF-8.
    """
    return decode_utf8(file, b"".join(read_lines(file)))


def decode_utf8(file, data, first_line=1, first_byte=0):
    """Bytes as text, without a byte order mark.

    Args:
      file: path that `data` was read from. first_line, first_byte: where in the file `data`
        begins. All three are for the message only.

    Raises:
      UserError: the bytes are not UTF-8; names the byte and the line.
    """
    try:
        # The mark is removed after decoding: "utf-8-sig" would not count its bytes in an error.
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + first_line
        raise UserError(
            f"{file} is not UTF-8 at byte {first_byte + error.start} (line {line}): convert it, "
            "for example with iconv -t UTF-8"
        ) from None


def plain_newlines(text):
    """`text` with a line feed for every kind of line end."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
