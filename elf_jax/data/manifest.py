"""The manifest of a prepared directory: what was made from what, and whether it still fits.

  version      of the format
  options      the keys of config.data that the rows depend on, and the tokenizer's fingerprint
  revision     of the source: for files a hash of names and sizes, else what the library knows
  pretokenized, dtype, vocab_size
  counts       of each side: documents, rows, tokens, how many texts were cut
  empty        documents, or pairs with an empty side, that were dropped
  fill         tokens of the training rows over their positions
  units        for each unit of the corpus its shards with rows, bytes and SHA-256
  fingerprint  of all of this: the same for the same rows

Sizes are compared at every start, because that costs nothing; contents are read and compared by
`python main.py --mode=prepare` on a finished directory.
"""

import contextlib
import hashlib
import json
import pathlib

from elf_jax.core import store
from elf_jax.core.errors import UserError
from elf_jax.data.corpora import TRAIN, VALIDATION, Files
from elf_jax.data.packing import resolve_packing, short_stream
from elf_jax.data.shards import file_sha256
from elf_jax.data.sources import LIBRARIES
from elf_jax.data.tokenizer import TRAINED, fingerprint, load_tokenizer

VERSION = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"


def describe(settings, tokenizer):
    """All that the rows depend on, apart from the source's own revision: a dict of the keys of
    config.data, and "tokenizer", its fingerprint.
    """
    keys = ["source", "path", "validation_path", "length", "pad"]
    if settings.kind != "text":
        keys += ["field", "source_field"]
    if settings.kind in LIBRARIES:
        keys += ["split", "validation_split"]
    if not settings.validation_path and not settings.validation_split:
        keys += ["validation_fraction"]
    if settings.source_field:
        keys += ["source_length"]
    if settings.tokenizer in ("auto", *TRAINED):
        keys += ["vocab_size"]
    options = {key: settings[key] for key in keys}
    return {**options, "packing": resolve_packing(settings), "tokenizer": fingerprint(tokenizer)}


def check_same(directory, before, now):
    """Compares what the rows in `directory` were made with to what the config says now.

    Args:
      before, now: dicts of `describe`.

    Raises:
      UserError: names the keys that differ with both values.
    """
    differ = [
        f"config.data.{key} {before.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted(set(before) | set(now))
        if before.get(key) != now.get(key)
    ]
    if differ:
        raise UserError(
            f"the rows in {str(directory)!r} were prepared with another config "
            f"({'; '.join(differ)}): use the same values, name another directory in "
            "config.data.prepared, or delete this one"
        )


def check_revision(directory, before, now):
    """Raises UserError if the source is not the one that `directory` was prepared from."""
    if before != now:
        raise UserError(
            f"the source has changed since {str(directory)!r} was prepared (revision {before} "
            f"then, {now} now): restore it, name another directory in config.data.prepared, or "
            "delete this one"
        )


def find_tokenizer(settings, run_directory=None):
    """The tokenizer of prepared data: the run's own, or the one that the config names, or the one
    that was trained when the data was prepared; None if it is still to be trained.
    """
    if run_directory and pathlib.Path(run_directory).is_dir():
        return load_tokenizer(run_directory)
    if settings.tokenizer not in ("auto", *TRAINED):
        return load_tokenizer(settings.tokenizer)
    kept = pathlib.Path(settings.prepared) / TOKENIZER
    return load_tokenizer(kept) if kept.is_dir() else None


def on_this_machine(settings):
    """Config section `data` with the copy of settings.prepared on this machine, where it is in a
    store.

    Raises:
      UserError: nothing was prepared there.
    """
    if not store.is_url(settings.prepared):
        return settings
    directory = store.copy(settings.prepared)[0]
    if read_manifest(directory) is None:
        raise no_store(settings.prepared)
    settings = settings.copy_and_resolve_references()
    settings.prepared = str(directory)
    return settings


def no_store(url):
    """The UserError of data that is to be prepared in a store."""
    return UserError(
        f"there is no prepared data in {url}, and shards are made on a disk only: run "
        "--mode=prepare with a directory in config.data.prepared, then copy that directory there"
    )


