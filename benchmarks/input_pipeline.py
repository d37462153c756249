"""Speed of the input pipeline: preparing compared with the tokenizer alone, shards with memory.

    python -m benchmarks.input_pipeline
    python -m benchmarks.input_pipeline --path=corpus.jsonl.gz --field=text --tokenizer=DIRECTORY

Preparing is compared with calling only the tokenizer on the same texts. First both run on one core,
in this process, in turns, several rounds each; the best round counts. CPU time is measured, so that
other work on the machine does not matter. Then both run on all cores: preparing with worker
processes, as in `--mode=prepare`, and the tokenizer with its own threads.

Without --path, the text is made of random words with Zipf's law. Without --tokenizer, a BPE of 8192
tokens is trained.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import tempfile
import time
import types
from unittest import mock

import numpy as np

from elf_jax.core import defaults
from elf_jax.data import corpora
from elf_jax.data.corpora import TRAIN, VALIDATION, open_corpus
from elf_jax.data.examples import Example, jsonl_examples
from elf_jax.data.manifest import shards
from elf_jax.data.pipeline import make_iterator
from elf_jax.data.prepare import prepare
from elf_jax.data.prepare_unit import CHUNK_CHARACTERS, Plan, UnitPreparer, load_core
from elf_jax.data.prepare_workers import cores
from elf_jax.data.records import BadLines
from elf_jax.data.shards import PreparedRows, row_dtype
from elf_jax.data.text_files import find_files, read_lines
from elf_jax.data.tokenizer import (
    core_text,
    load_tokenizer,
    pad_id,
    save_tokenizer,
    train_tokenizer,
)

TOKENIZER_TEXTS = 5000  # number of texts that the benchmark trains a tokenizer on


def main(argv=None):
    """Measures and prints one table.

    Args:
      argv: the arguments, a list of strings; None: those of the command line.
    """
    args = _arguments(argv)
    threads_off = mock.patch.dict(os.environ, TOKENIZERS_PARALLELISM="false")
    with threads_off, tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        settings, texts, tokenizer = _setup(args, scratch)
        alone, pipeline, tokens = _one_core(settings, texts, tokenizer, args.rounds)
        manifest = prepare(settings, workers=1)
        characters = sum(map(len, texts))
        print(
            f"{len(texts):,} documents, {characters / 1e6:.1f} million characters, "
            f"{tokens / 1e6:.2f} million tokens, vocabulary {len(tokenizer):,}, rows of "
            f"{settings.length}, packing {settings.packing}, {cores()} cores"
        )
        _show("tokenizer alone, one core", alone, "tokens/s", 1.0)
        _show("prepare, one core", pipeline, "tokens/s", pipeline / alone)
        memory, disk = _reading(settings, manifest, tokenizer, args.batch_size)
        _show("training batches from memory", memory, "rows/s", 1.0)
        _show("training batches from shards", disk, "rows/s", disk / memory)
        threads = _threads(texts, tokenizer)
        _show("tokenizer alone, its threads, all cores", threads, "tokens/s", threads / alone)
        processes, startup = _processes(settings, args.copies, scratch)
        _show("prepare, processes, all cores", processes, "tokens/s", processes / alone)
        _show("  starting the processes", startup, "s")
        size = sum(shard["bytes"] for shard in shards(manifest, TRAIN))
        size /= manifest["counts"][TRAIN]["tokens"]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        print(
            f"  {size:.2f} bytes on disk for each token, fill {manifest['fill']:.3f}; peak memory "
            f"{peak:.2f} GB in this process, {workers:.2f} GB in the largest worker"
        )


def _show(name, value, unit, ratio=None):
    share = "" if ratio is None else f"{ratio:8.2f}"
    print(f"  {name:<42}{value:>14,.1f} {unit:<9}{share}", flush=True)


def _arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--path", default="", help="JSON lines, .gz too; default: made-up text")
    parser.add_argument("--field", default="text", help="of the JSON lines that holds the text")
    parser.add_argument("--tokenizer", default="", help="a directory; default: a BPE of the text")
    parser.add_argument("--length", type=int, default=1024, help="of rows, in tokens")
    parser.add_argument("--packing", default="documents", choices=["documents", "stream", "rows"])
    parser.add_argument("--megabytes", type=float, default=16, help="of text")
    parser.add_argument(
        "--copies", type=int, default=8, help="of the text, for the measurement on all cores"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement on one core")
    parser.add_argument("--batch_size", type=int, default=256, help="rows")
    args = parser.parse_args(argv)
    if args.copies < 2:
        parser.error("--copies must be 2 or more")
    return args


def _setup(args, scratch):
    """(config section `data`, texts, tokenizer); the texts are also in a file in `scratch`."""
    settings = defaults.get_config().data
    settings.update({"kind": "jsonl", "packing": args.packing, "length": args.length})
    if args.path:
        settings.field = args.field
        texts = _texts(settings, args.path, args.megabytes * 1e6)
    else:
        texts = _made_up(args.megabytes * 1e6)
    file = scratch / "corpus.jsonl"
    with open(file, "w", encoding="utf-8") as lines:
        lines.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    settings.update({"path": str(file), "field": "text", "prepared": str(scratch / "prepared")})
    if args.tokenizer:
        tokenizer = load_tokenizer(args.tokenizer)
        if core_text(tokenizer) is None:
            raise SystemExit(f"--tokenizer={args.tokenizer} has no tokenizer.json: name another")
    else:
        settings.tokenizer = "bpe"
        some = [Example(text) for text in texts[:TOKENIZER_TEXTS]]
        tokenizer = train_tokenizer(settings, some)
    save_tokenizer(tokenizer, scratch / "tokenizer")
    settings.tokenizer = str(scratch / "tokenizer")
    return settings, texts, tokenizer


def _texts(settings, path, limit):
    texts, size, bad = [], 0, BadLines(settings)
    for file in find_files(path):
        for line in read_lines(file):
            for example in jsonl_examples(settings, file, line, bad):
                texts.append(example.text)
                size += len(example.text)
            if size >= limit:
                return texts
    return texts


def _made_up(limit):
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlu"))
    words = np.array(["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(30_000)])
    texts, size = [], 0
    while size < limit:
        ranks = np.minimum(rng.zipf(1.2, int(rng.lognormal(6, 1)) + 1), len(words)) - 1
        texts.append(" ".join(words[ranks]) + ".\n")
        size += len(texts[-1])
    return texts


def _chunks(texts):
    chunk, size = [], 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    yield chunk


def _tokenise(core, texts, clock):
    """(seconds, number of tokens) of the tokenizer alone."""
    began = clock()
    tokens = 0
    for chunk in _chunks(texts):
        tokens += sum(map(len, core.encode_batch_fast(chunk, add_special_tokens=False)))
    return clock() - began, tokens


def _one_core(settings, texts, tokenizer, rounds):
    """(tokens/s of the tokenizer alone, tokens/s of preparing, number of tokens)."""
    core = load_core(core_text(tokenizer))
    frozen = types.SimpleNamespace(**settings.to_dict())
    corpus = open_corpus(frozen)
    plan = Plan(
        frozen,
        corpus,
        core_text(tokenizer),
        tokenizer.eos_token_id,
        len(tokenizer),
        row_dtype(len(tokenizer), settings.length),
    )
    pathlib.Path(settings.prepared).mkdir()
    seconds = {"alone": [], "pipeline": []}
    for _ in range(rounds):
        spent, tokens = _tokenise(core, texts, time.process_time)
        seconds["alone"].append(spent)
        preparer, began = UnitPreparer(plan), time.process_time()
        for number, unit in enumerate(corpus.units()):
            preparer.run(number, unit)
        seconds["pipeline"].append(time.process_time() - began)
    return tokens / min(seconds["alone"]), tokens / min(seconds["pipeline"]), tokens


def _threads(texts, tokenizer):
    """tokens/s of the tokenizer alone with its own threads on all cores."""
    core = load_core(core_text(tokenizer))
    with mock.patch.dict(os.environ, TOKENIZERS_PARALLELISM="true"):
        seconds, tokens = min(_tokenise(core, texts, time.perf_counter) for _ in range(2))
    return tokens / seconds


def _processes(settings, copies, scratch):
    """(tokens/s of preparing on all cores, without starting the processes; seconds to start them).

    Both are computed from the times for one copy of the text and for several copies.
    """
    size = max(pathlib.Path(settings.path).stat().st_size // (4 * cores()), 1 << 20)
    paths = [scratch / f"copy{i}.jsonl" for i in range(copies)]
    for path in paths:
        shutil.copyfile(settings.path, path)
    with mock.patch.object(corpora, "UNIT_BYTES", size):
        few = _timed_prepare(settings, [settings.path], scratch / "few")
        many = _timed_prepare(settings, paths, scratch / "many")
    speed = (many[1] - few[1]) / max(many[0] - few[0], 1e-9)
    return speed, max(few[0] - few[1] / speed, 0.0)


def _timed_prepare(settings, paths, directory):
    """(seconds, number of tokens) of preparing."""
    settings = settings.copy_and_resolve_references()
    settings.update({"path": ",".join(map(str, paths)), "prepared": str(directory)})
    began = time.perf_counter()
    manifest = prepare(settings)
    seconds = time.perf_counter() - began
    return seconds, sum(manifest["counts"][side]["tokens"] for side in (TRAIN, VALIDATION))


def _reading(settings, manifest, tokenizer, batch_size):
    """(rows/s of training batches from memory, rows/s from shards)."""
    length, pad = settings.length, pad_id(settings, tokenizer)
    disk = PreparedRows(settings.prepared, shards(manifest, TRAIN), manifest["dtype"], length, pad)
    return [
        _speed(make_iterator(rows, batch_size, seed=0), batch_size)
        for rows in (disk.subset(len(disk)), disk)
    ]


def _speed(iterator, batch_size, warm_up=20, batches=100):
    for _ in range(warm_up):
        next(iterator)
    began = time.perf_counter()
    for _ in range(batches):
        next(iterator)
    seconds = time.perf_counter() - began
    iterator.close()
    return batches * batch_size / seconds


if __name__ == "__main__":
    main()
