"""Opens the files of a corpus, compressed or not, and says what is wrong with a file.

The ending of the name decides how a file is read: .gz, .bz2, .xz and .zst are decompressed, and
.parquet is a table (`records.py`). Files of formats that are not read here are refused by name.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import pathlib
import zlib

from elf_jax.core.errors import UserError
from elf_jax.core.files import is_lfs_pointer

BUFFER = 1 << 20  # bytes that are decompressed at once
PARQUET = ".parquet"
JSON_LINES = (".jsonl", ".ndjson")


def _open_zst(file):
    pyarrow = import_pyarrow(".zst files")
    return io.BufferedReader(pyarrow.CompressedInputStream(file, "zstd"), BUFFER)


# By ending: function from an open file to the open decompressed file.
DECOMPRESS = {
    ".gz": lambda file: gzip.open(file, "rb"),
    ".bz2": lambda file: bz2.open(file, "rb"),
    ".xz": lambda file: lzma.open(file, "rb"),
    ".zst": _open_zst,
}

_TABLE = (
    "is a table: to read it as plain text, let its name end in .txt; or write it as JSON lines, "
    "for example with pandas.{reader}(FILE)"
    ".to_json('FILE.jsonl', orient='records', lines=True, force_ascii=False)"
)
_ARCHIVE = "is an archive: unpack it, and name the files in it that hold text"
_PACKED = "is compressed in a way that is not read here: decompress it, or use gzip, xz or zstd"
_DOCUMENT = "is a document with a layout: save it as plain text in UTF-8"
_ARROW = (
    "is an Arrow file: write it as Parquet, for example with datasets.Dataset.from_file(FILE)"
    ".to_parquet('FILE.parquet')"
)
_ARRAYS = "holds arrays, not text: write the text as plain text, JSON lines or Parquet"

# The function of pandas that reads a table, by the ending of its name.
TABLES = {".csv": "read_csv", ".tsv": "read_table", ".xls": "read_excel", ".xlsx": "read_excel"}

# What is said about a file that is not read, by the ending of its name.
REFUSED = {
    **{end: _TABLE.format(reader=reader) for end, reader in TABLES.items()},
    **dict.fromkeys((".zip", ".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar"), _ARCHIVE),
    **dict.fromkeys((".lz4", ".lzma", ".lzo", ".z"), _PACKED),
    **dict.fromkeys((".pdf", ".doc", ".docx", ".odt", ".epub", ".ppt", ".pptx"), _DOCUMENT),
    **dict.fromkeys((".arrow", ".feather"), _ARROW),
    **dict.fromkeys((".npy", ".npz", ".h5", ".safetensors", ".pkl"), _ARRAYS),
}

# How files begin: (first bytes, what that is, what to do). The longer of two is first.
SIGNATURES = (
    (b"\xff\xfe\0\0", "UTF-32", "convert it, for example with iconv -f UTF-32 -t UTF-8"),
    (b"\0\0\xfe\xff", "UTF-32", "convert it, for example with iconv -f UTF-32 -t UTF-8"),
    (b"\xff\xfe", "UTF-16", "convert it, for example with iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16", "convert it, for example with iconv -f UTF-16 -t UTF-8"),
    (b"\x1f\x8b", "compressed with gzip", "let its name end in .gz"),
    (b"BZh", "compressed with bzip2", "let its name end in .bz2"),
    (b"\xfd7zXZ\0", "compressed with xz", "let its name end in .xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "let its name end in .zst"),
    (b"PAR1", "a Parquet file", "let its name end in .parquet, and set config.data.kind=jsonl"),
    (b"PK\3\4", "a zip archive", "unpack it, or save a document in it as plain text in UTF-8"),
    (b"%PDF", "a PDF", "save it as plain text in UTF-8"),
    (b"ARROW1", "an Arrow file", "write it as Parquet"),
)


def import_pyarrow(what):
    """The package pyarrow. Raises UserError if it is not installed; `what` is what needs it."""
    try:
        import pyarrow
    except ImportError:
        raise UserError(f"{what} need the pyarrow library: pip install -e '.[hf]'") from None
    return pyarrow


def compression(file):
    """The ending of a file's name that says how it is compressed, such as ".gz", otherwise ""."""
    suffix = _suffix(file)
    return suffix if suffix in DECOMPRESS else ""


