"""Generates a target for each line of source text, in order (`--mode=sample --source=FILE`).

Lines are read as they come in. All batches have one shape, so there is one compilation. Each target
is returned as soon as it is made. An empty line gives an empty target, so that line i of the output
belongs to line i of the input.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import sys

from elf_jax.core.averaging import warn_of_first_weights
from elf_jax.core.errors import UserError
from elf_jax.data.opening import cannot_read, check_format, ending, is_parquet, open_bytes
from elf_jax.data.packing import pack_rows
from elf_jax.data.records import BadLine, parquet_records, parse_line, text_field
from elf_jax.data.text_files import decode_utf8
from elf_jax.data.tokenizer import decode, encode
from elf_jax.generation.generate import batch_rows, stream, take

STDIN, STDIN_NAME = "-", "standard input"
JSON_LINES = (".jsonl", ".ndjson", ".json")  # the endings of files whose lines are JSON objects
LINE_FEED = re.compile("\r?\n")
REMEDY = "correct the line, or set config.data.source_field"


@dataclasses.dataclass
class Counts:
    """The number of lines, and of those among them that were empty or too long and cut."""

    lines: int = 0
    empty: int = 0
    cut: int = 0


def read_sources(file, field, remedy=REMEDY):
    """Yields the source in each line of a file. The file is never held in memory as a whole.

    Args:
      file: path, or "-" for standard input. Lines are plain text; if the name ends in .jsonl (or in
        .ndjson or .json) they are JSON objects. A .parquet file has a source in each row.
        Compressed files (.gz, .bz2, .xz, .zst) are decompressed.
      field: name of the field in the objects, see `fields.find_field`.
      remedy: what to do about a line without the field.

    Yields:
      str, "" for an empty line.

    Raises:
      UserError: there is no such file, it cannot be read, or a line is not UTF-8 or not such an
        object.
    """
    file = str(file)
    if file != STDIN and not os.path.lexists(file):
        raise UserError(f"no file at {file!r}: check --source (- is standard input)")
    try:
        yield from _rows(file, field, remedy) if is_parquet(file) else _lines(file, field)
    except BadLine as error:
        raise UserError(f"{error}: {remedy}") from None


def _lines(file, field):
    is_json, byte = ending(file) in JSON_LINES, 0
    name = STDIN_NAME if file == STDIN else file
    check_format(file)
    with _standard_input() if file == STDIN else open_bytes(file) as lines:
        for number, line in enumerate(lines, 1):
            if is_json and line.strip():
                record = parse_line(file, line, number, byte)
                yield text_field(record, field, f"{file} line {number}")
            else:
                yield decode_utf8(name, line, number, byte).rstrip("\r\n")
            byte += len(line)


@contextlib.contextmanager
def _standard_input():
    if sys.stdin is None:
        raise UserError(
            "standard input is closed: redirect it from a file, or name one in --source"
        )
    try:
        yield sys.stdin.buffer
    except OSError as error:
        raise cannot_read(STDIN_NAME, error) from None


def _rows(file, field, remedy):
    for first, records in parquet_records(file, [field], remedy):
        for number, record in enumerate(records, first):
            yield text_field(record, field, f"{file} row {number}")


def translate(trained, sources, seed, counts, run=None):
    """Yields a target for each source, as soon as its batch is made.

    Args:
      trained: a `TrainedModel` of pairs. sources: iterable of str. seed: of all randomness.
      counts: a `Counts`, to which the lines are added.
      run: a `jit_sampler`, so that several calls compile once; None: a new one.

    Yields:
      Lists of (source, target), in order.

    Raises:
      UserError: the model takes no sources.
    """
    check_takes_sources(trained.config)
    warn_of_first_weights(trained.config, trained.step)
    sources = iter(sources)
    first = list(itertools.islice(sources, trained.config.sample.batch_size))
    if not first:
        return
    size = batch_rows(trained, len(first))  # fewer lines than a batch: a smaller batch
    batches, kept = itertools.tee(_batches(itertools.chain(first, sources), size))
    conditions = (_pack(trained, batch, size, counts) for batch in batches)
    for rows, batch in zip(stream(trained, conditions, size, seed, run), kept, strict=True):
        targets = decode(trained.tokenizer, rows[: len(batch)])
        yield [
            (source, target if source.strip() else "")
            for source, target in zip(batch, targets, strict=True)
        ]


def check_takes_sources(config):
    """Raises UserError if the model of this config takes no sources."""
    if not config.data.source_field:
        raise UserError(
            "this model was trained without sources (config.data.source_field is empty) and takes "
            "no --source: leave it out, or name a model trained on pairs"
        )


def _batches(sources, size):
    while batch := list(itertools.islice(sources, size)):
        yield batch


def _pack(trained, batch, size, counts):
    """The fields of a `Batch` of `size` rows with these sources and no targets."""
    data, tokenizer = trained.config.data, trained.tokenizer
    ids = encode(tokenizer, batch)
    pad = tokenizer.eos_token_id if data.pad == "eos" else tokenizer.pad_token_id
    form = data.length, data.source_length, tokenizer.eos_token_id, pad, data.pad_source
    rows, cut = pack_rows([[]] * len(batch), ids, *form)
    counts.lines += len(batch)
    counts.empty += sum(not source.strip() for source in batch)
    counts.cut += cut["sources_cut"]
    return take(rows, 0, size)


def format_answer(source, target, form):
    """One line of output, without the line break at its end."""
    if form == "jsonl":
        return json.dumps({"source": source, "target": target}, ensure_ascii=False)
    return " ".join(target.splitlines())


def format_sample(source, text, form):
    """A sample as it is printed: the text alone, or together with its source."""
    if source is not None:
        target = format_answer(source, text, form)
        return target if form == "jsonl" else f"{source}\t{target}"
    return json.dumps({"text": text}, ensure_ascii=False) if form == "jsonl" else text


def format_record(record, form, on_one_line):
    """A dict with the key "text" as it is printed: the text alone, or everything as JSON.

    Args:
      on_one_line: whether line feeds inside the text become spaces. Nothing else of it changes.
    """
    if form == "jsonl":
        return json.dumps(record, ensure_ascii=False)
    return LINE_FEED.sub(" ", record["text"]) if on_one_line else record["text"]


def describe(counts, source_length):
    """One line about sources that were cut or empty; "" if there were none."""
    parts = []
    if counts.cut:
        parts.append(f"{counts.cut} cut to config.data.source_length={source_length} tokens")
    if counts.empty:
        parts.append(f"{counts.empty} empty")
    return f"of {counts.lines} sources: {', '.join(parts)}" if parts else ""
