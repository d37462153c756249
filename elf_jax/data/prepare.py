"""A corpus to prepared shards: in parallel, in bounded memory, resumable.

Unit k of the corpus becomes shard k, whoever works on it and when. So the result is the same for
any number of workers, and an interrupted preparation goes on with the units that are missing.
"""

import contextlib
import fcntl
import json
import pathlib
import shutil
import time
import types

from tqdm import tqdm

from elf_jax.core import store
from elf_jax.core.errors import UserError
from elf_jax.core.files import write_json
from elf_jax.data import corpora
from elf_jax.data.corpora import SPLIT, TRAIN, VALIDATION, is_empty, open_corpus, split_document
from elf_jax.data.manifest import (
    MANIFEST,
    TOKENIZER,
    check_revision,
    check_same,
    describe,
    fault,
    find_tokenizer,
    make_manifest,
    no_store,
    read_manifest,
    shards,
    verify,
)
from elf_jax.data.packing import resolve_packing
from elf_jax.data.pool import cores, run_units
from elf_jax.data.shards import record_dtype
from elf_jax.data.tokenizer import save_tokenizer, train_tokenizer, vocab_size
from elf_jax.data.work import Plan

UNFINISHED = "unfinished"  # directory of what the finished units hold
STARTED = "started.json"  # in it: what they are made with
TOKENIZER_CHARACTERS = 200_000_000  # of text that a tokenizer is trained on, at most


def prepare(settings, run_directory=None, workers=None):
    """Turns the source of the config section `data` into shards in settings.prepared, or goes on
    with that, or checks what is finished.

    Args:
      settings: config section `data`.
      run_directory: where a training run keeps its tokenizer, which then is used.
      workers: number of processes; None for one a core.

    Returns:
      The manifest.

    Raises:
      UserError: bad settings, source or tokenizer; a directory made with others, or damaged.
    """
    if not settings.prepared:
        raise UserError(
            "config.data.prepared is empty: name a directory for the shards, such as data/owt"
        )
    if store.is_url(settings.prepared):
        raise no_store(settings.prepared)
    resolve_packing(settings)
    directory = pathlib.Path(settings.prepared)
    if not read_manifest(directory):  # whatever is wrong is told before anything is written
        corpus = open_corpus(_frozen(settings))
        if find_tokenizer(settings, run_directory) is None and corpus.pretokenized:
            raise UserError(
                f"{settings.path} is pre-tokenised: set config.data.tokenizer to the tokenizer "
                "that made it"
            )
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with _lock(directory):
            return _prepare(settings, directory, run_directory, workers or cores())
    except KeyboardInterrupt:
        raise UserError(
            f"preparing {str(directory)!r} was interrupted: the same command goes on from there"
        ) from None


def _prepare(settings, directory, run_directory, workers):
    manifest = read_manifest(directory)
    if manifest:
        tokenizer = find_tokenizer(settings, run_directory)
        check_same(directory, manifest["options"], describe(settings, tokenizer))
        there = [shard for shard in shards(manifest) if (directory / shard["name"]).exists()]
        verify(directory, tqdm(there, desc="checking", unit="shard", leave=False), whole=True)
        if len(there) == len(shards(manifest)):
            print(f"{directory} is complete: {summary(manifest, settings)}")
            return manifest
    frozen = _frozen(settings)
    corpus = open_corpus(frozen)
    tokenizer = find_tokenizer(settings, run_directory) or _train(settings, corpus)
    options = describe(settings, tokenizer)
    before = manifest or _started(directory)
    if before:
        check_same(directory, before["options"], options)
        check_revision(directory, before["revision"], corpus.revision())
    save_tokenizer(tokenizer, directory / TOKENIZER)
    about = {
        "pretokenized": corpus.pretokenized,
        "dtype": record_dtype(vocab_size(tokenizer), settings.length),
        "vocab_size": vocab_size(tokenizer),
    }
    start = {"options": options, "revision": corpus.revision(), "unit": corpora.unit_sizes()}
    write_json(directory / UNFINISHED / STARTED, start)
    plan = Plan(
        frozen,
        corpus,
        tokenizer.backend_tokenizer.to_str(),
        tokenizer.eos_token_id,
        about["vocab_size"],
        about["dtype"],
    )
    records = _finished(directory, manifest)
    _run(plan, records, directory, workers)
    try:
        manifest = make_manifest(settings, options, start["revision"], about, records.values())
    except UserError:
        _discard(directory, records)  # nothing of it is of use
        raise
    write_json(directory / MANIFEST, manifest)
    shutil.rmtree(directory / UNFINISHED)
    print(f"prepared {directory}: {summary(manifest, settings)}")
    return manifest


