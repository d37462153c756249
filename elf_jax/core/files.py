"""Writes files and directories whole or not at all.

What is written gets its name only when it is complete. So no file or directory is ever seen half
written.
"""

import contextlib
import io
import json
import os
import pathlib
import shutil
import tempfile

from elf_jax.core.errors import UserError

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
        raise UserError(
            f"{path} is damaged (it holds a {found}, not a {kind.__name__}): {remedy}"
        )
    return value


def is_lfs_pointer(path):
    """Whether a file is what Git LFS leaves in place of a large file that was not downloaded."""
    try:
        with open(path, "rb") as file:
            return file.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        return False


def write_bytes(path, data):
    """Writes bytes, whole or not at all."""
    with open_scratch(path) as scratch:
        scratch.write_bytes(data)


def write_text(path, text):
    """Writes `text` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path, value):
    """Writes `value` as readable JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_picture(figure, path, dpi):
    """Writes a matplotlib figure as a PNG, whole or not at all."""
    data = io.BytesIO()
    figure.savefig(data, dpi=dpi, format="png")
    write_bytes(path, data.getvalue())


@contextlib.contextmanager
def open_scratch(path):
    """Yields a temporary path beside `path` to write to.

    When the block ends without an error, the file is moved to `path`. After an error nothing is
    left behind.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def open_text(path):
    """Yields an open text file, which is moved to `path` when the block ends without an error."""
    with open_scratch(path) as scratch, open(scratch, "w", encoding="utf-8") as file:
        yield file


@contextlib.contextmanager
def open_directory(path):
    """Yields an empty directory to fill.

    When the block ends without an error, the directory is moved to `path` and replaces what was
    there. After an error `path` is as it was before.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    old = scratch.with_name(f"{scratch.name}-old")
    try:
        yield scratch
        os.chmod(scratch, 0o755)
        if path.exists():
            os.replace(path, old)  # a rename cannot replace a directory that is not empty
        os.replace(scratch, path)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
