"""Finds the models of a distillation that are measured: its students, and its teacher."""

from elf_jax.checkpoints.origins import find_origin, load_config, workdir_origin
from elf_jax.checkpoints.rounds import round_for, rounds_of, teacher_of
from elf_jax.core import config as config_module
from elf_jax.core.errors import UserError
from elf_jax.evaluation.few_steps import STUDENT, TEACHER, Part
from elf_jax.evaluation.scorer import scorer_path

STEPS = (16, 8, 4, 2, 1)  # what is measured, beside the numbers of steps of the rounds


def parts_of(workdir, keys, scorer=None):
    """The models of a distillation, with the numbers of steps at which they are measured.

    At each number of steps the student is that of `rounds.round_for`, as in sampling. The teacher
    is measured at the same numbers, and at that of its config. With the key sample.steps, all are
    measured at this number only.

    Args:
      workdir: of a distillation.
      keys: {config key: value} that every model's config gets.
      scorer: directory or name that the user asked for, or None.

    Returns:
      (list of `Part`, the scorer or None, lines for the user).

    Raises:
      UserError: no round is finished.
    """
    asked = keys.get("sample.steps")
    rounds = {one.steps for one in rounds_of(workdir)}
    wanted = (asked,) if asked else sorted({*STEPS, *rounds}, reverse=True)
    students = {}
    for steps in wanted:
        students.setdefault(round_for(workdir, steps), []).append(steps)
    parts = []
    for one, steps in students.items():
        origin = workdir_origin(one.workdir)
        config = _config(origin, keys)
        kept = one.fingerprint if config.sample.weights == "ema" else None
        parts.append(Part(STUDENT, origin, config, tuple(steps), one.workdir, kept))
    teacher, notes = _teacher(workdir, parts, keys, asked)
    parts = teacher + parts
    if scorer is None:
        found, _ = scorer_path(parts[0].config.scorer, parts[0].origin.path, None)
        scorer = found or None
    return parts, scorer, notes


def _teacher(workdir, parts, keys, asked):
    """([the `Part` of the teacher], lines for the user); an empty list if it is not there."""
    about = teacher_of(workdir)
    try:
        origin = find_origin(about["checkpoint"])
    except UserError as error:
        return [], [f"the students alone, without their teacher: {error}"]
    # A published checkpoint has no config. Its students have it.
    config = parts[0].config if origin.kind == "published" else _config(origin, keys)
    config = config.copy_and_resolve_references()
    if "sample.weights" not in keys:
        config.sample.weights = about["weights"]
    evaluate = parts[0].config.evaluate
    for key in ("num_samples", "seeds", "infill", "metrics"):
        config.evaluate[key] = evaluate[key]
    own = () if asked else (_steps(origin, config),)
    steps = {count for part in parts for count in part.steps} | set(own)
    steps = tuple(sorted(steps, reverse=True))
    kept = about["fingerprint"] if config.sample.weights == about["weights"] else None
    return [Part(TEACHER, origin, config, steps, workdir, kept)], []


def _steps(origin, config):
    """The number of steps that a teacher usually takes."""
    return (config if origin.kind == "published" else load_config(origin)).sample.steps


def _config(origin, keys):
    config = load_config(origin).copy_and_resolve_references()
    config_module.update(config, keys)
    return config
