"""Commands that measure trained models."""

from elf_jax.commands.shared import (
    LISTS,
    SEVERAL,
    held_out,
    model_of,
    open_workdir,
    say_unused,
    workdir_of_results,
)
from elf_jax.core import checks
from elf_jax.core import config as config_module
from elf_jax.core.arguments import expanding
from elf_jax.core.files import check_file


@expanding
def evaluate(workdir=None, config=None, checkpoint=None, scorer=None, **settings):
    """Scores samples by the config's protocols. Prints the numbers and keeps them.

    Of the workdir of a distillation it scores the teacher and all students, see
    `evaluation.few_steps`. There are no protocols then, and only the sections `sample` (without
    its steps), `evaluate` and `scorer` of `config` are read.

    Args:
      workdir, config, checkpoint, **settings: see the package. Settings of sampling make one
        protocol, called flags, which replaces those of the config. With seed, only that seed is
        used.
      scorer: directory or hub name of the GPT-2 of Gen. PPL.

    Returns:
      Dict of what is in the summary, see `evaluation.evaluate.evaluate`.
    """
    from elf_jax.checkpoints.rounds import is_distilled
    from elf_jax.evaluation.evaluate import evaluate as run
    from elf_jax.evaluation.protocols import FROM_FLAGS
    from elf_jax.methods.elf.method import ELFMethod

    keys = {f"sample.{name}": value for name, value in settings.items()}
    keys |= _counts("evaluate", settings)
    if workdir is not None and not checkpoint:
        with open_workdir(workdir) as directory:
            if is_distilled(directory):
                say_unused(ELFMethod, settings)
                return _evaluate_rounds(directory, _asked_of_rounds(config) | keys, scorer)
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

    return _of_several(run, workdirs, config, output, scorer, settings, LISTS["compare"])


@expanding
def curves(workdirs=None, config=None, output="runs/curves", scorer=None, **settings):
    """Scores every checkpoint that some workdirs keep. Writes a table, and a picture over the time
    of training.

    Args:
      workdirs, scorer: as for `compare`.
      config: only its `compare.num_samples` and `compare.seeds` are read. None: the defaults.
      output: directory of the results, on this machine or in a store.
      **settings: of the section `sample` of every workdir.

    Returns:
      Dict of what is in curves.json, see `evaluation.curves.curves`.
    """
    from elf_jax.evaluation.curves import curves as run

    return _of_several(run, workdirs, config, output, scorer, settings, ())


def _of_several(run, workdirs, config, output, scorer, settings, lists):
    """Calls `run` for several models. lists: the settings that are lists of section `compare`."""
    from elf_jax.evaluation.subjects import find_subjects

    if config is None:
        config = config_module.defaults.get_config()
    config = config.copy_and_resolve_references()
    keys = {f"compare.{name}": settings[name] for name in lists if name in settings}
    config_module.update(config, keys | _counts("compare", settings))
    keys = {f"sample.{name}": value for name, value in settings.items() if name not in lists}
    with open_workdir(output, "--output") as directory:
        subjects = find_subjects(workdirs, config.compare, keys, scorer, directory)
        return run(subjects, lambda one, trained: held_out(trained, one.origin, None), directory)


def _counts(section, settings):
    """The config keys that `num_samples` and `seed` set in a section, as a dict."""
    keys = {}
    if "num_samples" in settings:
        keys[f"{section}.num_samples"] = settings["num_samples"]
    if "seed" in settings:
        keys[f"{section}.seeds"] = 1
    return keys


def _asked_of_rounds(config):
    """{config key: value} that an evaluation of a distillation takes from a whole config."""
    if config is None:
        return {}
    keys = {}
    for section in ("sample", "evaluate", "scorer"):
        keys |= config_module.flatten(config[section], f"{section}.")
    del keys["sample.steps"], keys["sample.weights"], keys["evaluate.protocols"]
    return keys


def _evaluate_rounds(directory, keys, scorer):
    """Scores the teacher and the students of a distillation, see `evaluation.few_steps`."""
    from elf_jax.evaluation.few_steps import evaluate_few_steps
    from elf_jax.evaluation.rounds import parts_of

    parts, scorer, notes = parts_of(directory, keys, scorer)
    for part in parts:
        checks.check_evaluation(part.config)
    output = parts[-1].config.evaluate.output
    check_file(directory / output, "config.evaluate.output")
    return evaluate_few_steps(
        parts, lambda part, trained: held_out(trained, part.origin, None), directory, scorer, notes
    )


def _score(run, workdir, config, checkpoint, scorer, keys):
    from elf_jax.checkpoints.trained import load_trained

    origin, config = model_of(workdir, config, checkpoint)
    config_module.update(config, keys)
    checks.check_evaluation(config)
    with open_workdir(workdir_of_results(origin, workdir, checkpoint)) as directory:
        check_file(directory / config.evaluate.output, "config.evaluate.output")
        trained = load_trained(origin, config)
        sample = config.sample if "evaluate.protocols" in keys else None
        say_unused(trained.method, {name.split(".")[-1] for name in keys}, sample)
        return run(trained, held_out(trained, origin, checkpoint), directory, scorer)
