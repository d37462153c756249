"""What the command line does, as functions with plain arguments.

`main.py` calls them, and so can a notebook or another program:

    from elf_jax import commands

    config = commands.load_config("configs/quickstart.py", **{"train.batch_size": 64})
    commands.train(config, "runs/quickstart")
    commands.sample("runs/quickstart", num_samples=4, steps=32)

The functions share these arguments:

  workdir: directory of a training run, on this machine or in a store (gs://BUCKET/RUN).
  config: a config as `load_config` returns it. None: that of the workdir or the checkpoint.
  checkpoint: the model to use in place of the workdir's: a workdir, an export, a published
    checkpoint (needs a config), or a name on the Hugging Face hub.
  **settings: values of the config's section `sample`, such as steps=32.

In all paths, also in those of a config, `~` at the start is the home directory.
Bad input raises `elf_jax.core.errors.UserError`, whose message is one line.
"""

import contextlib
import itertools
import pathlib
import sys

import jax

from elf_jax.core import checks, defaults, processes, store
from elf_jax.core import config as config_module
from elf_jax.core.arguments import expanding
from elf_jax.core.errors import UserError
from elf_jax.core.files import check_directory, check_file, open_text
from elf_jax.core.workdir import CONFIG, ENCODER, EXPORT

processes.skip_missing_tpu()  # here, because it must come before the first computation

# {mode: arguments that may have several values}: the lists in the mode's section of the config.
LISTS = {
    "sweep": ("steps", "gamma", "guidance_scale", "cfg_scale", "time_grid", "temperature"),
    "compare": ("steps", "gamma", "guidance_scale", "temperature"),
}
SEVERAL = LISTS["sweep"]
# Settings of section `sample` that do not depend on the method.
OF_ALL = {"num_samples", "batch_size", "weights", "seed"}


@expanding
def load_config(path, **keys):
    """The config in a file, such as configs/owt.py or configs/owt.py:elf_l, locked.

    Args:
      path: of a Python file with get_config(). Text after a colon is the argument of get_config.
      **keys: {"section.key": value}, which replace values of the file.

    Raises:
      UserError: there is no such file, or no such key.
    """
    config = config_module.run_config_file(path)
    config_module.update(config, config_module.translate(keys))
    return config


@expanding
def train(config, workdir, checkpoint=None):
    """Trains, or continues the training in the workdir. Samples and evaluates at the end if the
    config says so.

    Args:
      config, workdir: see the module. checkpoint: the training starts from its weights.
    """
    from elf_jax.training import trainer

    with _workdir(workdir) as directory:
        if config.evaluate.after_training:
            check_file(directory / config.evaluate.output, "config.evaluate.output")
        training, done = trainer.train(config, directory, checkpoint=checkpoint)
        if done and config.evaluate.after_training:
            _sample_and_evaluate(training)


def _sample_and_evaluate(training):
    """Prints samples of a finished training, and evaluates it."""
    from elf_jax.evaluation.evaluate import evaluate
    from elf_jax.generation.generate import generate_texts

    trained, sample = training.trained(), training.config.sample
    rows = training.dataset.validation if training.dataset.conditional else None
    texts = generate_texts(trained, sample.num_samples, sample.seed, rows)
    print("samples:\n" + "\n".join(f"  {text}" for text in texts))
    evaluate(trained, training.dataset, training.workdir)


@expanding
def sample(
    workdir=None,
    config=None,
    checkpoint=None,
    source=None,
    format="text",
    output=None,
    **settings,
):
    """Writes samples.

    A model of text writes texts. A model of pairs writes targets, for the held-out sources or for
    the sources in a file.

    Args:
      workdir, config, checkpoint, **settings: see the module.
      source: path of a file with one source on each line, or "-" for standard input. In a .jsonl
        or .parquet file the source is the field config.data.source_field. Files may be compressed.
      format: "text" or "jsonl". output: path; None: the screen.
    """
    from elf_jax.generation.answers import format_answer, format_sample

    show = format_sample if source is None else format_answer
    first = jax.process_index() == 0
    if output:
        check_file(output, "--output")
    elif sys.stdout is None:
        raise UserError("standard output is closed: name a file in --output")
    lines = samples(workdir, config, checkpoint, source, **settings)
    made = list(itertools.islice(lines, 1))  # first, so that a mistake leaves no new directory
    with open_text(output) if output and first else contextlib.nullcontext(sys.stdout) as out:
        for one in itertools.chain(made, lines):
            print(show(*one, format), file=out, flush=source is not None)


