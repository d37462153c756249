"""Distillation to few steps: its rounds, one after another, each an ordinary training in a workdir.

The first round starts from the teacher's weights, each other one from the averaged weights of the
round before. A round that is finished is not touched again. What was interrupted goes on with the
same command, to the last bit.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp

from elf_jax.checkpoints.experiment import Checkpoints, abstract, is_begun
from elf_jax.checkpoints.origins import Origin, find_origin, save_start, tokenizer_path
from elf_jax.checkpoints.rounds import (
    Round,
    is_distilled,
    round_workdir,
    rounds_of,
    teacher_of,
    write_distillation,
)
from elf_jax.checkpoints.weights import fingerprint, load_weights, params_shapes
from elf_jax.core import checks, defaults, processes, sharding, store
from elf_jax.core.averaging import LARGE_SHARE, share_of_first
from elf_jax.core.config import check_same
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import CONFIG, ROUNDS
from elf_jax.data.dataset import load_dataset
from elf_jax.data.tokenizer import vocab_size
from elf_jax.methods.distilled.method import distilled, plan
from elf_jax.methods.registry import build_method
from elf_jax.training import ending, loop, trainer
from elf_jax.training.begin import check_data, hold, read_summary


@dataclasses.dataclass
class Distillation:
    """What all rounds share.

    Attributes:
      config: whole config. workdir: of the distillation. mesh: the devices.
      dataset: the teacher's data. method, frozen: the teacher, see `registry.build_method`.
      teacher: its parameters. about: what is kept about it, see `rounds.TEACHER`.
      rounds: the finished rounds, a list of `Round`.
      is_lost: function () -> bool, whether another training has taken the workdir over.
    """

    config: object
    workdir: pathlib.Path
    mesh: jax.sharding.Mesh
    dataset: object
    method: object
    frozen: dict
    teacher: dict
    about: dict
    rounds: list
    is_lost: object


def teacher_origin(workdir, given=None):
    """The `Origin` of the teacher of a distillation.

    Args:
      workdir: of the distillation, a directory of this machine.
      given: path or name from the user; None: the one that the workdir has kept.

    Raises:
      UserError: there is no teacher, or the workdir has another one.
    """
    kept = teacher_of(workdir)
    if not given and kept is None:
        raise UserError("--teacher is missing: name a trained model, such as --teacher=runs/owt")
    if given and not store.is_url(given) and is_distilled(pathlib.Path(given)):
        raise UserError(
            f"--teacher={given} has a distillation: name one of its rounds, such as "
            f"{given}/{ROUNDS}/N, or its teacher"
        )
    origin = find_origin(given or kept["checkpoint"])
    if kept is not None and origin.name != kept["checkpoint"]:
        raise UserError(
            f"workdir {str(workdir)!r} has the teacher {kept['checkpoint']}, not {origin.name}: "
            "name the same --teacher, or another --workdir"
        )
    return origin


def distill(config, workdir, origin, until=None):
    """Carries out the rounds of a distillation that are not finished.

    Args:
      config: whole config, of teacher and students.
      workdir: directory for the rounds. origin: the teacher, see `teacher_origin`.
      until: (N, training step to stop after in the round of N steps). None: all rounds are trained
        to their ends.

    Returns:
      Whether all rounds are finished.

    Raises:
      UserError: bad config, data or weights, or a workdir that was made with others.
    """
    workdir = pathlib.Path(workdir)
    checks.check(config)
    if (workdir / CONFIG).is_file():
        raise UserError(
            f"workdir {str(workdir)!r} has a training of its own: use another --workdir for the "
            "distillation"
        )
    with hold(workdir) as is_lost:
        _check_same(workdir, config)
        _check_there(workdir)
        todo = plan(config.distill)[len(rounds_of(workdir)) :]
        work = _open(config, workdir, origin, is_lost) if todo else None
        for steps, substeps in todo:
            stop = until[1] if until is not None and until[0] == steps else None
            if not _carry_out(work, steps, substeps, stop):
                return False
    if not todo and jax.process_index() == 0:
        print(f"all rounds in {store.location(workdir)} are finished")
    return True


def round_config(config, steps):
    """The config of the round whose student has so many steps: that of an ordinary training."""
    config = config.copy_and_resolve_references()
    settings = config.distill
    config.train.duration = defaults.duration(**settings.duration.to_dict())
    config.optimizer.warmup = defaults.duration(**settings.warmup.to_dict())
    config.train.max_minutes = settings.max_minutes
    config.sample.steps = steps
    return config


def _check_same(workdir, config):
    """Raises UserError if a round was begun with another config."""
    for path in sorted((workdir / ROUNDS).glob(f"[0-9]*/{CONFIG}")):
        asked = round_config(config, int(path.parent.name))
        check_same(path.parent, asked, fixed=lambda name: name.startswith("distill."))


def _check_there(workdir):
    """Raises UserError if the student of a finished round is not there any more."""
    for one in rounds_of(workdir):
        if not is_begun(one.workdir):
            raise UserError(
                f"the round of {one.steps} steps is finished, but {one.workdir} has no checkpoint "
                "any more: restore the directory, or use another --workdir"
            )


def _open(config, workdir, origin, is_lost):
    """The `Distillation`, checked against what the workdir has kept of the teacher."""
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(config.train.batch_size, config.train.accumulate, mesh)
    dataset = load_dataset(config.data, tokenizer_path(origin, config.data))
    _check_data(origin, dataset.summary)
    total, _ = trainer.make_plan(round_config(config, 1), len(dataset.train), "distill.duration")
    size, eos = vocab_size(dataset.tokenizer), dataset.tokenizer.eos_token_id
    method, frozen = build_method(config, size, mesh, origin.home, dataset.train, eos)
    distilled(method, config.distill, 1, 1)  # so that another method than ELF fails early
    weights = config.sample.weights
    teacher, _, step = load_weights(origin, config, method, mesh, weights)
    about = {"checkpoint": origin.name, "kind": origin.kind, "weights": weights, "step": step}
    about["fingerprint"] = fingerprint(teacher)
    kept = teacher_of(workdir)
    if kept not in (None, about):
        raise UserError(
            f"the teacher {origin.name} has changed since the distillation in {str(workdir)!r} "
            f"began ({kept['weights']} weights of step {kept['step']} then, {weights} of step "
            f"{step} now): restore it, or use another --workdir"
        )
    rounds = list(rounds_of(workdir))
    parts = config, workdir, mesh, dataset, method, frozen, teacher, about, rounds, is_lost
    work = Distillation(*parts)
    processes.barrier("opened")  # all have read what the first process writes now
    if kept is None:
        processes.on_first(lambda: _write(work))
    _announce(work, total)
    return work


def _check_data(origin, summary):
    """Raises UserError if the data is not that of the teacher, as far as the teacher tells."""
    kept = read_summary(origin.path) if origin.kind == "workdir" else None
    if kept is not None and kept["fingerprint"] != summary["fingerprint"]:
        raise UserError(
            f"the data is not that of the teacher {origin.name} ({kept['train_rows']} rows there, "
            f"{summary['train_rows']} now): set config.data.path to the files of its training"
        )


def _announce(work, total):
    if jax.process_index() != 0:
        return
    config, summary, about = work.config, work.dataset.summary, work.about
    print(
        f"teacher {about['checkpoint']}, {about['weights']} weights of step {about['step']:,}; "
        f"{summary['train_rows']:,} rows of {config.data.length} to train on, rounds of "
        f"{', '.join(map(str, config.distill.steps))} steps"
    )
    print(trainer.devices_of(work.mesh))
    average = config.optimizer.ema, config.optimizer.ema_warmup
    share = share_of_first(total, *average)
    if share > LARGE_SHARE:
        print(
            f"warning: config.optimizer.ema={average[0]} is large for {total:,} steps a round. The "
            f"averaged weights of a round will still hold {share:.0%} of those it began with: "
            "lower it, or set config.optimizer.ema_warmup=True"
        )


def _carry_out(work, steps, substeps, until):
    """Trains a round, or goes on with it. Returns whether it is finished."""
    home, config = round_workdir(work.workdir, steps), round_config(work.config, steps)
    (home.mkdir)(parents=True, exist_ok=True)
    check_data(home, work.dataset.summary)
    start, student = _student_before(work)
    is_first = config.distill.teacher == "first" or student is None
    teacher = work.teacher if is_first else student()
    weights = None
    if not is_begun(home):
        weights = jax.tree.map(jnp.copy, work.teacher) if student is None else student()
    training = trainer.assemble(
        config,
        home,
        work.dataset,
        work.mesh,
        distilled(work.method, config.distill, steps, substeps),
        {**work.frozen, "teacher": teacher},
        weights,
        lambda: save_start(home, *start, teacher=work.about["checkpoint"]),
    )
    run = training.run
    run.is_lost = work.is_lost
    if not loop.carry_out(run, until) or until is not None:
        return False
    found = Round(steps, substeps, home, int(run.state.step), fingerprint(run.state.ema))
    work.rounds.append(found)
    processes.on_first(lambda: _finish(work, training))
    return True


def _student_before(work):
    """((origin, weights, step) that the next round starts from, a function that loads the student
    of the round before; None for the first round, which starts from the teacher).
    """
    if not work.rounds:
        about = work.about
        origin = Origin(about["kind"], work.workdir, about["checkpoint"])
        return (origin, about["weights"], about["step"]), None
    last = work.rounds[-1]
    origin = Origin("workdir", last.workdir, store.location(last.workdir))

    def load():
        shapes = params_shapes(work.method, work.config.data.length)
        checkpoints = Checkpoints(last.workdir, create=False)
        try:
            target = abstract(shapes, sharding.of_tree(shapes, work.mesh))
            params, _, _ = checkpoints.restore_params(target, "ema")
        finally:
            checkpoints.close()
        if fingerprint(params) != last.fingerprint:
            raise UserError(
                f"the weights of {last.workdir} have changed since its round was finished: restore "
                "the directory"
            )
        return params

    return (origin, "ema", last.trained), load


def _finish(work, training):
    """Keeps a finished round, draws its curve, and prints its lines."""
    found, run = work.rounds[-1], training.run
    end = ending.finish(run, training.method.curves, ending.OF_AVERAGE)
    store.send(run.workdir)
    _write(work)
    print(
        f"round of {found.steps}: {found.trained} steps in {run.seconds:.0f} s, {found.substeps} "
        f"of the teacher for one of the student: {store.location(found.workdir)}\n{end}"
    )


def _write(work):
    write_distillation(work.workdir, work.about, work.rounds)
    store.send(work.workdir)
