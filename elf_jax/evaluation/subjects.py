"""Finds the models of a comparison and checks, before any long work, that they can be compared.

Numbers of different data, tokenizers or scorers say nothing about the models. So such models are
refused, and the message names what differs.
"""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from elf_jax.checkpoints.experiment import is_begun
from elf_jax.checkpoints.export import is_export
from elf_jax.checkpoints.origins import Origin, load_config, tokenizer_path, workdir_origin
from elf_jax.checkpoints.rounds import is_distilled, one_is_needed
from elf_jax.core import checks, paths, store
from elf_jax.core import config as config_module
from elf_jax.core.errors import UserError
from elf_jax.core.types import compute_dtype
from elf_jax.data.dataset import load_held_out
from elf_jax.data.packing import resolve_packing
from elf_jax.data.tokenizer import fingerprint, load_tokenizer
from elf_jax.evaluation.scorer import revision_of, scorer_path
from elf_jax.training.begin import read_summary

EXPORTS = "exports"  # in the directory of a comparison: numbers and samples of exported models


@dataclasses.dataclass(frozen=True)
class Subject:
    """One model of a comparison.

    Attributes:
      name: the last parts of its path, as many as it takes to tell it from the others.
      origin: its `Origin`. config: its whole config, with the settings of the comparison.
      home: directory where its samples and records are kept.
      summary: of its training data. train: the section `train` of its config as it was trained.
      scorer: path or name of the scorer; "" if there is none.
    """

    name: str
    origin: Origin
    config: ConfigDict
    home: pathlib.Path
    summary: dict
    train: ConfigDict
    scorer: str

    @property
    def batch_size(self):
        """Rows of a step of its training."""
        return self.train.batch_size


def find_subjects(workdirs, settings, keys, scorer, output):
    """The models of a comparison.

    Args:
      workdirs: list of paths of workdirs and exports, or a string with commas between them.
      settings: config section `compare`.
      keys: {"sample.key": value} that every model's config gets.
      scorer: path or name that the user asked for, or None: that of the workdirs.
      output: directory of the comparison.

    Returns:
      List of `Subject`.

    Raises:
      UserError: no workdir, one that has no model, settings that are not allowed, or models that
        differ in what they must share.
    """
    given = paths_of(workdirs)
    subjects = []
    for path, name in zip(given, short_names(given), strict=True):
        subjects.append(_subject(path, name, settings, keys, scorer, output))
    check_comparable({subject.name: _shared(subject) for subject in subjects})
    first = next((subject for subject in subjects if subject.scorer), subjects[0])
    return [_with_shared(subject, subjects[0].config, first) for subject in subjects]


def paths_of(workdirs):
    """The paths in --workdirs: a list, or a string with commas between them. Raises UserError."""
    parts = workdirs.split(",") if isinstance(workdirs, str) else workdirs or []
    given = [str(paths.expand(str(part).strip())).rstrip("/") for part in parts]
    given = [path for path in given if path]
    if not given:
        raise UserError("--workdirs is missing: name the workdirs, with commas between them")
    for path in given:
        if given.count(path) > 1:
            raise UserError(f"--workdirs names {path} twice: name each workdir once")
    return given


def short_names(given):
    """The last part of each path, with parts before it where paths would have the same name."""
    parts = [path.rstrip("/").split("/") for path in given]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return list(given)


def _subject(path, name, settings, keys, scorer, output):
    directory = store.fetch(path)
    home = directory
    if is_distilled(directory):
        raise one_is_needed(directory, path, "--workdirs")
    if is_export(directory):
        origin = Origin("export", directory, path)
        home = output / EXPORTS / name.replace("/", "_")
    else:
        origin = workdir_origin(directory)
    config = load_config(origin).copy_and_resolve_references()
    if origin.kind == "workdir" and not is_begun(directory):
        raise UserError(f"no checkpoint in {path!r}: train first, or leave it out of --workdirs")
    config_module.update(config, keys)
    config.compare = settings
    try:
        checks.check_compare(config)
        checks.check_model(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    found, _ = scorer_path(config.scorer, directory, scorer)
    summary, train = _summary(origin, config), ConfigDict(config.train.to_dict())
    return Subject(name, origin, config, home, summary, train, found)


def _summary(origin, config):
    """The summary of the data; without one, as in an export, that of the held-out text as it is."""
    kept = read_summary(origin.path) if origin.kind == "workdir" else None
    if kept is not None:
        return kept
    return load_held_out(config.data, tokenizer_path(origin, config.data)).summary


def _shared(subject):
    """{what: value} that all models of a comparison must share. None: it is not known."""
    data, summary = subject.config.data, subject.summary
    has_all = "train_rows" in summary
    tokenizer = load_tokenizer(tokenizer_path(subject.origin, data))
    shared = {
        "config.data.source_field": data.source_field,
        "config.data.length": data.length,
        "config.data.source_length": data.source_length,
        "config.data.pad_source": data.pad_source,
        "config.data.packing": resolve_packing(data),
        "config.data.pad": data.pad,
        "the tokenizer": fingerprint(tokenizer),
        "the data": summary["fingerprint"] if has_all else None,
        "the held-out data": summary.get("held_out_fingerprint"),
    }
    if subject.scorer:
        shared["the scorer"] = revision_of(subject.scorer)
        shared["config.scorer.dtype"] = compute_dtype(subject.config.scorer.dtype).__name__
    return shared


def check_comparable(shared):
    """Raises UserError if models differ in what they must share.

    Args:
      shared: {name of a model: {what: value}}. What is None, or is not there, is not compared.
    """
    seen = {}
    differences = []
    for name, values in shared.items():
        for what, value in values.items():
            if value is None:
                continue
            first, there = seen.setdefault(what, (name, value))
            if there != value:
                differences.append(f"{what} ({there!r} in {first}, {value!r} in {name})")
    if differences:
        raise UserError(
            f"these models cannot be compared: they differ in {', '.join(differences)}: leave out "
            "those that differ"
            + (", or name one in --scorer" if any("scorer" in one for one in differences) else "")
        )


def _with_shared(subject, first, scored):
    """The subject with the scorer of the subject `scored`, and with as many held-out rows for its
    losses as in the config `first`.
    """
    config = subject.config
    for key in ("batch_size", "validation_batches"):
        config.train[key] = first.train[key]
    config.scorer.dtype = scored.config.scorer.dtype
    return dataclasses.replace(subject, config=config, scorer=scored.scorer)
