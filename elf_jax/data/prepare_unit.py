"""Prepares one unit of a corpus: reads, splits, tokenises, packs and writes its shards.

It runs in worker processes. So it imports little, and they start quickly.
"""

import contextlib
import dataclasses
import functools
import pathlib

import numpy as np
import tokenizers

from elf_jax.core.errors import UserError
from elf_jax.data.corpora import SPLIT, TRAIN, VALIDATION, is_empty, split_document
from elf_jax.data.packing import PACKERS, ReadyPacker
from elf_jax.data.records import BadLines
from elf_jax.data.shards import open_shard
from elf_jax.data.tokenizer_errors import encoding

# Limits of what is tokenised in one call: enough to be quick, little enough to save memory.
CHUNK_CHARACTERS, CHUNK_TEXTS = 1 << 19, 512


class Stopped(Exception):
    """The preparation was told to stop."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is the same for all units. It is sent to every worker once.

    Attributes:
      settings: the values of the config section `data`, with the packing resolved.
      corpus: of `corpora.open_corpus`.
      tokenizer: text of a tokenizer.json, or the directory of a tokenizer that has none.
      eos_id: id of its EOS token.
      vocab_size: V. dtype: of stored rows, see `shards.row_dtype`.
    """

    settings: object
    corpus: object
    tokenizer: str | pathlib.Path
    eos_id: int
    vocab_size: int
    dtype: str


class UnitPreparer:
    """Prepares units, one after another.

    Args:
      plan: a `Plan`.
      progress: called with (documents, tokens) after every chunk.
      stopped: called between chunks; if it returns true, the preparation stops.
    """

    def __init__(self, plan, progress=lambda documents, tokens: None, stopped=lambda: False):
        self.plan, self.progress, self.stopped = plan, progress, stopped
        self.encode = load_encoder(plan.tokenizer)

    def run(self, number, unit):
        """Writes the shards of a unit.

        Args:
          number: of the unit, from 0. unit: a `corpora.Unit`.

        Returns:
          The unit's entry in the manifest, a dict: "number"; "empty", how many documents or pairs
          with an empty half were dropped; "bad_lines", how many were skipped, if any; "sides",
          {side: {"shard": entry of the shard, "counts": counts of documents, tokens and cuts}}.

        Raises:
          UserError: documents that cannot be read. Stopped: see `stopped`.
        """
        sides = (TRAIN, VALIDATION) if unit.side == SPLIT else (unit.side,)
        empty, bad = 0, BadLines(self.plan.settings)
        with contextlib.ExitStack() as stack:
            outputs = {side: _Output(self.plan, side, number, stack) for side in sides}
            for documents, placed in _chunks(self._placed(unit, bad)):
                if self.stopped():
                    raise Stopped
                kept = [(side, document) for side, document in placed if not is_empty(document)]
                empty += len(placed) - len(kept)
                self.progress(documents, self._pack(outputs, kept))
            done = {side: output.finish() for side, output in outputs.items()}
        skipped = {"bad_lines": bad.count} if bad.count else {}
        return {"number": number, "empty": empty, **skipped, "sides": done}

    def _placed(self, unit, bad):
        """For each document of the unit, yields a list of (side, part of the document)."""
        for document in self.plan.corpus.read(unit.payload, bad):
            if unit.side != SPLIT or is_empty(document):
                yield [(unit.side, document)]
                continue
            parts = split_document(self.plan.settings, document)
            yield [(VALIDATION if out else TRAIN, part) for out, part in parts]

    def _pack(self, outputs, placed):
        """Tokenises, packs and writes; returns the number of tokens."""
        before = sum(output.tokens for output in outputs.values())
        if self.plan.corpus.pretokenized:
            pairs = [(document.target, document.source) for _, document in placed]
            self._check_ids(pairs)
        else:
            targets = self.encode([document.text for _, document in placed])
            sources = [None] * len(placed)
            if self.plan.settings.source_field:
                sources = self.encode([document.source for _, document in placed])
            pairs = zip(targets, sources, strict=True)
        for (side, _), pair in zip(placed, pairs, strict=True):
            outputs[side].add(*pair)
        return sum(output.tokens for output in outputs.values()) - before

    def _check_ids(self, pairs):
        ids = np.concatenate([half for pair in pairs for half in pair if half is not None] or [[0]])
        if ids.min() < 0 or ids.max() >= self.plan.vocab_size:
            raise UserError(
                f"{self.plan.settings.path} has token ids from {ids.min()} to {ids.max()}, but the "
                f"tokenizer has {self.plan.vocab_size} tokens: set config.data.tokenizer to the "
                "one that made the data"
            )


class _Output:
    """Packs one side of a unit and writes its shard, which `stack` closes."""

    def __init__(self, plan, side, number, stack):
        settings = plan.settings
        make = ReadyPacker if plan.corpus.pretokenized else PACKERS[settings.packing]
        form = settings.length, plan.eos_id, settings.source_length, settings.pad_source
        self.packer = make(*form)
        path = pathlib.Path(settings.prepared) / f"{side}-{number:05d}.array_record"
        self.writer = stack.enter_context(open_shard(path, plan.dtype))
        self.documents = self.tokens = self.written = 0

    def add(self, target, source):
        self.documents += 1
        self.tokens += len(target) + (0 if source is None else len(source))
        self._write(self.packer.add(target, source))

    def _write(self, rows):
        for row in rows:
            self.writer.write(row)
            self.written += len(row.tokens)

    def finish(self):
        self._write(self.packer.finish())
        counts = {"documents": self.documents, "tokens": self.written, **self.packer.counts}
        counts = {name: int(count) for name, count in counts.items()}
        return {"shard": self.writer.finish(), "counts": counts}


def _chunks(groups):
    """Yields (number of groups, all their members in one list), about CHUNK_CHARACTERS each."""
    count, chunk, size = 0, [], 0
    for group in groups:
        count += 1
        chunk += group
        size += sum(_size(document) for _, document in group)
        if size >= CHUNK_CHARACTERS or len(chunk) >= CHUNK_TEXTS:
            yield count, chunk
            count, chunk, size = 0, [], 0
    if count:
        yield count, chunk


def _size(document):
    return sum(len(half) for half in document if half is not None)


def load_encoder(tokenizer):
    """The function that `tokenizer.encode` is for one tokenizer: texts to a list of int32 arrays.

    Args:
      tokenizer: as in `Plan`.
    """
    if isinstance(tokenizer, str):
        return functools.partial(encode_core, load_core(tokenizer))
    # Here, because transformers takes long to start, and most workers do without it.
    from elf_jax.data.tokenizer import encode, load_tokenizer

    return functools.partial(encode, load_tokenizer(tokenizer))


def load_core(text):
    """The `tokenizers.Tokenizer` of a tokenizer.json; special tokens in a text stay text.

    Args:
      text: content of the file.
    """
    core = tokenizers.Tokenizer.from_str(text)
    core.no_padding()
    core.no_truncation()
    core.encode_special_tokens = True
    return core


def encode_core(core, texts):
    """Token ids of each text: a list of int32 arrays, the same ones as `tokenizer.encode` gives."""
    with encoding():
        encoded = core.encode_batch_fast(texts, add_special_tokens=False)
    return [np.array(one.ids, np.int32) for one in encoded]