@expanding
def samples(workdir=None, config=None, checkpoint=None, source=None, **settings):
    """Yields the samples that `sample` writes as (source or None, text), as soon as they are made.

    Args:
      workdir, config, checkpoint, **settings: see the module.
      source: as for `sample`, or a list of strings.
    """
    from elf_jax.checkpoints.trained import load_trained
    from elf_jax.generation.answers import check_takes_sources

    origin, config = _model(workdir, config, checkpoint)
    config_module.update(config, {f"sample.{name}": value for name, value in settings.items()})
    if source is not None:
        check_takes_sources(config)
    trained = load_trained(origin, config)
    _say_unused(trained.method, settings)
    if source is not None:
        yield from _answers(trained, source, settings.get("num_samples"))
    else:
        yield from _samples(trained, origin, checkpoint)


def _answers(trained, source, limit):
    from elf_jax.generation.answers import Counts, describe, read_sources, translate

    data, counts = trained.config.data, Counts()
    if not isinstance(source, list):
        source = read_sources(source, data.source_field)
    source = itertools.islice(source, limit)
    for batch in translate(trained, source, trained.config.sample.seed, counts):
        yield from batch
    note = describe(counts, data.source_length)
    if note:
        print(note, file=sys.stderr)


def _samples(trained, origin, checkpoint):
    from elf_jax.generation.generate import generate_texts

    config, rows, sources = trained.config, None, itertools.repeat(None)
    count = config.sample.num_samples
    if config.data.source_field:
        dataset = _held_out(trained, origin, checkpoint)
        rows, count = dataset.validation, min(count, len(dataset.validation))
        sources = [example.source for example in dataset.validation_examples[:count]]
    texts = generate_texts(trained, count, config.sample.seed, rows)
    yield from zip(sources, texts, strict=False)


@expanding
def evaluate(workdir=None, config=None, checkpoint=None, scorer=None, **settings):
    """Scores samples by the config's protocols. Prints the numbers and keeps them.

    Args:
      workdir, config, checkpoint, **settings: see the module. Settings of sampling make one
        protocol, called flags, which replaces those of the config. With seed, only that seed is
        used.
      scorer: directory or hub name of the GPT-2 of Gen. PPL.

    Returns:
      Dict of what is in the summary, see `evaluation.evaluate.evaluate`.
    """
    from elf_jax.evaluation.evaluate import evaluate as run
    from elf_jax.evaluation.protocols import FROM_FLAGS

    keys = {f"sample.{name}": value for name, value in settings.items()}
    keys |= _counts("evaluate", settings)
    if settings.keys() - set(config_module.NOT_OF_PROTOCOLS):
        keys["evaluate.protocols"] = {FROM_FLAGS: {}}
    return _score(run, workdir, config, checkpoint, scorer, keys)


@expanding
def sweep(workdir=None, config=None, checkpoint=None, scorer=None, **settings):
    """Scores every combination of sampling settings. Keeps the points and draws their frontier.

    Args:
      workdir, config, checkpoint, scorer: as for `evaluate`.
      **settings: as for `evaluate`; those in SEVERAL may be lists, such as steps=[16, 32].

    Returns:
      Dict of what is in sweep.json.
    """
    from elf_jax.evaluation.sweep import sweep as run

    keys = {
        f"{'sweep' if name in SEVERAL else 'sample'}.{name}": value
        for name, value in settings.items()
    }
    keys |= _counts("sweep", settings)
    return _score(run, workdir, config, checkpoint, scorer, keys)


