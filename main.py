"""ELF-JAX: train a text diffusion model, sample from it, evaluate it.

  python main.py --config=configs/quickstart.py                     train (goes on where it stopped)
  python main.py --config=configs/quickstart.py --workdir=runs/mine --config.train.batch_size=64
  python main.py --mode=sample --workdir=runs/quickstart            print text
  python main.py --mode=evaluate --workdir=runs/quickstart          print and store its numbers
  python main.py --mode=sweep --workdir=runs/quickstart --steps=16,32 --guidance_scale=1,2,3
  python main.py --mode=export --workdir=runs/quickstart            safetensors with a model card

your own text (.gz, globs, comma-separated; jsonl too):
  python main.py --config=configs/quickstart.py --workdir=runs/book \\
      --config.data.kind=text --config.data.path=book.txt

flags:
  --config=FILE            a config; needed to train. Every key in it can be set, as above
                           (configs/base.py lists all keys, each with a comment)
  --workdir=DIR            where everything is kept; default: runs/NAME, after the config
  --mode=MODE              train, sample, evaluate, sweep (its picture) or export, as above;
    prepare                turn the config's data into shards that training reads at random
    pretrain_encoder       an encoder from scratch on the config's data, into WORKDIR/encoder
    train_scorer           a small GPT-2 on the config's data, for its Gen. PPL
    compile                will it fit, how fast will it be: --topology=v5p:2x4x4 (or the devices
                           that are there) --program=train|sample --output=report.json
  --checkpoint=PATH|NAME   the model to use, or to start training from, in place of the workdir's:
                           a workdir, an export, a published checkpoint (Orbax directory or msgpack
                           file; needs --config), or a name on the Hugging Face hub
for sample and export:
  --source=FILE            answer each line, in order (-: standard input; .jsonl: the field
                           config.data.source_field)
  --format=text|jsonl      in text, line breaks inside an answer become spaces
  --output=PATH            the file with the samples, or the exported directory (WORKDIR/export)
for sample, evaluate and sweep (default: the workdir's config; sweep takes several: 16,32)
  --num_samples=N          how many texts; --seed=N: of the samples
  --steps=N                sampling steps
  --sampler=ode|sde        --gamma=X: how much noise a step of sde puts back
  --guidance_scale=X       self-conditioning guidance w; 1 is none
  --cfg_scale=X            guidance on the condition c; 1 is none
  --time_grid=uniform|logit_normal|logit_normal_quantile
  --weights=ema|live       (export too)
  --scorer=PATH|NAME       the GPT-2 of Gen. PPL (evaluate, sweep)
"""

import contextlib
import itertools
import os
import pathlib
import sys

# A bad input is one line, and TensorFlow-style chatter would hide it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jax  # noqa: E402
from absl import app, flags, logging  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from elf_jax.core import (
    processes,  # noqa: E402
    store,  # noqa: E402
)
from elf_jax.core.errors import UserError  # noqa: E402

# What each mode calls; it needs --config unless it works on what a workdir keeps.
MODES = {
    "train": lambda: _train(),
    "sample": lambda: _use("sample"),
    "evaluate": lambda: _use("evaluate"),
    "sweep": lambda: _use("sweep"),
    "export": lambda: _use("export"),
    "prepare": lambda: _prepare(),
    "pretrain_encoder": lambda: _pretrain_encoder(),
    "train_scorer": lambda: _train_scorer(),
    "compile": lambda: _compile(),
}
# Flags that other modes would have to ignore.
ONLY_FOR = {
    "source": ("sample",),
    "format": ("sample",),
    "output": ("sample", "export", "compile"),
    "topology": ("compile",),
    "program": ("compile",),
    "scorer": ("evaluate", "sweep"),
}
# Flags that a sweep takes several values of, with the key in the section `sweep`.
LISTS = {
    "steps": "steps",
    "gamma": "gammas",
    "guidance_scale": "guidance_scales",
    "cfg_scale": "cfg_scales",
    "time_grid": "time_grids",
}
OVERRIDES = (
    "num_samples",
    "seed",
    "steps",
    "sampler",
    "gamma",
    "guidance_scale",
    "cfg_scale",
    "time_grid",
    "weights",
)

_CONFIG = config_flags.DEFINE_config_file("config", None, "a file with get_config()")
_WORKDIR = flags.DEFINE_string("workdir", None, "where everything is kept")
_MODE = flags.DEFINE_string("mode", "train", " | ".join(MODES))
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "see --help")
_SOURCE = flags.DEFINE_string("source", None, "see --help")
_FORMAT = flags.DEFINE_enum("format", "text", ("text", "jsonl"), "see --help")
_OUTPUT = flags.DEFINE_string("output", None, "see --help")
_TOPOLOGY = flags.DEFINE_string("topology", "", "see --help")
_PROGRAM = flags.DEFINE_string("program", "train", "see --help")
_SCORER = flags.DEFINE_string("scorer", None, "see --help")
for _name in ("num_samples", "seed"):
    flags.DEFINE_integer(_name, None, "see --help")
