"""Writes files and directories whole or not at all.

What is written gets its name only when it is complete. So no file or directory is ever seen half
written. Symbolic links stay: their targets are written. What is no regular file, such as a device
or a pipe, is never replaced: it is written to directly.
"""

import contextlib
import errno
import io
import json
import os
import pathlib
import shutil
import tempfile

from elf_jax.core.errors import UserError
from elf_jax.core.special_files import NamedFile, open_special

LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # how such a file begins


def read_json(path, kind=dict, remedy="restore the file"):
    """The content of a JSON file.

    Args:
      path: of the file. kind: type that the content must have.
      remedy: what the user should do if the file is damaged.

    Raises:
      UserError: the file cannot be read, is no JSON, or its content is not of type `kind`.
    """
    path = pathlib.Path(path)
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {remedy}") from None
    except (ValueError, RecursionError) as error:
        fault = "is a Git LFS pointer, not the file itself: run git lfs pull"
        if not is_lfs_pointer(path):
            fault = f"is damaged ({' '.join(str(error).split())[:160]}): {remedy}"
        raise UserError(f"{path} {fault}") from None
    if not isinstance(value, kind):
        found = type(value).__name__
        raise UserError(f"{path} is damaged (it holds a {found}, not a {kind.__name__}): {remedy}")
    return value


def is_lfs_pointer(path):
    """Whether a file is what Git LFS leaves in place of a large file that was not downloaded."""
    try:
        with open(path, "rb") as file:
            return file.read(len(LFS_POINTER)) == LFS_POINTER
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return False


def check_downloaded(path):
    """Raises UserError if a file is a Git LFS pointer, see `is_lfs_pointer`."""
    if is_lfs_pointer(path):
        raise UserError(f"{path} is a Git LFS pointer, not the file itself: run git lfs pull")


def write_bytes(path, data):
    """Writes bytes, whole or not at all."""
    with _open(path) as file:
        file.write(data)


def write_text(path, text):
    """Writes `text` as UTF-8, whole or not at all.

    A file name may have bytes that are not UTF-8. Here they are escaped, in a way that JSON reads
    back.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path, value):
    """Writes `value` as readable JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_picture(figure, path, dpi):
    """Writes a matplotlib figure as a PNG, whole or not at all."""
    data = io.BytesIO()
    figure.savefig(data, dpi=dpi, format="png")
    write_bytes(path, data.getvalue())


@contextlib.contextmanager
def open_text(path):
    """Yields an open text file for UTF-8, which is moved to `path` when the block ends without an
    error. What is no regular file, such as a pipe, is written to at once.
    """
    with _open(path) as file, io.TextIOWrapper(file, encoding="utf-8") as text:
        yield text


@contextlib.contextmanager
def _open(path):
    """Yields a binary file, see `open_text`."""
    special = open_special(path)
    if special is not None:
        with special as file:
            yield file
        return
    with open_scratch(path) as scratch, NamedFile(scratch, path).buffered() as file:
        yield file


@contextlib.contextmanager
def open_scratch(path):
    """Yields a temporary path beside `path` to write to.

    When the block ends without an error, the file is moved to `path`; the target of a symbolic link
    is replaced, not the link. After an error nothing is left behind. What is no regular file gets
    the content when the block ends.
    """
    special = open_special(path)
    if special is not None:
        with tempfile.TemporaryDirectory() as directory, special as out:
            scratch = pathlib.Path(directory) / pathlib.Path(path).name
            yield scratch
            with open(scratch, "rb") as file:
                shutil.copyfileobj(file, out)
        return
    real = _real(path)
    real.parent.mkdir(parents=True, exist_ok=True)
    scratch = real.with_name(f".{real.name}.{os.getpid()}")
    try:
        with _named(scratch, path):
            yield scratch
            os.replace(scratch, real)
    finally:
        with contextlib.suppress(OSError):  # it would hide the first error
            scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def open_directory(path):
    """Yields an empty directory to fill.

    When the block ends without an error, the directory is moved to `path` and replaces the
    directory that was there; of a symbolic link, its target is replaced. After an error `path` is
    as it was before.

    Raises:
      NotADirectoryError: something else is at `path`.
    """
    real = _real(path)
    if real.exists() and not real.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    real.parent.mkdir(parents=True, exist_ok=True)
    scratch = pathlib.Path(tempfile.mkdtemp(dir=real.parent, prefix=f".{real.name}-"))
    old = scratch.with_name(f"{scratch.name}-old")
    try:
        with _named(scratch, path):
            yield scratch
            os.chmod(scratch, 0o755)
            if real.exists():
                os.replace(real, old)  # a rename cannot replace a directory that is not empty
            os.replace(scratch, real)
    finally:
        if old.exists() and not real.exists():
            os.replace(old, real)
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_file(path, name):
    """Raises UserError if a file cannot be written at `path`, before long work for it begins.

    Args:
      name: what the user set to this path, such as "--output".
    """
    if os.path.isdir(path):
        raise UserError(f"{name}={path} is a directory: name a file")
    if not os.path.exists(path):
        check_directory(_real(path).parent, name)


def check_directory(path, name):
    """Raises UserError if files cannot be written into a directory. It need not be there yet.

    Args:
      name: what the user set to this path, such as "--workdir".
    """
    real = _real(path)
    there = next(one for one in (real, *real.parents) if one.exists())
    if not there.is_dir():
        raise UserError(f"{there} is a file, and {name} needs a directory there: name another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(
            f"{there} cannot be written to, because of its rights or a read-only disk: change "
            f"that, or name another place in {name}"
        )


def _real(path):
    """The path without symbolic links. The last part need not be there."""
    return pathlib.Path(os.path.realpath(path))


@contextlib.contextmanager
def _named(scratch, path):
    """Errors name `path`, which the user knows, in place of `scratch`."""
    try:
        yield
    except OSError as error:
        name = error.filename
        if isinstance(name, str | os.PathLike) and os.fspath(name).startswith(str(scratch)):
            error.filename = os.fspath(name).replace(str(scratch), str(path), 1)
        raise
