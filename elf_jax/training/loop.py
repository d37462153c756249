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
from elf_jax.core import store
from elf_jax.core.errors import UserError
from elf_jax.training.metrics_log import MetricsLog, forget_after


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
      kept: dict of plain values that are saved in every checkpoint.
      seconds: training time, added up over all resumptions.
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
    kept: dict = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


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
    forget_after(run.workdir, step)
    log, pending = MetricsLog(run.workdir), []
    began = time.monotonic() - run.seconds
    show = jax.process_index() == 0
    bar = tqdm(
        total=run.total_steps, initial=step, unit="step", dynamic_ncols=True, disable=not show
    )
    while step < last_step:
        batch = run.place(next(run.iterator), step)
        with jax.transfer_guard("disallow"):  # no transfer to or from the host within a step
            run.state, metrics = run.train_step(run.state, batch)
        pending.append(metrics)
        step += 1
        due = step % every.log == 0 or step == last_step
        save = step % every.checkpoint == 0 or step == last_step
        validate = bool(every.validate) and step % every.validate == 0
        # A single process may stop at any step. Several processes must stop at the same step, so
        # they decide together, and only at steps where all of them check.
        interrupted = bool(stop.signal) and jax.process_count() == 1
        if not (due or save or validate or interrupted):
            continue
        values = _collect(run, pending, step)  # waits for the device
        run.seconds, pending = time.monotonic() - began, []
        if every.max_minutes and _agreed(run.seconds >= 60 * every.max_minutes):
            last_step = step
        ending = step == last_step or _agreed(bool(stop.signal))
        save = save or ending
        # Saved first, so that a failure in validation loses nothing, unless what is saved depends
        # on it.
        if save and not run.after_validation:
            run.checkpoints.save(run.state, run.iterator, _kept(run))
        if validate or step == last_step:
            values.update(run.validate(run.state))
            if run.after_validation:
                run.after_validation(run, values)
        if save and run.after_validation:
            run.checkpoints.save(run.state, run.iterator, _kept(run))
        log.write({"step": step, "seconds": round(run.seconds, 2), **values})
        bar.set_postfix_str(_short(run.shown, values), refresh=False)
        bar.update(step - bar.n)
        if save:
            store.send(run.workdir)
        if ending:
            break
    bar.close()
    log.close()


def _kept(run):
    return {"train_seconds": run.seconds, **run.kept}


def _agreed(condition):
    """The condition of process 0, on all processes, so that they stop at the same step."""
    if jax.process_count() == 1:
        return condition
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(condition)))


def _collect(run, pending, step):
    """Means of the metrics of the last steps.

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
    return {name: float(np.mean([value[name] for value in values])) for name in values[0]}


def _short(shown, values):
    parts = (f"{short} {values[name]:.3f}" for name, short in shown.items() if name in values)
    return ", ".join(parts)