for _name in ("sampler", "weights"):
    flags.DEFINE_string(_name, None, "see --help")


class _Several(flags.ArgumentParser):
    """One value or several with commas between: a list."""

    def __init__(self, kind):
        self.kind = kind

    def parse(self, argument):
        return [self.kind(part.strip()) for part in argument.split(",")]

    def flag_type(self):
        return f"{self.kind.__name__} list"


for _name, _kind in zip(LISTS, (int, float, float, float, str), strict=True):
    flags.DEFINE(_Several(_kind), _name, None, "see --help")


def run(argv):
    """Carries out the mode; bad input becomes one line and exit code 2."""
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file at INFO
    try:
        if argv[1:]:
            raise UserError(f"unknown argument {argv[1]!r}: settings are given as --name=value")
        if _MODE.value not in MODES:
            raise UserError(f"--mode is {_MODE.value!r}; use one of {', '.join(MODES)}")
        for name, modes in ONLY_FOR.items():
            if flags.FLAGS[name].present and _MODE.value not in modes:
                raise UserError(f"--{name} is for --mode={' and '.join(modes)}: leave it out")
        if processes.initialize() and jax.process_index() > 0:
            _fall_silent()
        MODES[_MODE.value]()
        if _WORKDIR.value and store.is_url(_WORKDIR.value):
            store.send(store.mirror_of(_WORKDIR.value))
    except UserError as error:
        _fail(error)


def _fall_silent():
    """Of several processes the first one speaks; the others speak of errors only."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    os.environ["TQDM_DISABLE"] = "1"


def _train():
    from elf_jax.training import trainer

    trainer.train(_config(), _workdir(), checkpoint=_CHECKPOINT.value)


def _config():
    if _CONFIG.value is None:
        raise UserError("--config is missing: for example --config=configs/quickstart.py")
    return _CONFIG.value


def _compile():
    from elf_jax.hardware.compile_report import compile_report

    compile_report(_config(), _TOPOLOGY.value, _PROGRAM.value, _OUTPUT.value)


def _train_scorer():
    """Trains a scorer on the data of the config, or of the workdir's."""
    from elf_jax.core import config
    from elf_jax.training.scorer import train_scorer

    workdir = _workdir()
    config = config.load(workdir) if _CONFIG.value is None else _CONFIG.value
    config.check_same(workdir, config, lambda name: name.startswith("data."))
    train_scorer(config, workdir)


def _prepare():
    from elf_jax.data.prepare import prepare

    prepare(_config().data)


def _pretrain_encoder():
    from elf_jax.training.encoder import pretrain_encoder

    pretrain_encoder(_config(), _workdir() / "encoder")


def _use(mode):
    """Samples from, evaluates or exports the model of the workdir or of the checkpoint."""
    from elf_jax.core import config
    from elf_jax.generation.answers import check_takes_sources
    from elf_jax.generation.generate import load_trained

    source, config = _model()
    config.update(config, _overrides(mode))
    if _SOURCE.value is not None:
        check_takes_sources(config)
    target = _target(mode, source)
    act = {"sample": _sample, "evaluate": _evaluate, "sweep": _sweep, "export": _export}[mode]
    act(load_trained(source, config), source, target)


def _overrides(mode):
    """{"section.key": value} of what the flags set."""
    given = {name: flags.FLAGS[name].value for name in OVERRIDES}
    given = {name: value for name, value in given.items() if value is not None}
    keys = {}
    for name, value in given.items():
        if name not in LISTS:
            keys[f"sample.{name}"] = value
        elif mode == "sweep":
            keys[f"sweep.{LISTS[name]}"] = ",".join(map(str, value))
        elif len(value) > 1:
            raise UserError(f"--{name} has several values, which is for --mode=sweep: give one")
        else:
            keys[f"sample.{name}"] = value[0]
    for section in ("evaluate", "sweep"):
        if "num_samples" in given:
            keys[f"{section}.num_samples"] = given["num_samples"]
        if "seed" in given:
            keys[f"{section}.seeds"] = 1
    if given.keys() & {*LISTS, "sampler"}:
        keys["evaluate.protocols"] = "flags"  # which is the section `sample` as it is now
    return keys


def _model():
    """(the `Source` of the weights, its config)."""
    from elf_jax.checkpoints.weights import find_source, load_config, workdir_source
    from elf_jax.core import config

    if _CHECKPOINT.value:
        source = find_source(_CHECKPOINT.value)
        return source, load_config(source) if _CONFIG.value is None else _CONFIG.value
    workdir = _workdir()
    config = config.load(workdir)
    if _CONFIG.value is not None:
        free = ("sample.", "evaluate.", "sweep.", "scorer.")
        config.check_same(workdir, _CONFIG.value, lambda name: not name.startswith(free))
        config = _CONFIG.value
    return workdir_source(workdir), config


