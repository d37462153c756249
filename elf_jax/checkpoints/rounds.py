"""A distilled workdir: a student for every number of steps, each in a workdir of its own.

WORKDIR/distillation.json     the teacher, and the rounds that are finished
WORKDIR/rounds/16             the student that samples in 16 steps, an ordinary workdir
"""

import dataclasses
import pathlib

from elf_jax.core import checksums
from elf_jax.core.errors import UserError
from elf_jax.core.files import read_json, write_json
from elf_jax.core.workdir import DISTILLATION, ROUNDS

TEACHER = {"checkpoint": str, "kind": str, "weights": str, "step": int, "fingerprint": str}


@dataclasses.dataclass(frozen=True)
class Round:
    """A finished round.

    Attributes:
      steps: N, the number of sampling steps that its student learned.
      substeps: K, the teacher's steps in one of them.
      workdir: of the student. trained: number of training steps.
      fingerprint: of its averaged weights, see `weights.fingerprint`.
    """

    steps: int
    substeps: int
    workdir: pathlib.Path
    trained: int
    fingerprint: str


def round_workdir(workdir, steps):
    """The workdir of the round whose student has so many steps."""
    return pathlib.Path(workdir) / ROUNDS / str(steps)


def is_distilled(workdir):
    """Whether a workdir is that of a distillation. It may have no finished round yet.

    Raises:
      UserError: the file is damaged, or was there and is missing.
    """
    return checksums.is_there(pathlib.Path(workdir) / DISTILLATION)


def check_no_distillation(workdir):
    """Raises UserError if a workdir is that of a distillation."""
    if is_distilled(workdir):
        raise UserError(
            f"workdir {str(workdir)!r} has a distillation: go on with --mode=distill, or use "
            "another --workdir"
        )


def teacher_of(workdir):
    """The teacher of a distilled workdir as a dict with the keys of TEACHER; None if the workdir is
    not distilled.

    Raises:
      UserError: the file is damaged.
    """
    return _read(workdir)["teacher"] if is_distilled(workdir) else None


def rounds_of(workdir):
    """The finished rounds of a distilled workdir, a tuple of `Round` in the order of their
    training; empty if there is none, or if the workdir is not distilled.

    Raises:
      UserError: the file is damaged.
    """
    found = _read(workdir)["rounds"] if is_distilled(workdir) else []
    return tuple(Round(workdir=round_workdir(workdir, one["steps"]), **one) for one in found)


def round_for(workdir, steps):
    """The finished `Round` whose number of steps is nearest to `steps`; of two, that with more.

    Raises:
      UserError: no round is finished, or the file is damaged.
    """
    rounds = rounds_of(workdir)
    if not rounds:
        raise UserError(
            f"no round of the distillation in {str(workdir)!r} is finished: go on with "
            f"--mode=distill --workdir={workdir}"
        )
    return min(rounds, key=lambda one: (abs(one.steps - steps), -one.steps))


def one_is_needed(workdir, path, flag):
    """The UserError for a distillation where one model is needed.

    Args:
      workdir: of the distillation. path: its name for the user. flag: that named it.
    """
    known = ", ".join(str(one.workdir) for one in rounds_of(workdir)) or "none is finished yet"
    return UserError(
        f"{path} is a distillation, which has a model for each round: name one in {flag} ({known})"
    )


def write_distillation(workdir, teacher, rounds):
    """Writes which teacher a distilled workdir has, and which rounds are finished.

    Args:
      teacher: dict with the keys of TEACHER. rounds: `Round`s.
    """
    rounds = [dataclasses.asdict(one) for one in rounds]
    for one in rounds:
        del one["workdir"]
    checksums.forget(workdir)
    write_json(pathlib.Path(workdir) / DISTILLATION, {"teacher": teacher, "rounds": rounds})
    checksums.write(workdir, (DISTILLATION,))


def _read(workdir):
    path = pathlib.Path(workdir) / DISTILLATION
    value = read_json(path)
    kinds = {one.name: one.type for one in dataclasses.fields(Round) if one.name != "workdir"}
    rounds = value.get("rounds")
    whole = isinstance(rounds, list) and all(_has(one, kinds) for one in rounds)
    if not (whole and _has(value.get("teacher"), TEACHER)):
        raise UserError(
            f"{path} is damaged (its teacher or a round is not whole): restore the file"
        )
    return value


def _has(value, kinds):
    """Whether a value of JSON is a dict with exactly these keys, of these types."""
    if not isinstance(value, dict) or value.keys() != kinds.keys():
        return False
    return all(type(value[name]) is kind for name, kind in kinds.items())