def ending(file):
    """The ending of a file's name without that of its compression: ".jsonl" of x.jsonl.gz."""
    path = pathlib.Path(os.path.basename(file))
    return _suffix(path.stem if compression(path) else path)


def is_parquet(file):
    """Whether the name says that a file is a Parquet table."""
    return _suffix(file) == PARQUET


def check_format(file, kind=""):
    """Raises UserError if the name of a file says that it cannot be read as config.data.kind."""
    end = ending(file)
    if end in REFUSED:
        more = ", and set config.data.kind=jsonl" if kind == "text" and end in TABLES else ""
        raise UserError(f"{file} {REFUSED[end]}{more}")
    if end == PARQUET and not is_parquet(file):
        raise UserError(f"{file} is a compressed Parquet file: decompress it")
    if end == PARQUET and kind == "text":
        raise UserError(
            f"{file} is a table: set config.data.kind=jsonl, and config.data.field to the column "
            "with the text"
        )
    if end in JSON_LINES and kind == "text":
        raise UserError(
            f"{file} has JSON lines, by its name: set config.data.kind=jsonl, and "
            "config.data.field to the field with the text; to train on the JSON itself, let its "
            "name end in .txt"
        )


def signature(head):
    """(what a file is, what to do) by its first bytes; None if they do not tell."""
    found = ((what, remedy) for beginning, what, remedy in SIGNATURES if head.startswith(beginning))
    return next(found, None)


@contextlib.contextmanager
def open_raw(file):
    """Yields a file of the corpus, open for reading its bytes as they are on the disk.

    Raises:
      UserError: the file cannot be read, or is a Git LFS pointer; the same for errors of reading
        and decompressing inside the block.
    """
    try:
        with open(file, "rb") as opened:
            if os.path.isfile(file) and is_lfs_pointer(file):  # a pipe can be read only once
                raise UserError(
                    f"{file} is a Git LFS pointer, not the file itself: run git lfs pull"
                )
            yield opened
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise cannot_read(file, error) from None


@contextlib.contextmanager
def open_bytes(file):
    """Yields a file of the corpus, open for reading its bytes, decompressed. Raises as `open_raw`.

    The block must only read: all errors of files in it are taken for errors of this one.
    """
    with open_raw(file) as opened:
        decompress = DECOMPRESS.get(_suffix(file))
        if decompress is None:
            yield opened
        else:
            with decompress(opened) as lines:
                yield lines


def cannot_read(file, error):
    """The UserError for an error of reading a file: rights, a directory, the disk, or damage."""
    told = " ".join(str(error).split())[:160] or type(error).__name__
    if isinstance(error, PermissionError):
        fault = "there is no permission to read it): change its rights, for example with chmod +r"
    elif isinstance(error, IsADirectoryError):
        fault = "it is a directory): name the files in it"
    elif isinstance(error, FileNotFoundError):
        fault = "it is no longer there): restore it"
    elif getattr(error, "errno", None):
        fault = f"{error.strerror}): check the disk or the network that it is on"
    elif _is_misnamed(file):
        fault = f"it does not begin as a {_suffix(file)} file does): rename it, or copy it again"
    else:
        fault = f"it is damaged, {told}): copy the file again"
    return UserError(f"{file} cannot be read ({fault}")


def _is_misnamed(file):
    """Whether the name of a file says that it is compressed, and its first bytes say no."""
    with open(file, "rb") as opened:
        found = signature(opened.read(8))
    return _suffix(file) in DECOMPRESS and not (found and found[1].endswith(_suffix(file)))


def _suffix(file):
    return pathlib.Path(file).suffix.lower()
