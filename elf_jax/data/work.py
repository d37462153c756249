"""One unit of a corpus to its shards: read, split, tokenise, pack, write. Runs in worker processes,
and so imports little.
"""

import dataclasses
import pathlib

import numpy as np
import tokenizers

from elf_jax.core.errors import UserError
from elf_jax.data.corpora import SPLIT, TRAIN, VALIDATION, is_empty, split_document
from elf_jax.data.packing import PACKERS, ReadyPacker
from elf_jax.data.shards import ShardWriter

# Tokenised in one call: enough to be worth it, little enough to stay small in memory.
CHUNK_CHARACTERS, CHUNK_TEXTS = 1 << 19, 512


class Stopped(Exception):
    """The work was told to stop."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What every unit's work has in common; travels to the workers once.

    Attributes:
      settings: the values of config section `data`, with the packing resolved.
      corpus: see `corpora.open_corpus`.
      tokenizer: its tokenizer.json, as text. eos_id: of its EOS token.
      vocab_size: V. dtype: of the records.
    """

    settings: object
    corpus: object
    tokenizer: str
    eos_id: int
    vocab_size: int
    dtype: str


class Worker:
    """Carries out units.

    Args:
      plan: the `Plan`.
      report: called with (documents, tokens) after every chunk.
      stopped: called between chunks; true ends the work.
    """

    def __init__(self, plan, report=lambda documents, tokens: None, stopped=lambda: False):
        self.plan, self.report, self.stopped = plan, report, stopped
        self.core = load_core(plan.tokenizer)

    def run(self, number, unit):
        """Writes the shards of a unit.

        Returns:
          {"number": number, "empty": documents or pairs dropped because they or one side are
          empty, "sides": {side: {"shard": the shard's entry in the manifest, "counts": counts}}}.

        Raises:
          UserError: documents that cannot be read. Stopped: see `stopped`.
        """
        sides = (TRAIN, VALIDATION) if unit.side == SPLIT else (unit.side,)
        outputs = {side: _Output(self.plan, side, number) for side in sides}
        empty = 0
        try:
            for documents, placed in _chunks(self._placed(unit)):
                if self.stopped():
                    raise Stopped
                kept = [(side, document) for side, document in placed if not is_empty(document)]
                empty += len(placed) - len(kept)
                self.report(documents, self._pack(outputs, kept))
            done = {side: output.finish() for side, output in outputs.items()}
        finally:
            for output in outputs.values():
                output.writer.discard()
        return {"number": number, "empty": empty, "sides": done}

    def _placed(self, unit):
        """Yields the (side, document) pairs that each document of the unit comes to, as a list."""
        for document in self.plan.corpus.read(unit.payload):
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
            targets = encode_core(self.core, [document.text for _, document in placed])
            sources = [None] * len(placed)
            if self.plan.settings.source_field:
                sources = encode_core(self.core, [document.source for _, document in placed])
            pairs = zip(targets, sources, strict=True)
        for (side, _), pair in zip(placed, pairs, strict=True):
            outputs[side].add(*pair)
        return sum(output.tokens for output in outputs.values()) - before

    def _check_ids(self, pairs):
        ids = np.concatenate([side for pair in pairs for side in pair if side is not None] or [[0]])
        if ids.min() < 0 or ids.max() >= self.plan.vocab_size:
            raise UserError(
                f"{self.plan.settings.path} has token ids from {ids.min()} to {ids.max()} and the "
                f"tokenizer {self.plan.vocab_size} tokens: set config.data.tokenizer to the one "
                "that made it"
            )


class _Output:
    """The rows of one side of a unit on their way to the shard."""

    def __init__(self, plan, side, number):
        settings = plan.settings
        make = ReadyPacker if plan.corpus.pretokenized else PACKERS[settings.packing]
        self.packer = make(settings.length, plan.eos_id, settings.source_length)
        path = pathlib.Path(settings.prepared) / f"{side}-{number:05d}.array_record"
        self.writer = ShardWriter(path, plan.dtype)
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
    """Yields (number of groups, their members in one list), of about CHUNK_CHARACTERS each."""
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
    return sum(len(side) for side in document if side is not None)


def load_core(text):
    """The tokenizer of a tokenizer.json, set to take text that spells a special token as text."""
    core = tokenizers.Tokenizer.from_str(text)
    core.no_padding()
    core.no_truncation()
    core.encode_special_tokens = True
    return core


def encode_core(core, texts):
    """As `tokenizer.encode`, without the library around the tokenizer."""
    encoded = core.encode_batch_fast(texts, add_special_tokens=False)
    return [np.array(one.ids, np.int32) for one in encoded]
