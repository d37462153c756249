"""Examples: texts and pairs of texts, before they are tokenised.

Three kinds of corpus are read into memory here: the names of Unicode characters, plain text, and
records (JSON lines or Parquet). Larger corpora are read part by part, see `corpora.py`.
"""

import re
import unicodedata
from typing import NamedTuple

from absl import logging

from elf_jax.core.errors import UserError
from elf_jax.data.libraries import LIBRARIES
from elf_jax.data.opening import check_format, is_parquet
from elf_jax.data.records import BadLine, BadLines, json_records, parquet_records, text_field
from elf_jax.data.split import split_blocks, split_example
from elf_jax.data.text_files import (
    check_apart,
    find_files,
    plain_newlines,
    read_lines,
    read_text,
)


class Example(NamedTuple):
    """A text, and of a pair also its source.

    Attributes:
      text: the text; of a pair the target. source: the condition of a pair, otherwise None.
    """

    text: str
    source: str | None = None


def load_examples(settings, bad=None):
    """Reads the whole corpus and splits it.

    Args:
      settings: config section `data`.
      bad: a `BadLines`, to which the bad lines that are skipped are added.

    Returns:
      (training, validation), two lists of `Example`.

    Raises:
      UserError: missing, empty or damaged files, a split with nothing on one side, or a kind that
        is not read into memory.
    """
    read = _reader(settings)
    bad = bad or BadLines(settings)
    if settings.validation_path:
        check_apart(settings)
        return read(settings, "path", bad), read(settings, "validation_path", bad)
    examples = read(settings, "path", bad)
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
    return _reader(settings)(settings, "validation_path", BadLines(settings))


def _reader(settings):
    """The function (settings, key of config.data with the path, `BadLines`) -> examples."""
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


def _unicode_names(settings, key, bad):
    """The names of the characters in `unicodedata`, in lower case.

    There are about 26,000, more with a newer Unicode. Names that only count are left out: those
    with a digit or with their own code point (CJK ideographs, hieroglyphs, cuneiform), and the
    Hangul and Yi syllables.
    """
    del settings, key, bad
    names = []
    for code in range(0x110000):
        name = unicodedata.name(chr(code), "")
        if not name or name.endswith(f"{code:04X}") or re.search(r"\d", name):
            continue  # first, because nine of ten codes have no name
        if not name.startswith(("HANGUL SYLLABLE", "YI SYLLABLE")):
            names.append(Example(name.lower()))
    return names


def _text(settings, key, bad):
    """Plain text files. Every file is a document; with packing=rows every block is one."""
    del bad
    documents = []
    for file in corpus_files(settings, key):
        text = plain_newlines(read_text(file))
        if not text.strip():
            raise UserError(f"{file} holds no text: remove it from config.data.{key}, or fill it")
        documents += text_examples(settings, text)
    return documents


def text_examples(settings, text):
    """A document as a list of `Example`: one, or with packing=rows one for every block."""
    blocks = split_blocks(text, settings.longest_block) if settings.packing == "rows" else [text]
    return [Example(block) for block in blocks]


def _jsonl(settings, key, bad):
    """Records. Every one is a document, or a pair where `source_field` is set."""
    examples, before = [], bad.count
    for file in corpus_files(settings, key):
        if is_parquet(file):
            for first, records in parquet_records(file, fields(settings)):
                examples += record_examples(settings, file, records, bad, first)
        else:
            examples += jsonl_examples(settings, file, b"".join(read_lines(file)), bad)
    bad.check()
    if bad.count > before:
        logging.warning("skipped %d bad lines; the first: %s", bad.count - before, bad.first)
    kept = [example for example in examples if not is_empty(example)]
    if settings.source_field and len(kept) < len(examples):
        logging.warning("dropped %d pairs with an empty half", len(examples) - len(kept))
    if not kept:
        raise UserError(f"{getattr(settings, key)} holds no examples: check config.data.{key}")
    return kept


READERS = {"unicode_names": _unicode_names, "text": _text, "jsonl": _jsonl}


def is_empty(example):
    """Whether the text, or one half of a pair, has nothing in it but white space."""
    return any(half is not None and (not half or half.isspace()) for half in example)


def corpus_files(settings, key):
    """The files of settings.path or settings.validation_path, see `find_files`.

    Raises:
      UserError: as `find_files`; or a file whose name says that it cannot be read.
    """
    files = find_files(getattr(settings, key), key)
    for file in files:
        check_format(file, settings.kind)
    return files


def fields(settings):
    """The names of the fields with the text and, of pairs, with the source."""
    return [name for name in (settings.field, settings.source_field) if name]


def jsonl_examples(settings, file, data, bad, first_line=1, first_byte=0):
    """Yields the `Example` of every JSON line, empty ones too.

    Args:
      settings: config section `data`. data: bytes, the lines. bad: a `BadLines`.
      file, first_line, first_byte: where `data` was read from, for messages.

    Raises:
      UserError: a line that is not a JSON object with the fields of the config.
    """
    records = json_records(file, data, bad, first_line, first_byte)
    return _examples(settings, f"{file} line", records, bad)


def record_examples(settings, file, records, bad, first_row=1):
    """Yields the `Example` of every record of a table, empty ones too.

    Args:
      settings: config section `data`. records: list of dicts. bad: a `BadLines`.
      file, first_row: where `records` were read from, for messages.

    Raises:
      UserError: a row that does not have a text in the fields of the config.
    """
    return _examples(settings, f"{file} row", enumerate(records, first_row), bad)


def _examples(settings, what, numbered, bad):
    """Yields an `Example` for every (number, record)."""
    names = (settings.field, settings.source_field)
    for number, record in numbered:
        try:
            text, source = (
                text_field(record, name, f"{what} {number}") if name else None for name in names
            )
        except BadLine as error:
            bad.add(error, number == 1)
            continue
        bad.good = True
        yield Example(text, source)
