"""The data of a config: read into memory, tokenised and packed, or opened as prepared shards."""

import dataclasses
import hashlib
from collections.abc import Sequence

import jax
import transformers

from elf_jax.core import processes
from elf_jax.core.errors import UserError
from elf_jax.data.examples import Example, load_examples, load_validation_examples
from elf_jax.data.manifest import held_out_fingerprint, read_manifest, shards
from elf_jax.data.packing import Rows, pack_documents, pack_rows, pack_stream, resolve_packing
from elf_jax.data.prepare import prepare
from elf_jax.data.prepared import on_this_machine, open_prepared
from elf_jax.data.records import BadLines
from elf_jax.data.shards import PreparedRows, RowTexts
from elf_jax.data.split import TRAIN, VALIDATION
from elf_jax.data.text_files import MissingFiles
from elf_jax.data.tokenizer import encode, get_tokenizer, pad_id


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The data of a config.

    Attributes:
      tokenizer: the tokenizer.
      train, validation: packed rows; `train` is None where only the held-out part was loaded.
      train_examples: the texts of the training rows; empty for prepared shards, None where they
        were not loaded.
      validation_examples: the texts of the validation rows; of prepared shards they are decoded
        when asked for.
      whole: whether every row is one whole text, so that a sample can be looked up among them.
      conditional: whether rows have a condition.
      validation_cut: how many validation targets and sources were cut: {"targets_cut": ...,
        "sources_cut": ...}; empty for a stream.
      summary: counts, fill and fingerprints, to be kept in the workdir.
    """

    tokenizer: transformers.PreTrainedTokenizerFast
    train: Rows | PreparedRows | None
    validation: Rows | PreparedRows
    train_examples: list[Example] | None
    validation_examples: Sequence[Example]
    whole: bool
    conditional: bool
    validation_cut: dict
    summary: dict


def load_dataset(settings, tokenizer_directory):
    """The data of a config. What is to be prepared (settings.prepared) and is not, is prepared.

    Args:
      settings: config section `data`, checked by `checks.check_data`.
      tokenizer_directory: where the run keeps its tokenizer, which is used if it is there.

    Returns:
      A `Dataset`.

    Raises:
      UserError: files, a tokenizer, prepared shards or lengths that cannot be used.
    """
    if settings.prepared:
        return _load_prepared(settings, tokenizer_directory)
    bad = BadLines(settings)
    train_examples, validation_examples = load_examples(settings, bad)
    tokenizer = get_tokenizer(settings, train_examples, tokenizer_directory)
    train, cut = _pack(settings, tokenizer, train_examples, "training")
    validation, validation_cut = _pack(settings, tokenizer, validation_examples, "validation")
    summary = {
        "train_texts": len(train_examples),
        "validation_texts": len(validation_examples),
        "train_rows": len(train),
        "validation_rows": len(validation),
        "train_tokens": int(train.valid_length.sum()),
        "fill": float(train.valid_length.mean() / settings.length),
        "vocab_size": len(tokenizer),
        **cut,
        **_skipped(settings, bad.count),
        "fingerprint": _fingerprint(train, validation),
        "held_out_fingerprint": _fingerprint(validation),
    }
    return Dataset(
        tokenizer,
        train,
        validation,
        train_examples,
        validation_examples,
        resolve_packing(settings) == "rows",
        bool(settings.source_field),
        validation_cut,
        summary,
    )


def load_held_out(settings, tokenizer_directory, kept=None):
    """The held-out part of the data, which sampling and evaluation need.

    If the held-out part is apart from the training data (in settings.validation_path, or in
    prepared shards), the training data need not be there. Otherwise it is split off
    settings.path. If the training text is there, all is loaded: samples of whole texts are looked
    up in it, and the fingerprint of the data is that of the training.

    Args:
      settings, tokenizer_directory: see `load_dataset`.
      kept: the `summary` of the training, from WORKDIR/dataset.json, or None.

    Returns:
      A `Dataset`, with train=None if only the held-out part was loaded. Its summary is `kept`, if
      given. Otherwise it has what is known: without the training text, the fingerprint of the
      held-out part stands in both places.

    Raises:
      UserError: the held-out part is gone, cannot be used, or has changed since the training.
    """
    try:
        if settings.prepared:
            dataset = _held_out_shards(settings, tokenizer_directory)
        else:
            dataset = _held_out_files(settings, tokenizer_directory)
    except MissingFiles as error:
        again = "make it again with --mode=prepare, " if error.key == "prepared" else ""
        raise UserError(
            f"this needs the held-out text, which is gone from {error.path}: restore it, {again}or "
            f"set config.data.{error.key} to where it is now"
        ) from None
    if kept is None:
        return dataset
    _check_unchanged(settings, kept, dataset)
    return dataclasses.replace(dataset, summary=kept)


def _check_unchanged(settings, kept, dataset):
    """Raises UserError if the validation rows are not those of the training."""
    if _is_same(kept, dataset.summary):
        return
    keys = [key for key in ("prepared", "validation_path", "path") if settings[key]]
    remedy = "use the version of Python that it was trained with"  # of unicode_names
    if keys:
        remedy = f"restore {settings[keys[0]]}, or set config.data.{keys[0]} to where it is now"
    raise UserError(
        f"the held-out data has changed since the training ({kept.get('validation_rows')} rows "
        f"then, {len(dataset.validation)} now): {remedy}"
    )


def _is_same(before, now):
    """Whether two summaries are of the same held-out data, as far as they can tell."""
    if "held_out_fingerprint" in before:
        keys = ["held_out_fingerprint"]
    elif now["fingerprint"] != now["held_out_fingerprint"]:
        keys = ["fingerprint"]  # version 0.1 kept that of all the data only
    else:
        keys = ["validation_texts", "validation_rows"]  # the training text is gone
    return all(before.get(key) == now[key] for key in keys)


def _held_out_files(settings, tokenizer_directory):
    try:
        return load_dataset(settings, tokenizer_directory)
    except MissingFiles as error:
        if not settings.validation_path or error.key != "path":
            raise
    examples = load_validation_examples(settings)
    tokenizer = get_tokenizer(settings, None, tokenizer_directory)
    validation, cut = _pack(settings, tokenizer, examples, "validation")
    fingerprint = _fingerprint(validation)
    return Dataset(
        tokenizer,
        None,
        validation,
        None,
        examples,
        resolve_packing(settings) == "rows",
        bool(settings.source_field),
        cut,
        _held_out_summary(tokenizer, examples, validation, fingerprint, fingerprint),
    )


def _held_out_summary(tokenizer, examples, rows, fingerprint, held_out):
    return {
        "validation_texts": len(examples),
        "validation_rows": len(rows),
        "vocab_size": len(tokenizer),
        "fingerprint": fingerprint,
        "held_out_fingerprint": held_out,
    }


def _pack(settings, tokenizer, examples, part):
    """(`Rows`, dict of how many texts were cut)."""
    packing, length = resolve_packing(settings), settings.length
    eos, pad = tokenizer.eos_token_id, pad_id(settings, tokenizer)
    targets = encode(tokenizer, [example.text for example in examples])
    if packing == "stream":
        return pack_stream(targets, length, eos, part), {}
    if packing == "documents":
        return pack_documents(targets, length, eos, pad)
    sources = None
    if settings.source_field:
        sources = encode(tokenizer, [example.source for example in examples])
    return pack_rows(
        targets, sources, length, settings.source_length, eos, pad, settings.pad_source
    )


def _load_prepared(settings, tokenizer_directory):
    """The `Dataset` of the shards in settings.prepared, which are made first if there are none.

    With several processes the first one prepares, and all must see the directory.
    """
    settings = on_this_machine(settings)
    if jax.process_index() == 0 and read_manifest(settings.prepared) is None:
        print(f"no prepared data in {settings.prepared!r}: preparing it first", flush=True)
        prepare(settings, tokenizer_directory)
    processes.barrier("prepared data")
    manifest, tokenizer = open_prepared(settings, tokenizer_directory)
    train = _rows(settings, manifest, tokenizer, TRAIN)
    dataset = _of_shards(settings, manifest, tokenizer)
    counts = manifest["counts"]
    summary = {
        "train_texts": counts[TRAIN]["documents"],
        "validation_texts": counts[VALIDATION]["documents"],
        "train_rows": len(train),
        "validation_rows": len(dataset.validation),
        "train_tokens": counts[TRAIN]["tokens"],
        "fill": manifest["fill"],
        "vocab_size": len(tokenizer),
        **_cut(counts[TRAIN]),
        "empty": manifest["empty"],
        **_skipped(settings, manifest.get("bad_lines", 0)),
        "fingerprint": manifest["fingerprint"],
        "held_out_fingerprint": held_out_fingerprint(manifest),
    }
    return dataclasses.replace(dataset, train=train, summary=summary)


def _held_out_shards(settings, tokenizer_directory):
    here = on_this_machine(settings, held_out=True)
    try:
        manifest, tokenizer = open_prepared(here, tokenizer_directory, held_out=True)
    except MissingFiles as error:  # the user knows the store, not its copy on this machine
        path = error.path.replace(here.prepared, settings.prepared.rstrip("/"), 1)
        raise MissingFiles(str(error), path, error.key) from None
    return _of_shards(here, manifest, tokenizer)


def _of_shards(settings, manifest, tokenizer):
    """The `Dataset` of the validation shards alone."""
    validation = _rows(settings, manifest, tokenizer, VALIDATION)
    conditional = bool(settings.source_field)
    examples = RowTexts(validation, tokenizer, conditional)
    one_text = resolve_packing(settings) == "rows" and not manifest["pretokenized"]
    return Dataset(
        tokenizer,
        None,
        validation,
        [],
        examples,
        conditional or one_text,
        conditional,
        _cut(manifest["counts"][VALIDATION]),
        _held_out_summary(
            tokenizer,
            examples,
            validation,
            manifest["fingerprint"],
            held_out_fingerprint(manifest),
        ),
    )


def _rows(settings, manifest, tokenizer, side):
    entries, length = shards(manifest, side), settings.length
    form = length, pad_id(settings, tokenizer), settings.source_length * settings.pad_source
    return PreparedRows(settings.prepared, entries, manifest["dtype"], *form)


def _cut(counts):
    return {name: count for name, count in counts.items() if name.endswith("_cut")}


def _skipped(settings, count):
    """What a summary says of the bad lines: their number, if they may be skipped."""
    return {"bad_lines": count} if settings.bad_lines == "skip" else {}


def _fingerprint(*parts):
    """16 hexadecimal digits that change with the rows in `parts`."""
    digest = hashlib.sha256()
    for rows in parts:
        for array in (rows.tokens, rows.cond_length, rows.valid_length):
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]
