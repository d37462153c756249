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
