"""The manifest of a prepared directory: what the shards were made from, and their checksums.

version      of the format
options      the keys of config.data that decide about the rows, and the tokenizer's fingerprint
revision     of the corpus: for files a hash of names and sizes, otherwise what the library knows
pretokenized, dtype, vocab_size
counts       of each side: documents, rows, tokens, how many texts were cut
empty        documents, or pairs with an empty half, that were dropped
bad_lines    lines that were skipped (config.data.bad_lines); version 0.2 and earlier skipped none
fill         share of the positions of the training rows that hold tokens
units        for each unit of the corpus its shards with rows, bytes and SHA-256
fingerprint  of options (without paths), revision and shards: the same for the same rows
"""

import hashlib
import json
import pathlib

from elf_jax.core import checksums
from elf_jax.core.checksums import file_sha256
from elf_jax.core.errors import UserError
from elf_jax.core.files import is_lfs_pointer, read_json
from elf_jax.core.renames import translate
from elf_jax.data.manifest_form import CORPUS_PLACES, wrong_key
from elf_jax.data.manifest_form import MANIFEST as FORM
from elf_jax.data.opening import cannot_read
from elf_jax.data.packing import short_stream
from elf_jax.data.split import TRAIN, VALIDATION
from elf_jax.data.text_files import MissingFiles

VERSION = 1
MANIFEST = "manifest.json"  # in a prepared directory, like the tokenizer
TOKENIZER = "tokenizer"


def read_manifest(directory):
    """The manifest of a prepared directory, with today's names of keys; None if there is none.

    Raises:
      UserError: it cannot be read, or has another format version.
    """
    path = pathlib.Path(directory) / MANIFEST
    if not _is_readable(path):
        return None
    checksums.check(path)
    manifest = read_json(path, remedy="delete the directory and prepare the data again")
    version = manifest.get("version")
    if version != VERSION:
        raise UserError(
            f"{path} has format version {version}, but this program needs {VERSION}: prepare the "
            "data again in another directory (config.data.prepared)"
        )
    manifest = {"bad_lines": 0, **manifest}  # version 0.2 and earlier skipped none
    key = wrong_key(FORM, manifest)
    if key:
        found = "is not as it was written" if key in manifest else "is missing"
        raise UserError(
            f"{path} is damaged ({key!r} {found}): delete the directory and prepare the data again"
        )
    return {**manifest, "options": translate_options(manifest["options"])}


def translate_options(options):
    """Options of any version with today's names of keys: a dict."""
    flat = translate({f"data.{key}": value for key, value in options.items()})
    return {name.removeprefix("data."): value for name, value in flat.items()}


def make_manifest(settings, options, revision, about, units):
    """The manifest of finished units.

    Args:
      settings: config section `data`. options: of `describe`. revision: of the corpus.
      about: dict of pretokenized, dtype, vocab_size. units: of `UnitPreparer.run`, one for each.

    Raises:
      UserError: there are no rows for training or none for validation.
    """
    units = sorted(units, key=lambda unit: unit["number"])
    counts = {side: _total(units, side) for side in (TRAIN, VALIDATION)}
    bad, empty = (sum(unit.get(key, 0) for unit in units) for key in ("bad_lines", "empty"))
    if bad and not empty and not any(count["documents"] for count in counts.values()):
        raise UserError(
            f"not one of the {bad:,} lines of {settings.path} is good: leave config.data.bad_lines="
            "skip out to see what is wrong with the first one"
        )
    for side in counts:
        if not counts[side]["rows"]:
            raise UserError(_nothing(settings, side, counts[side]))
    content = {key: value for key, value in options.items() if key not in CORPUS_PLACES}
    digest = hashlib.sha256(json.dumps([content, revision], sort_keys=True).encode())
    for unit in units:
        for part in unit["sides"].values():
            digest.update(part["shard"]["sha256"].encode())
    return {
        "version": VERSION,
        "options": options,
        "revision": revision,
        **about,
        "counts": counts,
        "empty": empty,
        "bad_lines": bad,
        "fill": counts[TRAIN]["tokens"] / (counts[TRAIN]["rows"] * settings.length),
        "units": units,
        "fingerprint": digest.hexdigest()[:16],
    }


def _total(units, side):
    total = {"documents": 0, "rows": 0, "tokens": 0}
    for unit in units:
        part = unit["sides"].get(side)
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
    """The entries of the shards of one side, or of both, in order: a list of dicts."""
    parts = [unit["sides"] for unit in manifest["units"]]
    return [part[name]["shard"] for part in parts for name in part if side in (None, name)]


def held_out_fingerprint(manifest):
    """16 hexadecimal digits that change with the validation rows."""
    sums = "".join(shard["sha256"] for shard in shards(manifest, VALIDATION))
    return hashlib.sha256(sums.encode()).hexdigest()[:16]


def _is_readable(path):
    """Whether a file is there. Raises UserError if it is, but cannot be read."""
    try:
        if not path.is_file():
            return False
        with open(path, "rb"):
            return True
    except OSError as error:
        raise cannot_read(path, error) from None


def fault(directory, shard, whole=False):
    """What is wrong with a shard, as text, or None.

    Args:
      directory: of the shard. shard: its entry. whole: whether to compare the checksum too.

    Raises:
      UserError: the shard cannot be read, so that nobody knows whether it is good.
    """
    path = pathlib.Path(directory) / shard["name"]
    if not _is_readable(path):
        return "is missing"
    size = path.stat().st_size
    if size != shard["bytes"] and is_lfs_pointer(path):
        raise UserError(f"{path} is a Git LFS pointer, not the file itself: run git lfs pull")
    if size != shard["bytes"]:
        return f"has {size} bytes, but the manifest says {shard['bytes']}"
    try:
        if whole and file_sha256(path) != shard["sha256"]:
            return "does not have the checksum in the manifest"
    except OSError as error:
        raise cannot_read(path, error) from None
    return None


def verify(directory, entries, whole=False):
    """Compares shards with their entries: sizes, and with `whole` also checksums.

    Raises:
      UserError: names the first shard that differs. MissingFiles: it is missing.
    """
    for shard in entries:
        wrong = fault(directory, shard, whole)
        path = pathlib.Path(directory) / shard["name"]
        if wrong and not path.is_file():
            message = f"{path} {wrong}: run --mode=prepare with the same config to make it again"
            raise MissingFiles(message, path, "prepared")
        if wrong:
            raise UserError(
                f"{path} {wrong}: delete it and run --mode=prepare with the same config, which "
                "makes it again"
            )