def open_prepared(settings, run_directory=None):
    """(manifest, tokenizer) of the finished directory settings.prepared, checked.

    Args:
      settings: config section `data`. run_directory: where a training run keeps its tokenizer.

    Raises:
      UserError: it is not finished, damaged, or made with other settings or another tokenizer.
    """
    manifest = read_manifest(settings.prepared)
    tokenizer = find_tokenizer(settings, run_directory)
    if manifest is None or tokenizer is None:
        raise UserError(
            f"no finished data in config.data.prepared={settings.prepared!r}: run --mode=prepare, "
            "and keep the directory where all processes see it"
        )
    check_same(settings.prepared, manifest["options"], describe(settings, tokenizer))
    if settings.kind not in LIBRARIES:
        now = manifest["revision"]
        with contextlib.suppress(UserError):  # the files need not be kept once they are prepared
            now = Files(settings).revision()
        check_revision(settings.prepared, manifest["revision"], now)
    verify(settings.prepared, shards(manifest))
    return manifest, tokenizer


def read_manifest(directory):
    """The manifest of a prepared directory, or None if it has none.

    Raises:
      UserError: it cannot be read, or is of another version.
    """
    path = pathlib.Path(directory) / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error!r}): delete the directory and prepare the data again"
        ) from None
    if version != VERSION:
        raise UserError(
            f"{path} has format version {version} and this is {VERSION}: prepare the data again in "
            "another directory (config.data.prepared)"
        )
    return manifest


def make_manifest(settings, options, revision, about, records):
    """The manifest of finished units.

    Args:
      settings: config section `data`. options: of `describe`. revision: of the corpus.
      about: dict of pretokenized, dtype, vocab_size.
      records: of `Worker.run`, one a unit.

    Raises:
      UserError: there are no rows to train on or none to validate with.
    """
    records = sorted(records, key=lambda record: record["number"])
    counts = {side: _total(records, side) for side in (TRAIN, VALIDATION)}
    for side in counts:
        if not counts[side]["rows"]:
            raise UserError(_nothing(settings, side, counts[side]))
    digest = hashlib.sha256(json.dumps([options, revision], sort_keys=True).encode())
    for record in records:
        for part in record["sides"].values():
            digest.update(part["shard"]["sha256"].encode())
    return {
        "version": VERSION,
        "options": options,
        "revision": revision,
        **about,
        "counts": counts,
        "empty": sum(record["empty"] for record in records),
        "fill": counts[TRAIN]["tokens"] / (counts[TRAIN]["rows"] * settings.length),
        "units": records,
        "fingerprint": digest.hexdigest()[:16],
    }


def _total(records, side):
    total = {"documents": 0, "rows": 0, "tokens": 0}
    for record in records:
        part = record["sides"].get(side)
        if part:
            for name, count in [("rows", part["shard"]["rows"]), *part["counts"].items()]:
                total[name] = total.get(name, 0) + count
    return total


def _nothing(settings, side, counts):
    part = {TRAIN: "training", VALIDATION: "validation"}[side]
    if counts.get("tokens_dropped"):
        return short_stream(part, counts["tokens_dropped"], settings.length)
    return (
        f"{settings.path} leaves nothing for {part} (validation_fraction="
        f"{settings.validation_fraction}): give more text, another fraction, or "
        "config.data.validation_path or config.data.validation_split"
    )


def shards(manifest, side=None):
    """What the manifest says of the shards of one side, or of all, in order."""
    parts = [record["sides"] for record in manifest["units"]]
    return [part[name]["shard"] for part in parts for name in part if side in (None, name)]


def fault(directory, shard, whole=False):
    """What is wrong with a shard, or None: missing, another size, or with `whole`, another
    checksum.
    """
    path = pathlib.Path(directory) / shard["name"]
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != shard["bytes"]:
        return f"has {size} bytes where the manifest says {shard['bytes']}"
    if whole and file_sha256(path) != shard["sha256"]:
        return "does not have the checksum in the manifest"
    return None


def verify(directory, entries, whole=False):
    """Compares shards with what the manifest says: sizes, or with `whole`, contents.

    Raises:
      UserError: names the first shard that differs.
    """
    for shard in entries:
        wrong = fault(directory, shard, whole)
        if wrong:
            raise UserError(
                f"{pathlib.Path(directory) / shard['name']} {wrong}: delete it and run "
                "--mode=prepare with the same config, which makes it again"
            )
