"""Measures the training data for the rule of sizes (`core/fitting.py`), without reading all of it.

Tokens are estimated from characters, because the tokenizer is trained only after its size is
chosen.
"""

import itertools
import os
import pathlib
from typing import NamedTuple

import numpy as np

from elf_jax.core import store
from elf_jax.core.errors import UserError
from elf_jax.core.fitting import Facts
from elf_jax.data import corpora, examples
from elf_jax.data.libraries import LIBRARIES
from elf_jax.data.manifest import read_manifest
from elf_jax.data.opening import DECOMPRESS, compression, import_pyarrow, is_parquet, open_raw
from elf_jax.data.prepared import on_this_machine
from elf_jax.data.records import BadLines, parquet_records
from elf_jax.data.split import TRAIN, VALIDATION
from elf_jax.data.text_files import decode_utf8, plain_newlines

CHARACTERS = 3.7  # of a token of a byte-level BPE of some thousand tokens, in European languages
WIDE = "\u2e80"  # from here on, mostly Chinese, Japanese and Korean: a token for each character
BYTES = 32 << 20  # that are read in all, decompressed; smaller corpora are read whole
DOCUMENTS = 20_000  # of a data set that are read
PARTS = 16  # of a large file that are read, evenly
AHEAD = 1 << 13  # bytes, decompressed
FILES = 256  # at most, of a corpus of many
TARGETS, SOURCES = 0.98, 0.95  # the quantiles of the lengths


class _Sample(NamedTuple):
    """Part of a corpus: its `Example`s or `Tokens`, and what part of all that is, up to 1."""

    documents: list
    share: float


def measure(settings):
    """The `Facts` of the training side.

    Args:
      settings: config section `data`; values may be missing (None) that the rule will choose.

    Returns:
      `Facts`; None if the config names no data.

    Raises:
      UserError: files or data sets that cannot be read.
    """
    manifest = _manifest(settings)
    if manifest:
        return _of_shards(manifest)
    if settings.kind == "unicode_names":
        sample = _Sample(examples.READERS[settings.kind](settings, "path", None), 1.0)
    elif not settings.path:
        return None
    elif settings.kind in LIBRARIES:
        sample = _of_library(settings)
    else:
        sample = _of_files(settings)
    apart = settings.validation_path or settings.validation_split
    return _facts(settings, sample, 1.0 if apart else 1 - settings.validation_fraction)


def kept_sizes(settings):
    """{"data.KEY": value} of the lengths and the vocabulary that prepared shards have; empty if
    there are no shards.
    """
    manifest = _manifest(settings)
    options = manifest["options"] if manifest else {}
    keys = ("vocab_size", "length", "source_length")
    return {f"data.{key}": options[key] for key in keys if key in options}


def _manifest(settings):
    if not settings.prepared:
        return None
    if store.is_url(settings.prepared):
        settings = on_this_machine(settings, held_out=True)
    return read_manifest(settings.prepared)


def _of_shards(manifest):
    """Facts of shards. The lengths of texts are not needed: `kept_sizes` has those of rows."""
    counts, options = manifest["counts"][TRAIN], manifest["options"]
    source = options.get("source_length", 0)
    length = options["length"] - source
    return Facts(counts["documents"], counts["tokens"], length, source, rows=counts["rows"])


def _facts(settings, sample, part):
    """`Facts` of a corpus, of which `part` is trained on."""
    kept = [one for one in sample.documents if not corpora.is_empty(one)]
    if not kept:
        raise UserError(f"{settings.path} holds no examples: check config.data.path")
    targets = np.array([tokens_of(one[0]) for one in kept])
    sources = np.array([tokens_of(one[1]) for one in kept if one[1] is not None])
    scale = part / max(sample.share, 1e-12)
    return Facts(
        texts=max(round(len(kept) * scale), 1),
        tokens=max(round(float(targets.sum()) * scale), 1),
        target=int(np.ceil(np.quantile(targets, TARGETS))),
        source=int(np.ceil(np.quantile(sources, SOURCES))) if len(sources) else 0,
        source_tokens=round(float(sources.sum()) * scale),
    )


def tokens_of(text):
    """About how many tokens a text has; of token ids their number."""
    if not isinstance(text, str):
        return len(text)
    if text.isascii():
        return len(text) / CHARACTERS
    wide = sum(character >= WIDE for character in text)
    return wide + (len(text) - wide) / CHARACTERS


