"""Commands that train, or prepare data for it."""

from elf_jax.commands import sizes
from elf_jax.commands.shared import open_workdir
from elf_jax.core import checks
from elf_jax.core import config as config_module
from elf_jax.core.arguments import expanding
from elf_jax.core.errors import UserError
from elf_jax.core.files import check_file
from elf_jax.core.workdir import ENCODER


@expanding
def load_config(path, **keys):
    """The config in a file, such as configs/owt.py or configs/owt.py:elf_l, locked.

    Of configs/text.py and configs/seq2seq.py, values are None that the commands choose by the size
    of the data.

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
      config, workdir: see the package. checkpoint: the training starts from its weights.
    """
    check_soon(config)
    from elf_jax.training import trainer

    with open_workdir(workdir) as directory:
        config = sizes.fitted(config, directory, checkpoint)
        if config.evaluate.after_training:
            check_file(directory / config.evaluate.output, "config.evaluate.output")
        training, done = trainer.train(config, directory, checkpoint=checkpoint)
        if done and config.evaluate.after_training:
            _sample_and_evaluate(training)


def check_soon(config):
    """Checks a config before the libraries are imported, which takes seconds. What is still to be
    chosen by rule is checked later.
    """
    if sizes.is_open(config):
        checks.check_values(config)
    else:
        checks.check(config)


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
def distill(workdir, teacher=None, config=None, keys=None):
    """Trains students of a trained ELF that sample in few steps, see docs/few_steps.md. Goes on
    where it was interrupted.

    Args:
      workdir: directory for the rounds.
      teacher: a workdir, an export, a published checkpoint (needs a config), or a name on the
        Hugging Face hub. None: the teacher that the workdir was begun with.
      config: see the module. None: that of the teacher.
      keys: {"section.key": value}, which replace values of the config; values may be text.

    Returns:
      Whether all rounds are finished.
    """
    from elf_jax.checkpoints.origins import load_config as config_of
    from elf_jax.training.distill import distill as run
    from elf_jax.training.distill import teacher_origin

    if workdir is None:
        raise UserError("--workdir is missing: name a directory for the distillation")
    with open_workdir(workdir) as directory:
        origin = teacher_origin(directory, teacher)
        config = config_of(origin) if config is None else config
        if sizes.is_open(config):
            config = sizes.filled(config, config_of(origin))
        config = config.copy_and_resolve_references()
        config_module.update_from_text(config, config_module.translate(keys or {}))
        return run(config_module.expanded(config), directory, origin)


@expanding
def prepare(config):
    """Makes shards of the config's data, which training reads by random access. See docs/data.md.

    Returns:
      The manifest, a dict.
    """
    from elf_jax.data.prepare import prepare as run

    config = sizes.fitted(config)
    checks.check_data(config.data)
    return run(config.data)


@expanding
def pretrain_encoder(config, workdir):
    """Trains a T5 encoder from scratch on the config's data, into WORKDIR/encoder.

    Returns:
      Dict of the last metrics; None if the encoder was there already or the training was stopped.
    """
    from elf_jax.training.encoder import pretrain_encoder as run

    with open_workdir(workdir) as directory:
        return run(sizes.fitted(config, directory), directory / ENCODER)


@expanding
def train_scorer(workdir, config=None):
    """Trains a small GPT-2 on the data of the config, or of the workdir's, into WORKDIR/scorer.

    Returns:
      Dict of its held-out loss and how it was trained; None if the training was stopped.
    """
    from elf_jax.training.scorer import train_scorer as run

    with open_workdir(workdir) as directory:
        config = config_module.read_config(directory) if config is None else config
        config = sizes.fitted(config, directory)
        config = config_module.followed(directory, config)
        config_module.check_same(directory, config, config_module.is_of_data)
        return run(config, directory)