def _frozen(settings):
    """The settings as plain values that can travel to other processes."""
    values = {**settings.to_dict(), "packing": resolve_packing(settings)}
    return types.SimpleNamespace(**values)


@contextlib.contextmanager
def _lock(directory):
    """Keeps a second preparation out of the directory."""
    with open(directory / ".lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{str(directory)!r} is being prepared by another process: wait for it to end"
            ) from None
        yield


def _train(settings, corpus):
    """A tokenizer trained on the first TOKENIZER_CHARACTERS of the training side."""
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


def _started(directory):
    """What an interrupted preparation was started with, or None."""
    path = directory / UNFINISHED / STARTED
    if not path.is_file():
        return None
    started = json.loads(path.read_text(encoding="utf-8"))
    if started["unit"] != corpora.unit_sizes():
        raise UserError(
            f"{str(directory)!r} was begun by another version, which cuts the corpus differently: "
            "delete it and prepare again"
        )
    return started


def _finished(directory, manifest):
    """{number: record} of the units whose shards are all there."""
    if manifest:
        records = manifest["units"]
    else:
        paths = (directory / UNFINISHED).glob("unit-*.json")
        records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return {
        record["number"]: record
        for record in records
        if not any(fault(directory, part["shard"]) for part in record["sides"].values())
    }


def _run(plan, records, directory, workers):
    """Carries out the units that are missing, and adds their records."""
    for scratch in directory.glob(".*.array_record.*"):  # left by a process that was killed
        scratch.unlink()
    units = enumerate(plan.corpus.units())
    jobs = ((number, unit) for number, unit in units if number not in records)
    done = sum(
        part["counts"]["documents"] for r in records.values() for part in r["sides"].values()
    )
    if records:
        print(f"{directory}: going on after {len(records)} finished shard(s), {done:,} documents")
    tokens, began = 0, time.monotonic()
    bar = tqdm(
        total=plan.corpus.documents, initial=done, unit="doc", desc="preparing", dynamic_ncols=True
    )

    def update(documents, count):
        nonlocal tokens
        tokens += count
        speed = tokens / max(time.monotonic() - began, 1e-9)
        bar.set_postfix_str(f"{tokens:,} tokens, {speed:,.0f}/s", refresh=False)
        bar.update(documents)

    with bar:
        for record in run_units(plan, jobs, workers, update):
            write_json(directory / UNFINISHED / f"unit-{record['number']:05d}.json", record)
            records[record["number"]] = record


def _discard(directory, records):
    for record in records.values():
        for part in record["sides"].values():
            (directory / part["shard"]["name"]).unlink(missing_ok=True)
    for name in (UNFINISHED, TOKENIZER):
        shutil.rmtree(directory / name)


def summary(manifest, settings):
    """One line about the counts of a manifest."""
    counts, validation = manifest["counts"][TRAIN], manifest["counts"][VALIDATION]
    parts = [
        f"{counts['documents']:,} documents in {counts['rows']:,} rows of {settings.length}, "
        f"{counts['tokens']:,} tokens (fill {manifest['fill']:.3f})",
        f"{validation['documents']:,} in {validation['rows']:,} rows held out",
    ]
    names = {"targets_cut": "texts cut", "sources_cut": "sources cut"}
    parts += [f"{counts[name]:,} {words}" for name, words in names.items() if counts.get(name)]
    if manifest["empty"]:
        kind = "pairs with an empty side" if settings.source_field else "empty documents"
        parts.append(f"{manifest['empty']:,} {kind} dropped")
    return ", ".join(parts)
