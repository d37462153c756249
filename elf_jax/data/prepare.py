"""Prepares a corpus: turns it into shards on all cores, in little memory.

Unit k of the corpus becomes shard k of each side. So the result is the same for any number of
workers, and an interrupted preparation goes on with the units that are missing.
"""

import contextlib
import pathlib
import shutil
import time
import types

from tqdm import tqdm

from elf_jax.core import checksums, lock, store
from elf_jax.core.errors import UserError
from elf_jax.core.files import read_json, write_json
from elf_jax.data import corpora
from elf_jax.data.corpora import SPLIT, TRAIN, VALIDATION, is_empty, open_corpus, split_document
from elf_jax.data.manifest import (
    MANIFEST,
    TOKENIZER,
    fault,
    make_manifest,
    read_manifest,
    shards,
    translate_options,
    verify,
)
from elf_jax.data.manifest_form import STARTED as STARTED_FORM
from elf_jax.data.manifest_form import UNIT, wrong_key
from elf_jax.data.packing import resolve_packing
from elf_jax.data.prepare_unit import Plan
from elf_jax.data.prepare_workers import cores, run_units
from elf_jax.data.prepared import (
    check_bad_lines,
    check_corpus,
    check_options,
    check_revision,
    describe,
    find_tokenizer,
    kept_tokenizer,
    not_in_store,
)
from elf_jax.data.shards import row_dtype
from elf_jax.data.tokenizer import core_text, save_tokenizer, train_tokenizer, vocab_size

LOCK = ".preparing.lock"
UNFINISHED = "unfinished"  # directory with what the finished units hold
STARTED = "started.json"  # in UNFINISHED: what the units are made with
TOKENIZER_CHARACTERS = 200_000_000  # of text, at most, that a tokenizer is trained on


def prepare(settings, run_directory=None, workers=None):
    """Makes the shards of the config section `data` in settings.prepared.

    An interrupted preparation goes on. A finished directory is checked, and missing shards are made
    again.

    Args:
      settings: config section `data`, checked by `checks.check_data`.
      run_directory: where a training run keeps its tokenizer, which is used if it is there.
      workers: number of processes; None for one on every core.

    Returns:
      The manifest, a dict.

    Raises:
      UserError: a corpus or tokenizer that cannot be used, or a directory that is damaged or was
        made with other settings.
    """
    if not settings.prepared:
        raise UserError(
            "config.data.prepared is empty: name a directory for the shards, such as data/owt"
        )
    if store.is_url(settings.prepared):
        raise not_in_store(settings.prepared)
    directory = pathlib.Path(settings.prepared)
    if not read_manifest(directory):  # find mistakes before anything is written
        corpus = open_corpus(_frozen(settings))
        if find_tokenizer(settings, run_directory) is None and corpus.pretokenized:
            raise UserError(
                f"{settings.path} is pre-tokenised: set config.data.tokenizer to the tokenizer "
                "that made it"
            )
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with _lock(directory):
            manifest = read_manifest(directory)
            if manifest and _is_complete(settings, manifest, run_directory):
                _tidy(directory)
                print(f"{directory} is complete: {_in_words(manifest, settings)}")
                return manifest
            manifest = _make(settings, manifest, run_directory, workers or cores())
            print(f"prepared {directory}: {_in_words(manifest, settings)}")
            return manifest
    except KeyboardInterrupt:
        raise UserError(
            f"preparing {str(directory)!r} was interrupted: run the same command again to go on"
        ) from None


def _is_complete(settings, manifest, run_directory):
    """Checks a finished directory; returns whether all its shards are there."""
    directory = pathlib.Path(settings.prepared)
    tokenizer = kept_tokenizer(settings, run_directory)
    check_options(directory, manifest["options"], describe(settings, tokenizer))
    check_bad_lines(settings, manifest.get("bad_lines", 0))
    check_corpus(settings, manifest)
    there = [shard for shard in shards(manifest) if (directory / shard["name"]).exists()]
    with tqdm(there, desc="checking", unit="shard", leave=False) as bar:
        verify(directory, bar, whole=True)
    return len(there) == len(shards(manifest))


def _tidy(directory):
    """Finishes what a preparation that was killed at its very end has left."""
    if (directory / UNFINISHED).is_dir():
        checksums.write(directory, [MANIFEST])
        shutil.rmtree(directory / UNFINISHED)


def _make(settings, before, run_directory, workers):
    """Makes the shards that are missing, and the manifest.

    Args:
      before: the manifest if the directory was finished once, or None.
    """
    directory, frozen = pathlib.Path(settings.prepared), _frozen(settings)
    if before:  # shards that are made again are cut as the others were; version 0.2 cut no lines
        frozen.longest_block = before.get("longest_block", 0)
    corpus = open_corpus(frozen)
    revision = corpus.revision()
    tokenizer = find_tokenizer(settings, run_directory) or _train(settings, corpus)
    options = describe(settings, tokenizer)
    started = before or _started(settings)
    if started:
        check_options(directory, started["options"], options)
        check_revision(settings, started, revision)
    save_tokenizer(tokenizer, directory / TOKENIZER)
    start = {"options": options, "revision": revision, "unit": corpora.unit_sizes(frozen)}
    write_json(directory / UNFINISHED / STARTED, start)
    size = vocab_size(tokenizer)
    dtype = row_dtype(size, settings.length)
    portable = core_text(tokenizer) or directory / TOKENIZER
    plan = Plan(frozen, corpus, portable, tokenizer.eos_token_id, size, dtype)
    units = _finished(directory, before)
    check_bad_lines(settings, sum(unit.get("bad_lines", 0) for unit in units.values()))
    _run(plan, units, directory, workers)
    about = {
        "pretokenized": corpus.pretokenized,
        "dtype": dtype,
        "vocab_size": size,
        "longest_block": frozen.longest_block,
    }
    try:
        manifest = make_manifest(settings, options, revision, about, units.values())
    except UserError:
        _discard(directory, units)  # it cannot be used
        raise
    if before and before["units"] == manifest["units"]:
        manifest = before  # the same rows keep their fingerprint, even from an earlier version
    else:
        checksums.forget(directory)
        write_json(directory / MANIFEST, manifest)
        checksums.write(directory, [MANIFEST])  # which has those of the shards
    shutil.rmtree(directory / UNFINISHED)
    return manifest


