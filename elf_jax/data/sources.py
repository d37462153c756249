"""Where text comes from: the names that Python carries, plain text, JSON lines. Raw text in,
examples out.

Everything is deterministic: files are sorted, and the split into training and validation is a
fixed hash of the text.
"""

import difflib
import glob
import gzip
import hashlib
import itertools
import json
import os
import pathlib
import re
import unicodedata
import zlib
from typing import NamedTuple

from absl import logging

from elf_jax.core import store
from elf_jax.core.errors import UserError

SOURCES = ("unicode_names", "text", "jsonl", "tfds", "hf")
LIBRARIES = ("tfds", "hf")  # data sets by name, read from prepared shards only
BLOCK = 1000  # characters; the smallest piece of a document that goes to one side of the split


class Example(NamedTuple):
    """A text, and for a pair the source that it is conditioned on."""

    text: str
    source: str | None = None


def load_examples(settings):
    """(training, validation) examples of the config section `data`.

    Raises:
      UserError: an unknown source, missing, empty or damaged files, or a split with an empty side.
    """
    check_source(settings)
    if settings.kind in LIBRARIES:
        raise UserError(
            f"config.data.kind={settings.kind} is read from prepared shards: set "
            "config.data.prepared to a directory for them"
        )
    readers = {"unicode_names": _unicode_names, "text": _text, "jsonl": _jsonl}
    read = readers[settings.kind]
    if settings.validation_path:
        check_apart(settings)
        return read(settings, settings.path), read(settings, settings.validation_path)
    examples = read(settings, settings.path)
    train, validation = [], []
    for example in examples:
        for out, text in split_example(settings, example):
            (validation if out else train).append(text)
    if not train or not validation:
        side = "validation" if train else "training"
        raise UserError(
            f"splitting off validation_fraction={settings.validation_fraction} of "
            f"{len(examples)} piece(s) of text leaves nothing for {side}: give more text, another "
            "fraction, or config.data.validation_path"
        )
    return train, validation


def check_source(settings):
    """Raises UserError for a source that there is not."""
    if settings.kind not in SOURCES:
        near = difflib.get_close_matches(settings.kind, SOURCES, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(
            f"config.data.kind is {settings.kind!r}: {hint}known are {', '.join(SOURCES)}"
        )


def split_example(settings, example):
    """The parts of an example with the side of the validation split that each is on.

    Yields:
      (held out, `Example`), in the order of the text.
    """
    for out, pieces in itertools.groupby(_pieces(settings, example), _held_out(settings)):
        yield out, _joined(list(pieces))


def is_held_out(key, fraction):
    """Whether the text or token bytes `key` belong to that fraction, by a fixed hash."""
    digest = hashlib.sha256(key).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def _held_out(settings):
    """A fixed hash decides; of a pair the source's, so that no source is on both sides."""

    def decide(example):
        key = example.text if example.source is None else example.source
        return is_held_out(key.encode(), settings.validation_fraction)

    return decide


def _pieces(settings, example):
    """What goes to one side or the other: a document of plain text in blocks, else the example."""
    if settings.kind != "text" or settings.packing == "rows":  # then it is a block already
        return [example]
    return [Example(block) for block in split_blocks(example.text)]


def _joined(pieces):
    """Neighbours on the same side are one text again, so that an EOS ends a document or marks a
    block that was taken out, and never stands between two paragraphs.
    """
    return pieces[0] if len(pieces) == 1 else Example("".join(piece.text for piece in pieces))


def check_apart(settings):
    """Raises UserError if a file is to be both trained on and validated with."""
    if settings.kind == "unicode_names":
        return
    both = set(_locate(settings.path)) & set(_locate(settings.validation_path))
    if both:
        raise UserError(
            f"{min(both)} is in config.data.path and in config.data.validation_path: take it out "
            "of one of them"
        )


def _unicode_names(settings, path):
    """Names of the characters in `unicodedata`, lower-cased, about 26,000 (more with newer
    Unicode).

    Purely enumerated names are left out: those with a digit or their own code point in them (CJK
    ideographs, hieroglyphs, cuneiform and the like), Hangul and Yi syllables.
    """
    if path or settings.validation_path:
        raise UserError(
            f"config.data.kind is unicode_names, which reads no files: set config.data.kind to "
            f"text or jsonl to read {path or settings.validation_path!r}"
        )
    names = []
    for code in range(0x110000):
        name = unicodedata.name(chr(code), "")
        if not name or name.endswith(f"{code:04X}") or re.search(r"\d", name):
            continue  # nine of ten codes have no name: nothing more is asked of them
        if not name.startswith(("HANGUL SYLLABLE", "YI SYLLABLE")):
            names.append(Example(name.lower()))
    return names


def _text(settings, path):
    """Plain text files; every file is a document, or for packing=rows, every block of it."""
    documents = []
    for file in find_files(path):
        text = plain_newlines(decode_utf8(file, _read(file)))
        if not text.strip():
            raise UserError(f"{file} holds no text: remove it from config.data.path or fill it")
        documents += text_examples(settings, text)
    return documents


def text_examples(settings, text):
    """A document as examples: itself, or for packing=rows, every block of it."""
    blocks = split_blocks(text) if settings.packing == "rows" else [text]
    return [Example(block) for block in blocks]


def split_blocks(text):
    """Cuts a document at blank lines (without any: at line ends) into blocks of at least BLOCK
    characters.

    Joining the blocks gives the document back.
    """
    pieces = re.split(r"(?<=\n\n)(?=[^\n])", text)
    if len(pieces) == 1:
        pieces = text.splitlines(keepends=True)
    blocks, current, size = [], [], 0
    for piece in pieces:
        current.append(piece)
        size += len(piece)
        if size >= BLOCK:
            blocks.append("".join(current))
            current, size = [], 0
    if current:
        blocks.append("".join(current))
    return blocks


def _jsonl(settings, path):
    """JSON lines; every line is a document, or a pair where `source_field` is set."""
    examples = []
    for file in find_files(path):
        examples += jsonl_examples(settings, file, decode_utf8(file, _read(file)))
    kept = [example for example in examples if not is_empty(example)]
    if settings.source_field and len(kept) < len(examples):
        logging.warning("dropped %d pairs with an empty side", len(examples) - len(kept))
    if not kept:
        raise UserError(f"{path} holds no examples: check config.data.path")
    return kept


def is_empty(example):
    """Whether there is nothing to learn from: no text, or for a pair, no source."""
    return any(side is not None and (not side or side.isspace()) for side in example)


def jsonl_examples(settings, file, text, first_line=1):
    """The examples of JSON lines, empty ones too.

    Args:
      settings: config section `data`. file, first_line: where `text` stands, for messages.

    Raises:
      UserError: a line that is not an object with the fields of the config.
    """
    for number, line in enumerate(text.split("\n"), first_line):
        if not line.strip():
            continue
        record = _record(line, file, number)
        source = None
        if settings.source_field:
            source = _field(record, settings.source_field, file, number)
        yield Example(_field(record, settings.field, file, number), source)


def _record(line, file, number):
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(
            f"{file} line {number} is not valid JSON ({error}): mend or remove the line"
        ) from None
    if not isinstance(record, dict):
        raise UserError(f"{file} line {number} is not a JSON object: one {{...}} a line is needed")
    return record


def _field(record, name, file, number):
    if not isinstance(record.get(name), str):
        there = ", ".join(sorted(record)) or "none"
        fault = "is not a string" if name in record else "is missing"
        raise UserError(
            f"{file} line {number}: field {name!r} {fault} (fields there: {there}): set "
            "config.data.field and config.data.source_field"
        )
    try:
        record[name].encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{file} line {number}: field {name!r} has half a surrogate pair "
            f"({record[name][error.start]!a}), which is no character: mend or remove the line"
        ) from None
    return record[name]