@expanding
def compare(workdirs=None, config=None, output="runs/comparison", scorer=None, **settings):
    """Scores several trained models in the same way. Writes one table and its pictures.

    Args:
      workdirs: list of workdirs and exports, or a string with commas between them.
      config: only its section `compare` is read. None: the defaults. Everything else is as in each
        workdir's config.
      output: directory of the results, on this machine or in a store.
      scorer: as for `evaluate`. None: that of the workdirs.
      **settings: as for `sweep`. Those that are no list of the section `compare` are set in the
        section `sample` of every workdir.

    Returns:
      Dict of what is in comparison.json, see `evaluation.compare.compare`.
    """
    from elf_jax.evaluation.compare import compare as run
    from elf_jax.evaluation.subjects import find_subjects

    if config is None:
        config = config_module.defaults.get_config()
    config = config.copy_and_resolve_references()
    lists = LISTS["compare"]
    keys = {f"compare.{name}": settings[name] for name in lists if name in settings}
    config_module.update(config, keys | _counts("compare", settings))
    keys = {f"sample.{name}": value for name, value in settings.items() if name not in lists}
    with _workdir(output, "--output") as directory:
        subjects = find_subjects(workdirs, config.compare, keys, scorer, directory)
        return run(subjects, lambda one, trained: _held_out(trained, one.origin, None), directory)


def _counts(section, settings):
    """The config keys that `num_samples` and `seed` set in a section, as a dict."""
    keys = {}
    if "num_samples" in settings:
        keys[f"{section}.num_samples"] = settings["num_samples"]
    if "seed" in settings:
        keys[f"{section}.seeds"] = 1
    return keys


def _score(run, workdir, config, checkpoint, scorer, keys):
    from elf_jax.checkpoints.trained import load_trained

    origin, config = _model(workdir, config, checkpoint)
    config_module.update(config, keys)
    checks.check_evaluation(config)
    with _workdir(_workdir_of_results(origin, workdir, checkpoint)) as directory:
        check_file(directory / config.evaluate.output, "config.evaluate.output")
        trained = load_trained(origin, config)
        _say_unused(trained.method, {name.split(".")[-1] for name in keys})
        return run(trained, _held_out(trained, origin, checkpoint), directory, scorer)


@expanding
def export(workdir=None, config=None, checkpoint=None, output=None, **settings):
    """Exports a trained model as a directory that needs no other files, with a model card.

    Args:
      workdir, config, checkpoint, **settings: see the module. The settings become the defaults of
        the exported model.
      output: directory; None: WORKDIR/export.

    Returns:
      Path of the directory.
    """
    from elf_jax.checkpoints.export import check_free
    from elf_jax.checkpoints.export import export as write
    from elf_jax.checkpoints.trained import load_trained
    from elf_jax.evaluation.card import model_card

    origin, config = _model(workdir, config, checkpoint)
    config_module.update(config, {f"sample.{name}": value for name, value in settings.items()})
    home = origin.path if origin.kind == "workdir" else None
    if output is None and home is None:
        raise UserError("--output is missing: name the directory to export to")
    output = home / EXPORT if output is None else pathlib.Path(output)
    check_free(output)
    check_directory(output.resolve().parent, "--output")
    trained = load_trained(origin, config)
    write(trained, output, model_card(trained, (home or output).absolute().name, home))
    if home is not None:
        store.send(home)
    print(f"exported {output}")
    return output


@expanding
def prepare(config):
    """Makes shards of the config's data, which training reads by random access. See docs/data.md.

    Returns:
      The manifest, a dict.
    """
    from elf_jax.data.prepare import prepare as run

    checks.check_data(config.data)
    return run(config.data)


@expanding
def pretrain_encoder(config, workdir):
    """Trains a T5 encoder from scratch on the config's data, into WORKDIR/encoder.

    Returns:
      Dict of the last metrics; None if the encoder was there already or the training was stopped.
    """
    from elf_jax.training.encoder import pretrain_encoder as run

    with _workdir(workdir) as directory:
        return run(config, directory / ENCODER)


