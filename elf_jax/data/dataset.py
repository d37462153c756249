"""The data section of a config, carried out: sources, tokenizer, packing."""

import dataclasses
import hashlib

import transformers

from elf_jax.data.packing import Rows, pack_rows, pack_stream
from elf_jax.data.sources import Example, load_examples
from elf_jax.data.tokenizer import encode, get_tokenizer
from elf_jax.errors import UserError

PACKINGS = ("auto", "rows", "stream")
REPORT = "dataset.json"  # in the workdir: `Dataset.report`


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Attributes:
    tokenizer: the tokenizer.
    train, validation: packed rows. train_examples, validation_examples: the text they come from.
    whole: every row is one whole text, so that a sample can be looked up among them.
    conditional: rows have a condition.
    report: counts, fill and fingerprint, to be printed and kept.
    """

    tokenizer: transformers.PreTrainedTokenizerFast
    train: Rows
    validation: Rows
    train_examples: list[Example]
    validation_examples: list[Example]
    whole: bool
    conditional: bool
    report: dict


def load_dataset(settings, tokenizer_directory):
    """Reads, splits, tokenises and packs.

    Args:
      settings: config section `data`.
      tokenizer_directory: where the tokenizer is kept.

    Raises:
      UserError: whatever is wrong with the files, the tokenizer or the lengths.
    """
    conditional = bool(settings.source_field)
    whole = _is_whole(settings, conditional)
    train_examples, validation_examples = load_examples(settings)
    tokenizer = get_tokenizer(settings, train_examples, tokenizer_directory)
    train, cut = _pack(settings, tokenizer, train_examples, whole, "training")
    validation, _ = _pack(settings, tokenizer, validation_examples, whole, "validation")
    report = {
        "train_texts": len(train_examples),
        "validation_texts": len(validation_examples),
        "train_rows": len(train),
        "validation_rows": len(validation),
        "train_tokens": int(train.valid_length.sum()),
        "fill": float(train.valid_length.mean() / settings.length),
        "vocab_size": len(tokenizer),
        **cut,
        "fingerprint": _fingerprint(train, validation),
    }
    return Dataset(
        tokenizer,
        train,
        validation,
        train_examples,
        validation_examples,
        whole,
        conditional,
        report,
    )


def _is_whole(settings, conditional):
    """Whether rows are whole texts; checks the lengths on the way."""
    if settings.packing not in PACKINGS:
        raise UserError(
            f"config.data.packing is {settings.packing!r}; use one of {', '.join(PACKINGS)}"
        )
    if settings.pad not in ("pad", "eos"):
        raise UserError(f"config.data.pad is {settings.pad!r}; use pad or eos")
    if settings.length < 2:
        raise UserError(f"config.data.length is {settings.length}; use 2 or more")
    if conditional and settings.packing == "stream":
        raise UserError("pairs cannot be packed as a stream: set config.data.packing to rows")
    if conditional and not 1 < settings.source_length < settings.length - 1:
        raise UserError(
            f"config.data.source_length is {settings.source_length}: for pairs it must be between "
            f"2 and config.data.length - 2 = {settings.length - 2}"
        )
    if settings.packing == "auto":
        return conditional or settings.source == "unicode_names"
    return settings.packing == "rows"


def _pack(settings, tokenizer, examples, whole, part):
    targets = encode(tokenizer, [example.text for example in examples])
    if not whole:
        return pack_stream(targets, settings.length, tokenizer.eos_token_id, part), {}
    sources = None
    if settings.source_field:
        sources = encode(tokenizer, [example.source for example in examples])
    pad = tokenizer.eos_token_id if settings.pad == "eos" else tokenizer.pad_token_id
    return pack_rows(
        targets, sources, settings.length, settings.source_length, tokenizer.eos_token_id, pad
    )


def _fingerprint(*parts):
    digest = hashlib.sha256()
    for rows in parts:
        for array in (rows.tokens, rows.cond_length, rows.valid_length):
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]
