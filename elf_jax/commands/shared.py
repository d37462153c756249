"""What the commands have in common: the model that they work on, its workdir and its data."""

import contextlib
import pathlib
import sys

from elf_jax.commands import sizes
from elf_jax.core import compile_cache, defaults, host_memory, processes, store
from elf_jax.core import config as config_module
from elf_jax.core.errors import UserError
from elf_jax.core.files import check_directory
from elf_jax.core.workdir import CONFIG

# {mode: arguments that may have several values}: the lists in the mode's section of the config.
LISTS = {
    "sweep": (
        "steps",
        "gamma",
        "gamma_schedule",
        "guidance_scale",
        "cfg_scale",
        "time_grid",
        "temperature",
        "token_temperature",
    ),
    "compare": ("steps", "gamma", "guidance_scale", "temperature", "token_temperature"),
}
SEVERAL = LISTS["sweep"]
# Settings of section `sample` that do not depend on the method.
OF_ALL = {"num_samples", "batch_size", "candidates", "weights", "seed"}


@contextlib.contextmanager
def open_workdir(path, flag="--workdir"):
    """Yields the local directory of a workdir. A workdir in a store is uploaded at the end."""
    if path is None:
        raise UserError("--workdir is missing: name the directory of a trained model")
    _begin(path)
    directory = store.fetch(path)
    check_directory(directory, flag)
    yield directory
    store.send(directory)


def check_format(format, known):
    """Raises UserError if the value of --format is not one of those that a command has."""
    if format not in known:
        raise UserError(f"--format is {format!r}; use one of {', '.join(known)} with this mode")


def _begin(workdir):
    """What comes before the first computation of a command."""
    host_memory.keep_freed()
    compile_cache.turn_on(workdir)


def say_unused(method, given, sample=None):
    """Prints a line if settings of sampling were given that change nothing.

    Args:
      method: a `Method`. given: names of settings.
      sample: the section `sample` that they are in now; None: without candidates.
    """
    known = set(defaults.get_config().sample) - OF_ALL
    unused = sorted((known & set(given)) - set(method.settings))
    if unused and processes.is_first():
        flags = ", ".join(f"--{name}" for name in unused)
        print(f"note: {flags} changes nothing: {method.name} has no such setting", file=sys.stderr)
    has_several = sample and "candidates" in given and sample.candidates > 1
    if has_several and not method.draws(sample) and processes.is_first():
        why = "nothing is drawn with these settings, so all candidates are equal"
        print(f"note: --candidates changes nothing: {why}", file=sys.stderr)


def check_one_candidate(config, what):
    """Raises UserError if the config asks for several candidates. what: shows how one is made."""
    if config.sample.candidates > 1:
        raise UserError(
            f"{what} shows how one sample is made, and config.sample.candidates is "
            f"{config.sample.candidates}: add --candidates=1"
        )


def model_of(workdir, config, checkpoint, steps=None):
    """(the `Origin` of the weights, a copy of the config that may be changed).

    Args:
      workdir, config, checkpoint: see the package.
      steps: of sampling. Of a distillation the model is the student whose number of steps is
        nearest. 0: the student with the most. None: a distillation is refused.
    """
    from elf_jax.checkpoints.origins import find_origin, load_config, workdir_origin

    _begin(workdir)
    if checkpoint:
        checkpoint = student_of(checkpoint, steps, "--checkpoint")
    elif workdir is not None:
        workdir = student_of(workdir, steps, "--workdir")
    if checkpoint:
        origin = find_origin(checkpoint)
        config = load_config(origin) if config is None else config
        if sizes.is_open(config):
            config = sizes.filled(config, load_config(origin))
        return origin, config.copy_and_resolve_references()
    if workdir is None:
        raise UserError("--workdir is missing: name the directory of a trained model")
    directory = store.fetch(workdir)
    kept = config_module.read_config(directory)
    if config is not None:
        config = sizes.filled(config, kept)
        asked, config = config, config_module.followed(directory, config)
        changed = config_module.check_same(directory, config)
        config_module.say_followed(asked, config)
        for name in (name for name in changed if name.startswith("data.")):
            before, now = changed[name]
            print(f"config.{name} was {before!r} and is {now!r} here", file=sys.stderr)
    config = kept if config is None else config
    return workdir_origin(directory), config.copy_and_resolve_references()


def student_of(path, steps, flag):
    """The path itself; for the workdir of a distillation, that of one of its students.

    Args:
      path: of a workdir, or the name of another model. steps: see `model_of`. flag: for messages.

    Raises:
      UserError: the distillation has no finished round, or `steps` is None.
    """
    from elf_jax.checkpoints.rounds import is_distilled, one_is_needed, round_for, rounds_of

    local = store.fetch(path) if store.is_url(str(path)) else pathlib.Path(path).expanduser()
    if not is_distilled(local):
        return path
    if steps is None:
        raise one_is_needed(local, path, flag)
    most = max((one.steps for one in rounds_of(local)), default=1)
    found = round_for(local, steps or most)
    if processes.is_first():
        print(f"the student of {found.steps} steps: {found.workdir}", file=sys.stderr)
    return str(found.workdir)


def workdir_of_results(origin, workdir, checkpoint):
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


def held_out(trained, origin, checkpoint):
    """The `Dataset` of a trained model; its held-out part is enough.

    In the workdir of the model it must be the data of the training. With `checkpoint` the user may
    name other data.
    """
    from elf_jax.checkpoints.origins import load_config, tokenizer_path
    from elf_jax.data.dataset import load_held_out
    from elf_jax.training.begin import read_summary

    data, kept = trained.config.data, None
    if origin.kind == "workdir":
        is_its_own = not checkpoint or _rows_of(data) == _rows_of(load_config(origin).data)
        kept = read_summary(origin.path) if is_its_own else None
    return load_held_out(data, tokenizer_path(origin, data), processes.share(kept))


def _rows_of(data):
    """The keys of section `data` that the rows depend on, with their values."""
    flat = config_module.flatten(data, "data.")
    return {name: value for name, value in flat.items() if config_module.is_of_data(name)}
