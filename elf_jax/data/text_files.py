"""Text files: which files a config names, and what is in them.

Paths are files, globs, or URLs of a store, with commas between them; `\\,` is a comma in a name.
Files are sorted, so that every run reads them in the same order. `opening.py` decompresses them.
"""

import collections
import glob
import os
import re

from elf_jax.core import store
from elf_jax.core.errors import UserError
from elf_jax.data.opening import compression, ending, open_bytes, signature


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
    for pattern in split_paths(path):
        if store.is_url(pattern):
            matches = store.copy(pattern)[1]
        else:
            names = {pattern, *glob.glob(pattern, recursive=True)}
            matches = {name: name for name in names if os.path.isfile(name)}
        if not matches:
            raise MissingFiles(_no_match(pattern, path, key), pattern, key)
        found |= matches
    # Of a link and its target the name that sorts last is kept, and files are ordered by name: the
    # name, not the target of a link, says whether a file is compressed.
    names = {_real(name): name for name in sorted(found)}
    return {real: found[name] for real, name in sorted(names.items(), key=lambda item: item[1])}


def split_paths(path):
    r"""The list of the paths in a text with commas between them; `\,` is a comma in a name."""
    return [part.strip().replace("\\,", ",") for part in re.split(r"(?<!\\),", path)]


def _no_match(pattern, path, key):
    """What to say of a path or glob that matches no file."""
    name = path.strip()
    if "," in name and os.path.isfile(name):
        return (
            f"no file matches {pattern!r}: write a backslash before a comma in a name, as in "
            f"config.data.{key}='{name.replace(',', chr(92) + ',')}'"
        )
    try:
        directory = next((one for one in [pattern, *glob.glob(pattern)] if os.path.isdir(one)), "")
        if not directory and not store.is_url(pattern):
            os.stat(pattern)
    except PermissionError:
        return f"there is no permission to look for {pattern!r}: change the rights of its directory"
    except (OSError, ValueError):
        pass  # it is not there, which is the usual mistake; or no file can have this name
    if not directory:
        return f"no file matches {pattern!r}: check config.data.{key}"
    files = os.path.join(glob.escape(directory), f"*{_usual_ending(directory)}")
    return (
        f"{pattern!r} matches a directory, not a file: name the files in it, as in "
        f"config.data.{key}='{files}'"
    )


def _usual_ending(directory):
    """The most frequent ending of the files in a directory, such as .jsonl.gz; .txt without any."""
    try:
        names = [entry.name for entry in os.scandir(directory) if entry.is_file()]
    except OSError:
        names = []
    endings = (ending(name) + compression(name) for name in names if not name.startswith("."))
    (most, _), *_ = [*collections.Counter(filter(None, endings)).most_common(1), (".txt", 0)]
    return most


def _real(name):
    return name if store.is_url(name) else os.path.realpath(name)


def read_lines(file):
    """Yields the lines of a file as bytes, decompressed, each with its line end.

    One line at a time is in memory, never the whole file.

    Raises:
      UserError: the file is empty or cannot be read.
    """
    empty = True
    with open_bytes(file) as lines:
        for line in lines:
            empty = False
            yield line
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
      UserError: the bytes are not UTF-8, or no text; names the byte and the line.
    """
    fault, byte = "is not UTF-8", data.find(b"\0")
    try:
        # The mark is removed after decoding: "utf-8-sig" would not count its bytes in an error.
        text = data.decode("utf-8")
        if byte < 0:
            return text.removeprefix("\ufeff") if first_byte == 0 else text
        fault = "has a NUL byte, which no text has,"
    except UnicodeDecodeError as error:
        byte = error.start
    found = signature(data) if first_byte == 0 else None
    if found:
        raise UserError(f"{file} is {found[0]}, not text in UTF-8: {found[1]}")
    line = data.count(b"\n", 0, byte) + first_line
    remedy = "convert it, for example with iconv -t UTF-8"
    if "NUL" in fault:
        order = "LE" if (first_byte + byte) % 2 else "BE"  # which half of a character is zero
        convert = f"convert it with iconv -f UTF-16{order} -t UTF-8"
        remedy = f"if it is UTF-16, {convert}; else remove the byte"
    raise UserError(f"{file} {fault} at byte {first_byte + byte} (line {line}): {remedy}")


def plain_newlines(text):
    """`text` with a line feed for every kind of line end."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
