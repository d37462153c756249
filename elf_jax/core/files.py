"""Files and directories written whole or not at all."""

import contextlib
import io
import json
import os
import pathlib
import shutil
import tempfile


def write_bytes(path, data):
    """Writes to a file beside `path` and moves it there, so that `path` is never half-written."""
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
    """A path beside `path` to write to; the file is at `path` once the block ends without an error,
    and nothing is left behind if not.
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
    """A text file to write bit by bit; it is at `path` once the block ends without an error."""
    with open_scratch(path) as scratch, open(scratch, "w", encoding="utf-8") as file:
        yield file


@contextlib.contextmanager
def open_directory(path):
    """An empty directory to fill; it is at `path`, in place of what was there, only once the block
    ends without an error.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    old = scratch.with_name(f"{scratch.name}-old")
    try:
        yield scratch
        os.chmod(scratch, 0o755)
        if path.exists():
            os.replace(path, old)  # no directory can be renamed onto one that is not empty
        os.replace(scratch, path)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
