"""Examples: texts and pairs of texts, before they are tokenised.

Three kinds of corpus are read into memory here: the names of Unicode characters, plain text, and
JSON lines. Larger corpora are read part by part, see `corpora.py`.
"""

import json
import re
import unicodedata
from typing import NamedTuple

from absl import logging

from elf_jax.core.errors import UserError
from elf_jax.data.libraries import LIBRARIES
from elf_jax.data.split import split_blocks, split_example
from elf_jax.data.text_files import check_apart, find_files, plain_newlines, read_text


class Example(NamedTuple):
    """A text, and of a pair also its source.

    Attributes:
      text: the text; of a pair the target. source: the condition of a pair, otherwise None.
    """

    text: str
    source: str | None = None


def load_examples(settings):
    """Reads the whole corpus and splits it.

    Args:
      settings: config section `data`.

    Returns:
      (training, validation), two lists of `Example`.

    Raises:
      UserError: missing, empty or damaged files, a split with nothing on one side, or a kind that
        is not read into memory.
    """
    read = _reader(settings)
    if settings.validation_path:
        check_apart(settings)
        return read(settings, "path"), read(settings, "validation_path")
    examples = read(settings, "path")
    train, validation = [], []
    for example in examples:
        for out, part in split_example(settings, example):
            (validation if out else train).append(part)
    if not train or not validation:
        side = "validation" if train else "training"
        raise UserError(
            f"splitting off validation_fraction={settings.validation_fraction} of "
            f"{len(examples)} piece(s) of text leaves nothing for {side}: give more text, another "
            "fraction, or config.data.validation_path"
        )
    return train, validation


def load_validation_examples(settings):
    """Reads settings.validation_path alone: a list of `Example`. Raises as `load_examples`."""
    return _reader(settings)(settings, "validation_path")


def _reader(settings):
    """The function (settings, key of config.data with the path) -> examples of a kind."""
    if settings.kind in LIBRARIES:
        raise UserError(
            f"config.data.kind={settings.kind} is read from prepared shards: set "
            "config.data.prepared to a directory for them"
        )
    paths = settings.path or settings.validation_path
    if settings.kind == "unicode_names" and paths:
        raise UserError(
            f"config.data.kind is unicode_names, which reads no files: set config.data.kind to "
            f"text or jsonl to read {paths!r}"
        )
    return READERS[settings.kind]


def _unicode_names(settings, key):
    """The names of the characters in `unicodedata`, in lower case.

    There are about 26,000, more with a newer Unicode. Names that only count are left out: those
    with a digit or with their own code point (CJK ideographs, hieroglyphs, cuneiform), and the
    Hangul and Yi syllables.
    """
    del settings, key
    names = []
    for code in range(0x110000):
        name = unicodedata.name(chr(code), "")
        if not name or name.endswith(f"{code:04X}") or re.search(r"\d", name):
            continue  # first, because nine of ten codes have no name
        if not name.startswith(("HANGUL SYLLABLE", "YI SYLLABLE")):
            names.append(Example(name.lower()))
    return names


def _text(settings, key):
    """Plain text files. Every file is a document; with packing=rows every block is one."""
    documents = []
    for file in find_files(getattr(settings, key), key):
        text = plain_newlines(read_text(file))
        if not text.strip():
            raise UserError(f"{file} holds no text: remove it from config.data.{key}, or fill it")
        documents += text_examples(settings, text)
    return documents


def text_examples(settings, text):
    """A document as a list of `Example`: one, or with packing=rows one for every block."""
    blocks = split_blocks(text) if settings.packing == "rows" else [text]
    return [Example(block) for block in blocks]


def _jsonl(settings, key):
    """JSON lines. Every line is a document, or a pair where `source_field` is set."""
    examples, path = [], getattr(settings, key)
    for file in find_files(path, key):
        examples += jsonl_examples(settings, file, read_text(file))
    kept = [example for example in examples if not is_empty(example)]
    if settings.source_field and len(kept) < len(examples):
        logging.warning("dropped %d pairs with an empty half", len(examples) - len(kept))
    if not kept:
        raise UserError(f"{path} holds no examples: check config.data.{key}")
    return kept


READERS = {"unicode_names": _unicode_names, "text": _text, "jsonl": _jsonl}


def is_empty(example):
    """Whether the text, or one half of a pair, has nothing in it but white space."""
    return any(half is not None and (not half or half.isspace()) for half in example)


def jsonl_examples(settings, file, text, first_line=1):
    """Yields the `Example` of every JSON line, empty ones too.

    Args:
      settings: config section `data`. text: the lines.
      file, first_line: where `text` was read from, for messages.

    Raises:
      UserError: a line that is not a JSON object with the fields of the config.
    """
    for number, line in enumerate(text.split("\n"), first_line):
        if not line.strip():
            continue
        values = _parse(line, file, number)
        source = None
        if settings.source_field:
            source = _field(values, settings.source_field, file, number)
        yield Example(_field(values, settings.field, file, number), source)


def _parse(line, file, number):
    try:
        values = json.loads(line)
    except ValueError as error:
        raise UserError(
            f"{file} line {number} is not valid JSON ({error}): mend or remove the line"
        ) from None
    if not isinstance(values, dict):
        raise UserError(
            f"{file} line {number} is not a JSON object: write one {{...}} on every line"
        )
    return values


def _field(values, name, file, number):
    if not isinstance(values.get(name), str):
        there = ", ".join(sorted(values)) or "none"
        fault = "is not a string" if name in values else "is missing"
        raise UserError(
            f"{file} line {number}: field {name!r} {fault} (fields there: {there}): set "
            "config.data.field and config.data.source_field"
        )
    try:
        values[name].encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{file} line {number}: field {name!r} has half a surrogate pair "
            f"({values[name][error.start]!a}), which is no character: mend or remove the line"
        ) from None
    return values[name]
