"""Opens a prepared directory and checks that it fits the config.

Every start compares the sizes of the shards, which is quick. `python main.py --mode=prepare` on a
finished directory reads them and compares their checksums.
"""

import pathlib

from elf_jax.core import store
from elf_jax.core.errors import UserError
from elf_jax.data.corpora import VALIDATION, open_corpus
from elf_jax.data.libraries import LIBRARIES
from elf_jax.data.manifest import TOKENIZER, read_manifest, shards, verify
from elf_jax.data.manifest_form import CORPUS_PLACES
from elf_jax.data.packing import resolve_packing
from elf_jax.data.text_files import MissingFiles
from elf_jax.data.tokenizer import TRAINED, fingerprint, load_tokenizer


def describe(settings, tokenizer):
    """The options of a manifest: what decides about the rows besides the corpus's own revision.

    Args:
      settings: config section `data`. tokenizer: for the rows.

    Returns:
      Dict of keys of config.data; "tokenizer" is the tokenizer's fingerprint.
    """
    keys = ["kind", *CORPUS_PLACES, "length", "pad"]
    if settings.kind != "text":
        keys += ["field", "source_field"]
    if settings.kind in LIBRARIES:
        keys += ["split", "validation_split"]
    if not settings.validation_path and not settings.validation_split:
        keys += ["validation_fraction"]
    if settings.source_field:
        keys += ["source_length"] + ["pad_source"] * settings.pad_source
    if settings.tokenizer in ("auto", *TRAINED):
        keys += ["vocab_size"]
    options = {key: settings[key] for key in keys}
    return {**options, "packing": resolve_packing(settings), "tokenizer": fingerprint(tokenizer)}


def check_options(directory, before, now):
    """Compares the options that shards were made with and those of the config now. Those in
    CORPUS_PLACES may differ.

    Args:
      directory: of the shards. before, now: dicts of `describe`.

    Raises:
      UserError: options differ; names their keys with both values.
    """
    differ = [
        f"config.data.{key} {before.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted((set(before) | set(now)) - set(CORPUS_PLACES))
        if before.get(key) != now.get(key)
    ]
    if differ:
        raise UserError(
            f"the rows in {str(directory)!r} were prepared with another config "
            f"({'; '.join(differ)}): use the same values, name another directory in "
            "config.data.prepared, or delete this one"
        )


def check_bad_lines(settings, count):
    """Raises UserError if shards were made without `count` bad lines, and the config skips none."""
    if count and settings.bad_lines != "skip":
        raise UserError(
            f"{count:,} bad lines were skipped in {settings.prepared!r}: set "
            "config.data.bad_lines=skip to use it, or delete it, mend the lines and prepare again"
        )


def check_corpus(settings, made):
    """Checks that the config still names the corpus that the shards were made from.

    The corpus may have moved, if its revision is the same. A corpus that has not moved may be gone:
    the shards are enough.

    Args:
      settings: config section `data`. made: the manifest.

    Raises:
      UserError: another corpus, or one in a new place that cannot be read.
    """
    moved = _moved(settings, made)
    if not moved and settings.kind in LIBRARIES:
        return  # to ask the library would take a download
    try:
        now = open_corpus(settings).revision()
    except UserError as error:
        if not moved:
            return
        raise UserError(
            f"{' and '.join(moved)} cannot be compared with the corpus that {settings.prepared!r} "
            f"was prepared from ({error}): name a place that holds the same corpus"
        ) from None
    check_revision(settings, made, now)


def check_revision(settings, made, now):
    """Raises UserError if `now`, the revision of the corpus, is not the one in `made`.

    Args:
      made: a manifest, or what an interrupted preparation was started with.
    """
    if made["revision"] != now:
        moved = " and ".join(_moved(settings, made))
        fault = f"{moved} is another corpus than" if moved else "the corpus has changed since"
        raise UserError(
            f"{fault} {settings.prepared!r} was prepared {'from ' * bool(moved)}(revision "
            f"{made['revision']} then, {now} now): restore it, name another directory in "
            "config.data.prepared, or delete this one"
        )


def _moved(settings, made):
    """["config.data.KEY=VALUE"] of the CORPUS_PLACES that the config names in another way."""
    return [
        f"config.data.{key}={settings[key]!r}"
        for key in CORPUS_PLACES
        if settings[key] != made["options"][key]
    ]


def find_tokenizer(settings, run_directory=None):
    """The tokenizer of prepared data, or None if it is still to be trained.

    The first of: the run's own, the one that the config names, the one in the prepared directory.

    Args:
      settings: config section `data`. run_directory: where a training run keeps its tokenizer.

    Raises:
      UserError: a directory that holds no tokenizer.
    """
    if run_directory and pathlib.Path(run_directory).is_dir():
        return load_tokenizer(run_directory)
    if settings.tokenizer not in ("auto", *TRAINED):
        return load_tokenizer(settings.tokenizer)
    kept = pathlib.Path(settings.prepared) / TOKENIZER
    return load_tokenizer(kept) if kept.is_dir() else None


def kept_tokenizer(settings, run_directory=None):
    """The tokenizer of finished data, see `find_tokenizer`.

    Raises:
      UserError: there is none.
    """
    tokenizer = find_tokenizer(settings, run_directory)
    if tokenizer is None:
        raise UserError(f"{pathlib.Path(settings.prepared) / TOKENIZER} is missing: restore it")
    return tokenizer


def on_this_machine(settings, held_out=False):
    """Config section `data` with settings.prepared on this machine: copied, if it is in a store.

    Args:
      held_out: copy only what the held-out part needs, not the training shards.

    Raises:
      MissingFiles: nothing was prepared there. UserError: the store cannot be read.
    """
    if not store.is_url(settings.prepared):
        return settings
    url = settings.prepared.rstrip("/")
    # The manifest and the validation shards; the tokenizer of a model is beside the model.
    directory = store.copy(f"{url}/[!t]*" if held_out else url)[0]
    if read_manifest(directory) is None:
        raise not_in_store(url)
    settings = settings.copy_and_resolve_references()
    settings.prepared = str(directory)
    return settings


def not_in_store(url):
    """The error that a store has no prepared data, and that none can be made there."""
    message = (
        f"there is no prepared data in {url}, and shards can only be made on a disk: run "
        "--mode=prepare with a directory in config.data.prepared, then copy that directory there"
    )
    return MissingFiles(message, url, "prepared")


def open_prepared(settings, run_directory=None, held_out=False):
    """Opens and checks the finished directory settings.prepared.

    Args:
      settings: config section `data`. run_directory: where a training run keeps its tokenizer.
      held_out: only the held-out part is needed. Then neither the training shards nor the corpus
        need be there.

    Returns:
      (manifest, tokenizer).

    Raises:
      MissingFiles: the directory is not finished, or a shard is missing.
      UserError: it is damaged, or was made with other settings or another tokenizer.
    """
    directory = settings.prepared
    manifest = read_manifest(directory)
    if manifest is None:
        message = (
            f"no finished data in config.data.prepared={directory!r}: run --mode=prepare, and keep "
            "the directory where all processes see it"
        )
        raise MissingFiles(message, directory, "prepared")
    tokenizer = kept_tokenizer(settings, run_directory)
    check_options(directory, manifest["options"], describe(settings, tokenizer))
    check_bad_lines(settings, manifest.get("bad_lines", 0))
    if not held_out:
        check_corpus(settings, manifest)
    verify(directory, shards(manifest, VALIDATION if held_out else None))
    return manifest, tokenizer