def _of_library(settings):
    """A sample of a data set, in evenly spaced ranges of documents."""
    corpus = corpora.open_corpus(settings)
    total = next(size for side, size in corpus.sizes.items() if side != VALIDATION)
    width = corpora.READ_DOCUMENTS
    count = min(-(-total // width), DOCUMENTS // width)
    starts = sorted({total * i // count for i in range(count)})
    nexts = [*starts[1:], total]
    ends = [min(start + width, end) for start, end in zip(starts, nexts, strict=True)]
    ranges = list(zip(starts, ends, strict=True))
    read = [one for start, end in ranges for one in corpus.read([TRAIN, start, end])]
    return _Sample(read, sum(end - start for start, end in ranges) / max(total, 1))


def _of_files(settings):
    """A sample of files. Of many files some are read, of large ones parts."""
    files = examples.corpus_files(settings, "path")
    sizes = [os.path.getsize(file) for file in files]
    step = -(-len(files) // FILES)
    chosen = files[::step]
    budget = BYTES // len(chosen)
    documents, seen = [], 0
    for file in chosen:
        found, share = _of_file(settings, file, budget)
        documents += found
        seen += share * os.path.getsize(file)
    return _Sample(documents, min(seen / max(sum(sizes), 1), 1.0))


def _of_file(settings, file, budget):
    """(documents, the share of the file that they are) of at most about `budget` bytes."""
    if is_parquet(file):
        return _of_parquet(settings, file, budget)
    size = os.path.getsize(file)
    # A compressed file cannot be read from the middle: its beginning stands for all of it.
    whole = size <= budget or compression(file)
    places = [0] if whole else [size * i // PARTS for i in range(PARTS)]
    documents, seen = [], 0
    for place in places:
        data, read = _lines(file, place, budget // len(places))
        documents += _documents(settings, file, data, place)
        seen += read
    return documents, min(seen / max(size, 1), 1.0)


def _lines(file, place, budget):
    """(whole lines from the first one that begins after `place`, the bytes of the file as it is on
    the disk that were read for them). A line longer than the budget is cut.
    """
    decompress = DECOMPRESS.get(compression(file))
    with open_raw(file) as opened:
        opened.seek(place)
        if place:
            opened.readline(budget)
        if decompress is None:
            data = _whole_lines(opened.read(budget), budget)
            return data, len(data)
        with decompress(opened) as lines:
            data = lines.read(budget)
            size, position = len(data), opened.tell()
            # The file is read ahead. When it is read again, the lines have come to `position`.
            while opened.tell() == position and (more := lines.read(AHEAD)):
                size += len(more)
            data = _whole_lines(data, budget)
            return data, position * len(data) / max(size, 1)


def _whole_lines(data, budget):
    return data if len(data) < budget else data[: data.rfind(b"\n") + 1] or data


def _documents(settings, file, data, place):
    """The documents in the bytes of a part of a file. Damage beyond the beginning is left to the
    training, which knows the number of the line.
    """
    bad = BadLines(settings)
    bad.skip = bad.skip or place > 0
    if settings.kind == "jsonl":
        return list(examples.jsonl_examples(settings, file, data, bad, 2 if place else 1))
    text = data.decode("utf-8", "replace") if place else decode_utf8(file, _characters(data))
    return examples.text_examples(settings, plain_newlines(text))


def _characters(data):
    """The bytes without half a character at their end."""
    for cut in range(1, min(4, len(data)) + 1):
        lead = data[-cut]
        if lead >= 0xC0:  # the first byte of a character of several
            needed = 2 + (lead >= 0xE0) + (lead >= 0xF0)
            return data[:-cut] if cut < needed else data
        if lead < 0x80:
            break
    return data


def _of_parquet(settings, file, budget):
    """`_of_file` of a table: its first rows."""
    import_pyarrow("Parquet files")
    from pyarrow.parquet import read_metadata

    documents, bad, names = [], BadLines(settings), examples.fields(settings)
    for first, records in parquet_records(file, names):
        found = list(examples.record_examples(settings, file, records, bad, first))
        documents += found
        budget -= sum(len(half) for half in itertools.chain(*found) if half)
        rows = first - 1 + len(records)
        if budget <= 0:
            break
    return documents, rows / max(read_metadata(pathlib.Path(file)).num_rows, 1)