def find_files(path):
    """The files that comma-separated paths and globs name, sorted, each once however spelt; for
    those of a store their copies on this machine, in the order of their URLs.
    """
    return list(_locate(path).values())


def _locate(path):
    """{where a file really is, a path or a URL: the file to read} of `find_files`."""
    if not path:
        raise UserError("config.data.path is empty: give a file or a glob, such as books/*.txt")
    found = {}  # what a file is called -> the file to read
    for pattern in path.split(","):
        pattern = pattern.strip()
        if store.is_url(pattern):
            matches = store.copy(pattern)[1]
        else:
            names = {pattern, *glob.glob(pattern, recursive=True)}
            matches = {name: name for name in names if pathlib.Path(name).is_file()}
        if not matches:
            raise UserError(f"no file matches {pattern!r}: check config.data.path")
        found |= matches
    # Sorted by name, not by what a link leads to: the name says whether it is compressed.
    names = {_real(name): name for name in sorted(found)}
    return {real: found[name] for real, name in sorted(names.items(), key=lambda item: item[1])}


def _real(name):
    return name if store.is_url(name) else os.path.realpath(name)


def read_lines(file):
    """The lines of a file, decompressed, as bytes with their ends; never the whole of it.

    Raises:
      UserError: it is empty or damaged.
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
        raise UserError(f"{file} is empty: remove it from config.data.path or fill it")


def _read(file):
    return b"".join(read_lines(file))


def plain_newlines(text):
    """`text` with every kind of line end as a line feed."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decode_utf8(file, data, first_line=1, first_byte=0):
    """Bytes to text, without a byte order mark.

    Args:
      file, first_line, first_byte: where `data` stands, for the message.

    Raises:
      UserError: they are not UTF-8; names the byte and the line.
    """
    try:
        # The byte order mark goes last: "utf-8-sig" would not count it in the place of an error.
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + first_line
        raise UserError(
            f"{file} is not UTF-8 at byte {first_byte + error.start} (line {line}): convert it, "
            "for example with iconv -t UTF-8"
        ) from None