def _target(mode, source):
    """Where the results go: a path, or None for the screen; fails before anything is computed."""
    from elf_jax.core import config

    output = pathlib.Path(_OUTPUT.value) if _OUTPUT.value else None
    if mode == "sample" or output is not None:
        return output
    if mode == "export":
        if source.kind == "workdir":
            return source.path / "export"
        raise UserError("--output is missing: name the directory to export to")
    if _CHECKPOINT.value and _WORKDIR.value:
        workdir = store.fetch(_WORKDIR.value)
        if (workdir / config.FILE).is_file() and workdir.absolute() != source.path.absolute():
            raise UserError(
                f"workdir {str(workdir)!r} has a model of its own, whose numbers these are not: "
                "name another --workdir for them"
            )
        return workdir
    if source.kind != "workdir":
        raise UserError("--workdir is missing: name a directory for the numbers and the samples")
    return source.path


def _evaluate(trained, source, workdir):
    from elf_jax.checkpoints.weights import tokenizer_path
    from elf_jax.data.dataset import load_dataset
    from elf_jax.evaluation.evaluate import evaluate

    data = trained.config.data
    evaluate(trained, load_dataset(data, tokenizer_path(source, data)), workdir, _SCORER.value)


def _sweep(trained, source, workdir):
    from elf_jax.checkpoints.weights import tokenizer_path
    from elf_jax.data.dataset import load_dataset
    from elf_jax.evaluation.sweep import sweep

    data = trained.config.data
    sweep(trained, load_dataset(data, tokenizer_path(source, data)), workdir, _SCORER.value)


def _export(trained, source, output):
    from elf_jax.checkpoints.export import export

    export(trained, output, source.path if source.kind == "workdir" else None)
    print(f"exported {output}")


def _sample(trained, source, output):
    from elf_jax.core.files import open_text

    answer = _sample_freely if _SOURCE.value is None else _answer
    first = jax.process_index() == 0
    with open_text(output) if output and first else contextlib.nullcontext(sys.stdout) as out:
        answer(trained, source, out)


def _answer(trained, source, out):
    """A target for each line of --source, written as soon as it is there."""
    from elf_jax.generation.answers import describe, translate_file

    del source
    limit = flags.FLAGS["num_samples"].value
    counts = translate_file(trained, _SOURCE.value, out, _FORMAT.value, limit)
    note = describe(counts, trained.config.data.source_length)
    if note:
        print(note, file=sys.stderr)


def _sample_freely(trained, source, out):
    """Texts, or for a conditional model the held-out sources with their targets."""
    from elf_jax.checkpoints.weights import tokenizer_path
    from elf_jax.data.dataset import load_dataset
    from elf_jax.generation.answers import format_sample
    from elf_jax.generation.generate import generate_texts

    config = trained.config
    rows, sources, count = None, itertools.repeat(None), config.sample.num_samples
    if config.data.source_field:
        dataset = load_dataset(config.data, tokenizer_path(source, config.data))
        rows, count = dataset.validation, min(count, len(dataset.validation))
        sources = [example.source for example in dataset.validation_examples]
    texts, _ = generate_texts(trained, count, config.sample.seed, rows)
    for text, of in zip(texts, sources, strict=False):
        print(format_sample(of, text, _FORMAT.value), file=out)


def _workdir():
    if _WORKDIR.value:
        return store.fetch(_WORKDIR.value)
    if _CONFIG.value is None:
        raise UserError("--workdir is missing: name the directory of a trained model")
    path = flags.FLAGS["config"].config_filename.split(":")[0]
    return pathlib.Path("runs") / pathlib.Path(path).stem


def _parse(argv):
    """Flags, with every mistake in them as one line."""
    if any(argument in ("--help", "-help", "-h", "--helpfull") for argument in argv[1:]):
        print(__doc__.strip())
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
        if _CONFIG.value is not None:
            _CONFIG.value.to_dict()  # a config that is not there shows only when it is touched
        return rest
    except (AttributeError, KeyError) as error:
        _fail(_unknown_key(argv) or error)
    except flags.UnrecognizedFlagError as error:
        _fail(f"{error}: python main.py --help lists all flags")
    except OSError:
        given = [a.split("=", 1)[1] for a in argv if a.lstrip("-").startswith("config=")]
        _fail(f"no config at {given[-1]!r}: see configs/ for those that there are")
    except (flags.Error, TypeError, ValueError) as error:
        _fail(error)


def _unknown_key(argv):
    """The message for the first override of a key that configs do not have, or None."""
    from configs import base
    from elf_jax.core.config import flatten, nearest

    known = flatten(base.get_config())
    for argument in argv[1:]:
        name = argument.lstrip("-").split("=")[0]
        if name.startswith("config.") and name[7:] not in known:
            return f"unknown config key {name[7:]!r}: {nearest(name[7:], known)}"
    return None


def _fail(error):
    """One line to standard error, and exit code 2."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    app.run(run, flags_parser=_parse)
