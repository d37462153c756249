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

from elf_jax.errors import UserError

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
    readers = {"unicode_names": _unicode_names, "text": _text, "jsonl": _jsonl}
    if settings.source not in readers:
        near = difflib.get_close_matches(settings.source, readers, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(
            f"config.data.source is {settings.source!r}: {hint}known are {', '.join(readers)}"
        )
    read = readers[settings.source]
    if settings.validation_path:
        _check_apart(settings)
        return read(settings, settings.path), read(settings, settings.validation_path)
    examples = read(settings, settings.path)
    train, validation = [], []
    for example in examples:
        for out, pieces in itertools.groupby(_pieces(settings, example), _held_out(settings)):
            (validation if out else train).append(_joined(list(pieces)))
    if not train or not validation:
        side = "validation" if train else "training"
        raise UserError(
            f"splitting off validation_fraction={settings.validation_fraction} of "
            f"{len(examples)} piece(s) of text leaves nothing for {side}: give more text, another "
            "fraction, or config.data.validation_path"
        )
    return train, validation


def _held_out(settings):
    """A fixed hash decides; of a pair the source's, so that no source is on both sides."""

    def is_held_out(example):
        key = example.text if example.source is None else example.source
        digest = hashlib.sha256(key.encode()).digest()
        return int.from_bytes(digest[:8], "big") < settings.validation_fraction * 2**64

    return is_held_out


def _pieces(settings, example):
    """What goes to one side or the other: a document of plain text in blocks, else the example."""
    if settings.source != "text" or settings.packing == "rows":  # then it is a block already
        return [example]
    return [Example(block) for block in split_blocks(example.text)]


def _joined(pieces):
    """Neighbours on the same side are one text again, so that an EOS ends a document or marks a
    block that was taken out, and never stands between two paragraphs.
    """
    return pieces[0] if len(pieces) == 1 else Example("".join(piece.text for piece in pieces))


def _check_apart(settings):
    """Raises UserError if a file is to be both trained on and validated with."""
    if settings.source == "unicode_names":
        return
    train = {os.path.realpath(file) for file in _files(settings.path)}
    both = train & {os.path.realpath(file) for file in _files(settings.validation_path)}
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
            f"config.data.source is unicode_names, which reads no files: set config.data.source to "
            f"text or jsonl to read {path or settings.validation_path!r}"
        )
    names = []
    for code in range(0x110000):
        name = unicodedata.name(chr(code), "")
        enumerated = re.search(r"\d", name) or name.endswith(f"{code:04X}")
        if name and not enumerated and not name.startswith(("HANGUL SYLLABLE", "YI SYLLABLE")):
            names.append(Example(name.lower()))
    return names


def _text(settings, path):
    """Plain text files; every file is a document, or for packing=rows, every block of it."""
    documents = []
    for file in _files(path):
        text = _decode(file, _read(file)).replace("\r\n", "\n").replace("\r", "\n")
        if not text.strip():
            raise UserError(f"{file} holds no text: remove it from config.data.path or fill it")
        rows = settings.packing == "rows"
        documents += [Example(block) for block in (split_blocks(text) if rows else [text])]
    return documents


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
    examples, dropped = [], 0
    for file in _files(path):
        for number, line in enumerate(_decode(file, _read(file)).split("\n"), 1):
            if not line.strip():
                continue
            record = _record(line, file, number)
            text = _field(record, settings.field, file, number)
            if not settings.source_field:
                examples.append(Example(text))
                continue
            source = _field(record, settings.source_field, file, number)
            if text.strip() and source.strip():
                examples.append(Example(text, source))
            else:
                dropped += 1
    if dropped:
        logging.warning("dropped %d pairs with an empty side", dropped)
    examples = [example for example in examples if example.text.strip()]
    if not examples:
        raise UserError(f"{path} holds no examples: check config.data.path")
    return examples


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


def _files(path):
    """The files that comma-separated paths and globs name, sorted, each once however spelt."""
    if not path:
        raise UserError("config.data.path is empty: give a file or a glob, such as books/*.txt")
    found = set()
    for pattern in path.split(","):
        pattern = pattern.strip()
        matches = {pattern} if pathlib.Path(pattern).is_file() else set()
        matches |= {match for match in glob.glob(pattern, recursive=True)}
        matches = {match for match in matches if pathlib.Path(match).is_file()}
        if not matches:
            raise UserError(f"no file matches {pattern!r}: check config.data.path")
        found |= matches
    # The name is kept, not what a link leads to: the name says whether it is compressed.
    return sorted({os.path.realpath(file): file for file in sorted(found)}.values())


def _read(file):
    try:
        data = pathlib.Path(file).read_bytes()
        data = gzip.decompress(data) if file.endswith(".gz") else data
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} cannot be read ({error}): copy the file again") from None
    if not data:
        raise UserError(f"{file} is empty: remove it from config.data.path or fill it")
    return data


def _decode(file, data):
    try:
        # The byte order mark goes last: "utf-8-sig" would not count it in the place of an error.
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file} is not UTF-8 at byte {error.start} (line {line}): convert it, for example "
            f"with iconv -t UTF-8"
        ) from None