def _frozen(settings):
    """The settings as plain values, which can be sent to other processes."""
    values = {**settings.to_dict(), "packing": resolve_packing(settings)}
    return types.SimpleNamespace(**values)


@contextlib.contextmanager
def _lock(directory):
    """Only one process at a time prepares the directory."""
    what = f"{str(directory)!r} is being prepared by {{holder}}: wait until it ends"
    with lock.hold(directory, LOCK, what):
        yield


def _train(settings, corpus):
    """A tokenizer, trained on the first TOKENIZER_CHARACTERS of the training side."""
    print(f"training a tokenizer on {settings.path}", flush=True)
    return train_tokenizer(settings, _training_examples(settings, corpus))


def _training_examples(settings, corpus):
    left = TOKENIZER_CHARACTERS
    for unit in corpus.units():
        for document in corpus.read(unit.payload) if unit.side != VALIDATION else ():
            if is_empty(document):
                continue
            parts = [(False, document)]
            if unit.side == SPLIT:
                parts = split_document(settings, document)
            for _, example in (part for part in parts if not part[0]):
                left -= len(example.text) + len(example.source or "")
                yield example
            if left <= 0:
                return


def _started(settings):
    """What an interrupted preparation was started with, or None."""
    directory = pathlib.Path(settings.prepared)
    path = directory / UNFINISHED / STARTED
    if not path.is_file():
        return None
    started = read_json(path, remedy="delete the directory and prepare again")
    if wrong_key(STARTED_FORM, started):
        raise UserError(f"{path} is damaged: delete the directory and prepare again")
    if started.get("unit") != corpora.unit_sizes(settings):
        raise UserError(
            f"the preparation of {str(directory)!r} was begun by another version, with units of "
            "another size: delete the directory and prepare again, or set "
            "config.data.longest_block as it was then (version 0.2: 0)"
        )
    return {**started, "options": translate_options(started["options"])}


def _finished(directory, manifest):
    """{number: entry in the manifest} of the units whose shards are all there."""
    if manifest:
        units = manifest["units"]
    else:
        units = _whole(sorted((directory / UNFINISHED).glob("unit-*.json")))
    return {
        unit["number"]: unit
        for unit in units
        if not any(fault(directory, part["shard"]) for part in unit["sides"].values())
    }


def _whole(paths):
    """Yields the entries of finished units. A unit with a damaged entry is made again."""
    for path in paths:
        with contextlib.suppress(UserError):
            entry = read_json(path)
            if not wrong_key(UNIT, entry):
                yield entry


def _run(plan, units, directory, workers):
    """Prepares the units that are missing and adds their entries to `units`."""
    for scratch in directory.glob(".*.array_record.*"):  # from a process that was killed
        scratch.unlink()
    everything = enumerate(plan.corpus.units())
    jobs = ((number, unit) for number, unit in everything if number not in units)
    parts = (part for unit in units.values() for part in unit["sides"].values())
    done = sum(part["counts"]["documents"] for part in parts)
    if units:
        print(f"{directory}: going on after {len(units)} finished unit(s), {done:,} documents")
    tokens, began = 0, time.monotonic()
    bar = tqdm(
        total=plan.corpus.documents, initial=done, unit="doc", desc="preparing", dynamic_ncols=True
    )

    def progress(documents, count):
        nonlocal tokens
        tokens += count
        speed = tokens / max(time.monotonic() - began, 1e-9)
        bar.set_postfix_str(f"{tokens:,} tokens, {speed:,.0f}/s", refresh=False)
        bar.update(documents)

    with bar:
        for unit in run_units(plan, jobs, workers, progress):
            write_json(directory / UNFINISHED / f"unit-{unit['number']:05d}.json", unit)
            units[unit["number"]] = unit


def _discard(directory, units):
    for unit in units.values():
        for part in unit["sides"].values():
            (directory / part["shard"]["name"]).unlink(missing_ok=True)
    for name in (UNFINISHED, TOKENIZER):
        shutil.rmtree(directory / name)


def _in_words(manifest, settings):
    """The counts of a manifest in one line."""
    counts, validation = manifest["counts"][TRAIN], manifest["counts"][VALIDATION]
    parts = [
        f"{counts['documents']:,} documents in {counts['rows']:,} rows of {settings.length}, "
        f"{counts['tokens']:,} tokens (fill {manifest['fill']:.3f})",
        f"{validation['documents']:,} in {validation['rows']:,} rows held out",
    ]
    names = {"targets_cut": "texts cut", "sources_cut": "sources cut"}
    parts += [f"{counts[name]:,} {words}" for name, words in names.items() if counts.get(name)]
    if manifest["empty"]:
        kind = "pairs with an empty half" if settings.source_field else "empty documents"
        parts.append(f"{manifest['empty']:,} {kind} dropped")
    if manifest.get("bad_lines"):
        parts.append(f"{manifest['bad_lines']:,} bad lines skipped")
    return ", ".join(parts)
