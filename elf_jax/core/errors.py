"""The error for mistakes of the user, and what errors of the operating system mean for the user.

A mistake in a path, a config value or a workdir raises `UserError`. `main.py` prints its message
and exits with code 2. It does the same for a file that cannot be read or written, in the words of
`explain`. Any other exception is a bug and keeps its traceback.
"""

import errno
import os
import re

STANDARD_OUTPUT = "standard output"  # its name in messages

# What the user can do. These errors come from the disk and from its rights, never from a bug.
_OF_THE_DISK = {
    errno.EACCES: "check the rights there, or name another place",
    errno.EPERM: "check the rights there, or name another place",
    errno.EROFS: "name a place that is not read-only",
    errno.ENOSPC: "make room there, or name a place with more room",
    errno.EDQUOT: "make room there, or name a place with more room",
    errno.EFBIG: "raise the limit of ulimit -f, or name a place on another disk",
    errno.EIO: "check the disk, or name a place on another one",
    errno.EMFILE: "raise the limit of open files with ulimit -n",
    errno.ENFILE: "close other programs, which have too many files open",
}
# These are the user's if a path is named.
_OF_A_PATH = {
    errno.ENOENT: "check the path",
    errno.EISDIR: "name a file, not a directory",
    errno.ENOTDIR: "name a directory; a part of this path is a file",
    errno.EEXIST: "name another place; a file is where a directory is needed",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.ELOOP: "correct the symbolic links, which lead in a circle",
    errno.EBUSY: "name another place; this one is in use",
    errno.ENXIO: "name another file; this device or socket cannot be opened",
    errno.ENODEV: "name another file; this device is not there",
    errno.EPIPE: "keep its reader running until the end",
    errno.EBADF: "name another file; this one is not open for writing",
    errno.EINVAL: "name another file; this one cannot be written in this way",
}
# Libraries in Rust and C++ raise errors of their own. The number is in the text.
_NUMBER = re.compile(r"\bos error:? (\d+)|\bOs \{ code: (\d+)", re.IGNORECASE)


class UserError(Exception):
    """Bad input. The message is one line; it names the fault and says what to do about it.

    What a message quotes, such as a file name or the text of a library, may have line ends. They
    become spaces.
    """

    def __init__(self, message):
        super().__init__(one_line(message))


def one_line(text):
    """The text with a space for every line end, and the spaces around it."""
    return " ".join(line.strip() for line in str(text).splitlines())


def explain(error):
    """One line about an error of the operating system: the file, the fault and the remedy.

    Args:
      error: any exception. A library may have wrapped the error of the operating system.

    Returns:
      str; None if the exception is a bug.
    """
    seen, outer = set(), error
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        number, name = _fault(error)
        # What code catches on purpose, such as a file that is not there, is no reason of a later
        # error. A full disk is.
        on_purpose = error is not outer and error is not outer.__cause__
        if number in _OF_THE_DISK or (number in _OF_A_PATH and name and not on_purpose):
            return one_line(_in_words(number, name))
        hidden = None if error.__suppress_context__ else error.__context__
        error = error.__cause__ or hidden
    return None


def _fault(error):
    """(errno, name of the file or "") of one exception; (None, "") if it has none."""
    if isinstance(error, OSError) and error.errno is not None:
        name = error.filename
        return error.errno, os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""
    found = _NUMBER.search(str(error))
    return (int(found[1] or found[2]), "") if found else (None, "")


def _in_words(number, name):
    reason = os.strerror(number)
    remedy = _OF_THE_DISK.get(number) or _OF_A_PATH[number]
    if name == STANDARD_OUTPUT:
        return f"{name} cannot be written ({reason}): redirect it to another place"
    return f"{name} cannot be used ({reason}): {remedy}" if name else f"{reason}: {remedy}"