@expanding
def train_scorer(workdir, config=None):
    """Trains a small GPT-2 on the data of the config, or of the workdir's, into WORKDIR/scorer.

    Returns:
      Dict of its held-out loss and how it was trained; None if the training was stopped.
    """
    from elf_jax.training.scorer import train_scorer as run

    with _workdir(workdir) as directory:
        config = config_module.read_config(directory) if config is None else config
        config = config_module.followed(directory, config)
        config_module.check_same(directory, config, lambda name: name.startswith("data."))
        return run(config, directory)


@expanding
def compile_report(config, topology="", program="train", output=None):
    """Compiles a config's program for chips, which need not be there. Says what it needs.

    Args:
      config: see the module. topology: a TPU slice such as "v5p:2x4x4"; "": this machine.
      program: "train" or "sample". output: path of the report as JSON, or None.

    Returns:
      The report, a dict.
    """
    from elf_jax.hardware.compile_report import compile_report as run

    if output:
        check_file(output, "--output")
    return run(config, topology, program, output)


@contextlib.contextmanager
def _workdir(path, flag="--workdir"):
    """Yields the local directory of a workdir. A workdir in a store is uploaded at the end."""
    if path is None:
        raise UserError("--workdir is missing: name the directory of a trained model")
    directory = store.fetch(path)
    check_directory(directory, flag)
    yield directory
    store.send(directory)


def _say_unused(method, given):
    """Prints a line if settings of sampling were given that the method does not have."""
    known = set(defaults.get_config().sample) - OF_ALL
    unused = sorted((known & set(given)) - set(method.settings))
    if unused and jax.process_index() == 0:
        flags = ", ".join(f"--{name}" for name in unused)
        print(f"note: {flags} changes nothing: {method.name} has no such setting", file=sys.stderr)


def _model(workdir, config, checkpoint):
    """(the `Origin` of the weights, a copy of the config that may be changed)."""
    from elf_jax.checkpoints.origins import find_origin, load_config, workdir_origin

    if checkpoint:
        origin = find_origin(checkpoint)
        config = load_config(origin) if config is None else config
        return origin, config.copy_and_resolve_references()
    if workdir is None:
        raise UserError("--workdir is missing: name the directory of a trained model")
    directory = store.fetch(workdir)
    kept = config_module.read_config(directory)
    if config is not None:
        asked, config = config, config_module.followed(directory, config)
        changed = config_module.check_same(directory, config)
        config_module.say_followed(asked, config)
        for name in (name for name in changed if name.startswith("data.")):
            before, now = changed[name]
            print(f"config.{name} was {before!r} and is {now!r} here", file=sys.stderr)
    config = kept if config is None else config
    return workdir_origin(directory), config.copy_and_resolve_references()


def _workdir_of_results(origin, workdir, checkpoint):
    """The workdir that the numbers and samples of a model are written to."""
    if not checkpoint:
        return workdir
    if workdir is None:
        if origin.kind != "workdir":
            message = "--workdir is missing: name a directory for the numbers and the samples"
            raise UserError(message)
        return origin.path
    directory = store.fetch(workdir)
    if (directory / CONFIG).is_file() and directory.absolute() != origin.path.absolute():
        raise UserError(
            f"workdir {str(directory)!r} has another model than --checkpoint: name another "
            "--workdir for the numbers"
        )
    return workdir


def _held_out(trained, origin, checkpoint):
    """The `Dataset` of a trained model; its held-out part is enough.

    In the workdir of the model it must be the data of the training. With `checkpoint` the user may
    name other data.
    """
    from elf_jax.checkpoints.origins import load_config, tokenizer_path
    from elf_jax.data.dataset import load_held_out
    from elf_jax.training.begin import read_summary

    data, kept = trained.config.data, None
    if origin.kind == "workdir":
        is_its_own = not checkpoint or data.to_dict() == load_config(origin).data.to_dict()
        kept = read_summary(origin.path) if is_its_own else None
    return load_held_out(data, tokenizer_path(origin, data), processes.share(kept))
