"""What must not be replaced by a file: devices, pipes, sockets, and descriptors that are open.

A new file cannot be moved to their place, because the device would be gone. They are written to
directly, and what they hold already stays.
"""

import errno
import io
import os
import pathlib
import stat
import sys

from elf_jax.core.errors import STANDARD_OUTPUT


class NamedFile(io.FileIO):
    """An unbuffered file for writing. An error of writing names it, as an error of opening does.

    Args:
      file: path, or number of an open descriptor. name: its name in errors.
      mode, closefd: as for `open`.
    """

    def __init__(self, file, name, mode="wb", closefd=True):
        super().__init__(file, mode, closefd)
        self.known_as = os.fspath(name)

    def write(self, data):
        try:
            return super().write(data)
        except OSError as error:
            error.filename = self.known_as
            raise

    def buffered(self):
        """The same file with a buffer."""
        return io.BufferedWriter(self)


def open_special(path):
    """A binary file that writes to what is at `path`, if that must not be replaced; or None.

    That is everything that is no regular file, and every file that a process has open, such as
    /dev/stdout: what it holds already must stay.

    Raises:
      IsADirectoryError: a directory is there.
    """
    path, is_open = pathlib.Path(path), False
    for parent, name in _steps(path):
        if parent in ("/dev/fd", f"/proc/{os.getpid()}/fd") and name.isdigit():
            return _duplicate(int(name), path)
        is_open |= parent.startswith("/proc/")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if stat.S_ISREG(mode) and not is_open:
        return None
    return NamedFile(path, path, "ab").buffered()


def _duplicate(descriptor, path):
    """A file that writes to an open descriptor, after everything that was printed before."""
    if sys.stdout is not None:
        sys.stdout.flush()
    name = STANDARD_OUTPUT if descriptor == 1 else os.fspath(path)
    try:
        return NamedFile(os.dup(descriptor), name).buffered()
    except OSError as error:
        error.filename = name
        raise


def _steps(path):
    """Yields (true directory, name) of a path, and of each link that it leads to."""
    path = os.fspath(path)
    for _ in range(40):  # as many as Linux follows
        parent, name = os.path.realpath(os.path.dirname(path)), os.path.basename(path)
        yield parent, name
        here = os.path.join(parent, name)
        if not os.path.islink(here):
            return
        path = os.path.join(parent, os.readlink(here))
