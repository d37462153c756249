"""ELF-JAX: train a text diffusion model, sample from it, evaluate it.

  python main.py --config=configs/quickstart.py                     train (goes on where it stopped)
  python main.py --config=configs/quickstart.py --workdir=runs/mine --config.train.batch_size=64
  python main.py --mode=prepare --config=FILE            a corpus to shards (config.data.prepared)
  python main.py --mode=sample --workdir=runs/quickstart print text from the last checkpoint
  python main.py --mode=evaluate --workdir=runs/quickstart print and store the model's numbers

your own text:
  python main.py --config=configs/quickstart.py --workdir=runs/book \\
      --config.data.source=text --config.data.path=book.txt (.gz, globs, comma-separated; jsonl
      too)

flags:
  --config=FILE a config; needed to train. Every key in it can be set: --config.section.key=value
                           (configs/base.py lists all keys, each with a comment)
  --workdir=DIR            where everything is kept; default: runs/NAME, after the config
  --mode=train|prepare|sample|evaluate

for sample and evaluate (default: the workdir's config):
  --num_samples=N          how many texts
  --seed=N                 of the samples
  --steps=N                sampling steps
  --sampler=ode|sde
  --gamma=X                sde: how much noise a step puts back
  --guidance_scale=X       self-conditioning guidance w; 1 is none
  --cfg_scale=X            guidance on the condition c; 1 is none
  --time_grid=uniform|logit_normal|logit_normal_quantile
  --weights=ema|live
"""

import os
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from elf_jax.errors import UserError

# A bad input is one line, and TensorFlow-style chatter would hide it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

MODES = ("train", "prepare", "sample", "evaluate")
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
for _name in ("num_samples", "seed", "steps"):
    flags.DEFINE_integer(_name, None, "see --help")
for _name in ("gamma", "guidance_scale", "cfg_scale"):
    flags.DEFINE_float(_name, None, "see --help")
for _name in ("sampler", "time_grid", "weights"):
    flags.DEFINE_string(_name, None, "see --help")


def run(argv):
    """Carries out the mode; bad input becomes one line and exit code 2."""
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file at INFO
    try:
        if argv[1:]:
            raise UserError(f"unknown argument {argv[1]!r}: settings are given as --name=value")
        if _MODE.value not in MODES:
            raise UserError(f"--mode is {_MODE.value!r}; use one of {', '.join(MODES)}")
        if _MODE.value == "train":
            _train()
        elif _MODE.value == "prepare":
            _prepare()
        else:
            _use(_MODE.value)
    except UserError as error:
        _fail(error)


def _train():
    from elf_jax import trainer

    if _CONFIG.value is None:
        raise UserError("--config is missing: for example --config=configs/quickstart.py")
    trainer.train(_CONFIG.value, _workdir())


def _prepare():
    from elf_jax.data.prepare import prepare

    if _CONFIG.value is None:
        raise UserError("--config is missing: its section data says what to prepare")
    prepare(_CONFIG.value.data)


def _use(mode):
    """Samples from or evaluates the model of the workdir."""
    from elf_jax import settings
    from elf_jax.data.dataset import load_dataset
    from elf_jax.evaluate import evaluate
    from elf_jax.generate import TOKENIZER, generate_texts, load_trained

    workdir = _workdir()
    config = settings.load(workdir)
    if _CONFIG.value is not None:
        free = ("sample.", "evaluate.")
        settings.check_same(workdir, _CONFIG.value, lambda name: not name.startswith(free))
        config = _CONFIG.value
    for name in OVERRIDES:
        if flags.FLAGS[name].value is not None:
            settings.update(config, {f"sample.{name}": flags.FLAGS[name].value})
    if flags.FLAGS["num_samples"].value is not None:
        config.evaluate.num_samples = config.sample.num_samples
    trained = load_trained(workdir, config)
    if mode == "evaluate":
        evaluate(trained, load_dataset(config.data, workdir / TOKENIZER), workdir)
        return
    rows, sources, count = None, None, config.sample.num_samples
    if config.data.source_field:
        dataset = load_dataset(config.data, workdir / TOKENIZER)
        rows, count = dataset.validation, min(count, len(dataset.validation))
        sources = [example.source for example in dataset.validation_examples[:count]]
    texts, _ = generate_texts(trained, count, config.sample.seed, rows)
    for index, text in enumerate(texts):
        print(text if sources is None else f"{sources[index]}\t{text}")


def _workdir():
    if _WORKDIR.value:
        return pathlib.Path(_WORKDIR.value)
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
    from elf_jax.settings import flatten, nearest

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
