"""The data section of a config, carried out: read into memory, tokenised and packed; or read from
prepared shards.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import jax
import transformers
from jax.experimental import multihost_utils

from elf_jax.data.corpora import TRAIN, VALIDATION
from elf_jax.data.manifest import on_this_machine, open_prepared, read_manifest, shards
from elf_jax.data.packing import Rows, pack_documents, pack_rows, pack_stream, resolve_packing
from elf_jax.data.prepare import prepare
from elf_jax.data.shards import PreparedRows, RowTexts
from elf_jax.data.sources import Example, load_examples
from elf_jax.data.tokenizer import encode, get_tokenizer, pad_id

REPORT = "dataset.json"  # in the workdir: `Dataset.report`


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Attributes:
    tokenizer: the tokenizer.
    train, validation: packed rows.
    train_examples, validation_examples: the text they come from; of prepared shards the validation
      rows as text, decoded when asked for, and nothing of the training rows.
    whole: every row is one whole text, so that a sample can be looked up among them.
    conditional: rows have a condition.
    report: counts, fill and fingerprint, to be printed and kept.
    """

    tokenizer: transformers.PreTrainedTokenizerFast
    train: Rows | PreparedRows
    validation: Rows | PreparedRows
    train_examples: list[Example]
    validation_examples: Sequence[Example]
    whole: bool
    conditional: bool
    report: dict


def load_dataset(settings, tokenizer_directory):
    """Reads, splits, tokenises and packs; or opens what was prepared (settings.prepared).

    Args:
      settings: config section `data`.
      tokenizer_directory: where the tokenizer is kept.

    Raises:
      UserError: whatever is wrong with the files, the tokenizer or the lengths.
    """
    packing = resolve_packing(settings)
    if settings.prepared:
        return _load_prepared(settings, tokenizer_directory)
    train_examples, validation_examples = load_examples(settings)
    tokenizer = get_tokenizer(settings, train_examples, tokenizer_directory)
    train, cut = _pack(settings, tokenizer, train_examples, packing, "training")
    validation, _ = _pack(settings, tokenizer, validation_examples, packing, "validation")
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
        packing == "rows",
        bool(settings.source_field),
        report,
    )


def _pack(settings, tokenizer, examples, packing, part):
    length, eos, pad = settings.length, tokenizer.eos_token_id, pad_id(settings, tokenizer)
    targets = encode(tokenizer, [example.text for example in examples])
    if packing == "stream":
        return pack_stream(targets, length, eos, part), {}
    if packing == "documents":
        return pack_documents(targets, length, eos, pad)
    sources = None
    if settings.source_field:
        sources = encode(tokenizer, [example.source for example in examples])
    return pack_rows(targets, sources, length, settings.source_length, eos, pad)


def _load_prepared(settings, tokenizer_directory):
    """The `Dataset` of the shards in settings.prepared, which are made first if there are none.

    With several processes the first one prepares, and all must see the directory.
    """
    settings = on_this_machine(settings)
    several = jax.process_count() > 1
    if jax.process_index() == 0 and read_manifest(settings.prepared) is None:
        print(f"no prepared data in {settings.prepared!r}: preparing it first", flush=True)
        prepare(settings, tokenizer_directory)
    if several:
        multihost_utils.sync_global_devices("prepared data")
    manifest, tokenizer = open_prepared(settings, tokenizer_directory)
    train, validation = (
        PreparedRows(
            settings.prepared,
            shards(manifest, side),
            manifest["dtype"],
            settings.length,
            pad_id(settings, tokenizer),
        )
        for side in (TRAIN, VALIDATION)
    )
    conditional = bool(settings.source_field)
    counts = manifest["counts"]
    report = {
        "train_texts": counts[TRAIN]["documents"],
        "validation_texts": counts[VALIDATION]["documents"],
        "train_rows": len(train),
        "validation_rows": len(validation),
        "train_tokens": counts[TRAIN]["tokens"],
        "fill": manifest["fill"],
        "vocab_size": len(tokenizer),
        **{name: count for name, count in counts[TRAIN].items() if name.endswith("_cut")},
        "empty": manifest["empty"],
        "fingerprint": manifest["fingerprint"],
    }
    return Dataset(
        tokenizer,
        train,
        validation,
        [],
        RowTexts(validation, tokenizer, conditional),
        conditional or (resolve_packing(settings) == "rows" and not manifest["pretokenized"]),
        conditional,
        report,
    )


def _fingerprint(*parts):
    digest = hashlib.sha256()
    for rows in parts:
        for array in (rows.tokens, rows.cond_length, rows.valid_length):
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]
