"""The one training loop: steps, logs, checkpoints, validation, resuming, stopping.

It does not depend on the model. ELF, the scorer and the encoder from scratch each give it a `Run`.
"""

import dataclasses
import math
import pathlib
import signal
import time
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from elf_jax.checkpoints.experiment import Checkpoints, abstract
from elf_jax.core import processes, sharding, store
from elf_jax.core.errors import UserError
from elf_jax.training import samples
from elf_jax.training.metrics_log import MetricsLog, Window


@dataclasses.dataclass(frozen=True)
class Every:
    """How often the loop logs, validates and saves.

    Attributes:
      log, checkpoint: every so many steps. validate: the same; 0: only at the end.
      max_minutes: limit of the training time in all; 0: no limit.
    """

    log: int
    validate: int
    checkpoint: int
    max_minutes: float = 0.0


@dataclasses.dataclass
class Run:
    """A training: the parts that are built once, and the state that each step changes.

    Attributes:
      workdir: directory for its files. total_steps: of the whole training. every: `Every`.
      place: function (output of the iterator, step number) -> the batch on the devices.
      train_step: function (state, batch) -> (state, metrics).
      validate: function of the state -> {name: value} of held-out rows.
      state: anything with a `step`, such as a `TrainState`.
      iterator: Grain's iterator over the training data. checkpoints: `Checkpoints` of the workdir.
      shown: {metric: short name} of the metrics in the progress bar.
      remedy: advice to the user if the loss is not finite.
      after_validation: function (run, values) that may change `state` and `kept`, or None.
      make_samples: function (state, step number) that makes samples at each validation and keeps
        them, and returns {tag: text} for TensorBoard; or None. Its time is no training time.
      is_lost: function () -> bool, whether another training has taken the workdir over.
      kept: dict of plain values that are saved in every checkpoint.
      window: metrics of the steps after the last line of the log.
      seconds: training time, added up over all resumptions.
      sampling_seconds: time of `make_samples`, since this program runs.
      devices: what the saved steps were made on, see `sharding.hardware`.
    """

    workdir: pathlib.Path
    total_steps: int
    every: Every
    place: Callable
    train_step: Callable
    validate: Callable
    state: object
    iterator: object
    checkpoints: Checkpoints
    shown: dict
    remedy: str
    after_validation: Callable | None = None
    make_samples: Callable | None = None
    is_lost: Callable = lambda: False
    kept: dict = dataclasses.field(default_factory=dict)
    window: Window = dataclasses.field(default_factory=Window)
    seconds: float = 0.0
    sampling_seconds: float = 0.0
    devices: list = dataclasses.field(default_factory=list)


def resume(run, shardings):
    """Restores a run from its newest checkpoint, if there is one.

    Args:
      run: a `Run`, in its state before the first step. shardings: of the state.

    Returns:
      Whether there was a checkpoint.

    Raises:
      UserError: the checkpoint is damaged or does not fit.
    """
    if run.checkpoints.latest() is None:
        return False
    state, kept = run.checkpoints.restore(abstract(run.state, shardings), run.iterator)
    run.state, run.seconds = state, kept.pop("train_seconds")
    run.window = Window(**kept.pop("window", {}))  # version 0.2 kept none
    run.devices = kept.pop("devices", [])  # version 0.3 kept none
    run.kept = kept
    return True


def carry_out(run, until=None):
    """Trains until the end of a run, its time limit, or a signal. Saves a checkpoint at the end.

    Args:
      run: a `Run`.
      until: step to stop after, before the end of the training. None: train to the end.

    Returns:
      False if SIGINT or SIGTERM stopped it, else True.

    Raises:
      UserError: a loss that is not finite.
    """
    stop = _Interruption()
    last_step = run.total_steps if until is None else min(until, run.total_steps)
    try:
        left = last_step - int(run.state.step)
        if left > 0:
            saves = -(-left // run.every.checkpoint)
            processes.on_first(lambda: run.checkpoints.check_room(run.state, saves))
        with stop:
            _loop(run, last_step, stop)
    finally:
        run.checkpoints.close()
    if stop.signal:
        print(f"stopped at step {int(run.state.step)}; the same command goes on from there")
    return not stop.signal


class _Interruption:
    """Context in which the first SIGINT or SIGTERM asks the loop to save and stop. A second signal
    has its usual effect.
    """

    def __init__(self):
        self.signal = None
        self._before = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread, as in some notebooks: signals cannot be set
                return self
        return self

    def _handle(self, number, frame):
        del frame
        self.signal = number
        self._restore()

    def _restore(self):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, *exc):
        self._restore()


def _loop(run, last_step, stop):
    every, step = run.every, int(run.state.step)
    if every.max_minutes and run.seconds >= 60 * every.max_minutes:
        last_step = step  # the time limit was reached before
    began, pending = time.monotonic() - run.seconds, []
    processes.on_first(lambda: samples.forget_after(run.workdir, step))
    with MetricsLog(run.workdir, step) as log, _bar(run, step) as bar:
        _catch_up(run, step, log)
        while step < last_step:
            batch = run.place(next(run.iterator), step)
            with jax.transfer_guard("disallow"):  # no transfer to or from the host within a step
                run.state, metrics = run.train_step(run.state, batch)
            pending.append(metrics)
            step += 1
            due = _Due.at(run, step)
            # A single process may stop at any step. Several processes must stop at the same step,
            # so they decide together, and only at steps where all of them check.
            interrupted = bool(stop.signal) and jax.process_count() == 1
            if not (due.line or interrupted or step == last_step):
                continue
            _collect(run, pending, step)  # waits for the device
            run.seconds, pending = time.monotonic() - began - run.sampling_seconds, []
            if every.max_minutes and _agreed(run.seconds >= 60 * every.max_minutes):
                last_step, due = step, _Due(line=True, save=True, validate=True)
            ending = step == last_step or _agreed(bool(stop.signal))
            _carry_out_due(run, step, due, ending, log)
            bar.set_postfix_str(_short(run.shown, log.last), refresh=False)
            bar.update(step - bar.n)
            if due.save or ending:
                store.send(run.workdir)
            if ending:
                break


def _bar(run, step):
    show = jax.process_index() == 0
    return tqdm(
        total=run.total_steps, initial=step, unit="step", dynamic_ncols=True, disable=not show
    )


@dataclasses.dataclass(frozen=True)
class _Due:
    """What is due after a step. A line of the log is due with everything else."""

    line: bool
    save: bool
    validate: bool

    @classmethod
    def at(cls, run, step):
        """What is due after `step` by the plan of a run."""
        every, end = run.every, step == run.total_steps
        save = end or step % every.checkpoint == 0
        validate = end or (bool(every.validate) and step % every.validate == 0)
        return cls(save or validate or step % every.log == 0, save, validate)


def _catch_up(run, step, log):
    """Writes the line of a step that was saved but not logged before the program was killed."""
    due = _Due.at(run, step)
    if processes.share(step > log.last_step) and due.line and run.window.count:
        _write_line(run, step, due, log)
    if processes.share(step == log.last_step):
        run.window = Window()


def _carry_out_due(run, step, due, ending, log):
    """Saves, validates and logs.

    A run that was stopped saves the metrics of the last steps and writes no line for them. So its
    log has the same lines as that of a run that was not stopped.
    """
    if _agreed(run.is_lost()):
        raise UserError(
            f"another training has taken over {store.location(run.workdir)!r}, because this one "
            "gave no sign of life for some time: nothing more is saved here"
        )
    save = due.save or ending
    # Saved first, so that a failure in validation loses nothing, unless what is saved depends on
    # it.
    if save and not (due.validate and run.after_validation):
        run.checkpoints.save(run.state, run.iterator, _kept(run))
    if due.line:
        _write_line(run, step, due, log, save)


def _write_line(run, step, due, log, save=False):
    values = run.window.means()
    if due.validate:
        values.update(run.validate(run.state))
        if run.after_validation:
            run.after_validation(run, values)
            if save:
                run.checkpoints.save(run.state, run.iterator, _kept(run))
        if run.make_samples:
            _make_samples(run, step, log)
    log.write({"step": step, "seconds": round(run.seconds, 2), **values})
    run.window = Window()


def _make_samples(run, step, log):
    began = time.monotonic()
    log.write_texts(run.make_samples(run.state, step), step)
    run.sampling_seconds += time.monotonic() - began


def _kept(run):
    window, here = dataclasses.asdict(run.window), sharding.hardware(run.state)
    devices = run.devices + [here] * (here not in run.devices)
    return {"train_seconds": run.seconds, "window": window, "devices": devices, **run.kept}


def _agreed(condition):
    """The condition of process 0, on all processes, so that they stop at the same step."""
    if jax.process_count() == 1:
        return condition
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(condition)))


def _collect(run, pending, step):
    """Adds the metrics of the last steps to the window.

    Raises:
      UserError: a loss or a gradient is not finite. The message names the step.
    """
    values = jax.device_get(pending)
    for number, value in enumerate(values, step - len(values) + 1):
        if not (math.isfinite(value["loss"]) and math.isfinite(value["gradient_norm"])):
            raise UserError(
                f"the loss is not finite at step {number}; the last good checkpoint is kept: "
                f"{run.remedy}"
            )
        run.window.add(value)


def _short(shown, values):
    parts = (f"{short} {values[name]:.3f}" for name, short in shown.items() if name in values)
    return ", ".join(parts)
