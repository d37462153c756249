"""The training loop and all its side effects: resuming, logs, checkpoints, validation, stopping."""

import dataclasses
import json
import math
import pathlib
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import tensorboardX
from jax.experimental import multihost_utils
from tqdm import tqdm

from elf_jax.checkpoints.experiment import Checkpoints, abstract, check_whole
from elf_jax.checkpoints.weights import load_weights, record_start, starting_point, tokenizer_path
from elf_jax.core import processes, rng, sharding, store
from elf_jax.core.errors import UserError
from elf_jax.core.files import write_json, write_text
from elf_jax.core.types import Batch
from elf_jax.data.dataset import REPORT, load_dataset
from elf_jax.data.pipeline import make_iterator
from elf_jax.data.tokenizer import TOKENIZER, save_tokenizer, vocab_size
from elf_jax.evaluation.evaluate import evaluate, held_out_losses, step_settings
from elf_jax.generation.generate import Trained, check_settings, generate_texts
from elf_jax.latents.encoder import save_encoder
from elf_jax.methods.elf.build import build_model
from elf_jax.training.curve import draw_curve
from elf_jax.training.optimizer import in_steps, make_optimizer, make_schedule
from elf_jax.training.state import TrainState
from elf_jax.training.step import make_eval_step, make_train_step

METRICS = "metrics.jsonl"
CURVE = "loss.png"


@dataclasses.dataclass
class Run:
    """A training run: what is built once and what moves from step to step."""

    config: object
    workdir: pathlib.Path
    dataset: object
    mesh: object
    model: object
    total_steps: int
    train_step: object
    eval_step: object
    state: TrainState
    iterator: object
    checkpoints: Checkpoints
    seconds: float = 0.0  # of training, over all resumptions


def train(config, workdir, until=None, checkpoint=None):
    """Trains, or goes on training, until the config's duration or time limit is reached.

    Args:
      config: whole config.
      workdir: where everything is kept; a workdir with checkpoints is resumed.
      until: stop after this step although the training is not over; None for the whole.
      checkpoint: path or name of a checkpoint whose weights the training starts from, see
        `weights.find_source`; on record in the workdir, so that resuming needs no mention of it.

    Returns:
      The final `TrainState`.

    Raises:
      UserError: bad config or data, another config in the workdir, a loss that is not finite.
    """
    run = prepare(config, pathlib.Path(workdir), until is None, checkpoint)
    stop = _Interruption()
    try:
        with stop:
            _loop(run, run.total_steps if until is None else min(until, run.total_steps), stop)
    finally:
        run.checkpoints.close()
    if stop.signal:
        print(f"stopped at step {int(run.state.step)}; the same command goes on from there")
    elif until is None:
        _finish(run)
    return run.state


def prepare(config, workdir, announce=True, checkpoint=None):
    """Builds a `Run`: checks everything first, writes into the workdir only then, resumes if
    there is a checkpoint.
    """
    config.check_same(workdir, config)
    check_whole(workdir)
    check_settings(config.sample)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(config.train.batch_size, config.train.accumulate, mesh)
    _check_train(config.train)
    start = starting_point(workdir, checkpoint)
    tokenizer = workdir / TOKENIZER if start is None else tokenizer_path(start, config.data)
    dataset = load_dataset(config.data, tokenizer)
    _check_data(workdir, dataset)
    home = workdir if start is None else start.home
    model = build_model(config, vocab_size(dataset.tokenizer), mesh, home, dataset.train)

    def steps(duration, name):
        return in_steps(duration, config.train.batch_size, len(dataset.train), name)

    total = steps(config.train.duration, "train.duration")
    warmup = steps(config.optimizer.warmup, "optimizer.warmup")
    if total < 1:
        raise UserError("config.train.duration is 0: set one of its steps, epochs, examples")
    schedule = make_schedule(config.optimizer, config.train.batch_size, warmup, total)
    optimizer = make_optimizer(config.optimizer, schedule, model.predictor.network.dtype, mesh)
    if start is not None:  # before all that takes long, because it may not fit
        weights, _, start_step = load_weights(start, config, model, mesh, config.sample.weights)
    state, shardings = init_state(config, model, optimizer, mesh)
    if start is not None:
        state = state.replace(params=weights, ema=jax.tree.map(jnp.copy, weights))

    step = make_train_step(
        model.predictor,
        model.encoder,
        optimizer,
        schedule,
        step_settings(config, mesh, config.train.accumulate),
        shardings.params,
    )
    train_step = jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(shardings, None),
        compiler_options=sharding.compiler_options(mesh),
    )
    eval_step = jax.jit(
        make_eval_step(model.predictor, model.encoder, step_settings(config, mesh, 1))
    )
    iterator = make_iterator(
        dataset.train,
        config.train.batch_size,
        config.seed,
        jax.process_index(),
        jax.process_count(),
    )
    processes.barrier("built")  # all have read the workdir before anything is written there
    if jax.process_index() == 0:
        config.save(workdir, config)
        save_encoder(model.encoder, config.encoder, workdir)
        save_tokenizer(dataset.tokenizer, workdir / TOKENIZER)
        write_json(workdir / REPORT, dataset.report)
        if start is not None:
            record_start(workdir, start, config.sample.weights, start_step)
        store.send(workdir)
    processes.barrier("written")
    checkpoints = Checkpoints(workdir, config.train.keep_checkpoints)
    run = Run(
        config, workdir, dataset, mesh, model, total, train_step, eval_step, state, iterator,
        checkpoints,
    )  # fmt: skip
    if checkpoints.latest() is not None:
        run.state, progress = checkpoints.restore(abstract(state, shardings), iterator)
        run.seconds = progress["train_seconds"]
    if announce:
        _announce(run)
        if start is not None and jax.process_index() == 0:
            print(f"starting from the {config.sample.weights} weights of {start.name}")
    return run


def init_state(config, model, optimizer, mesh):
    """(TrainState, its shardings): every device makes its own part."""

    def create(key):
        params = model.predictor.init(key, config.data.length)
        return TrainState.create(params, optimizer)

    key = rng.stream(jax.random.key(config.seed), "init")
    shardings = sharding.of_tree(jax.eval_shape(create, key), mesh)
    return jax.jit(create, out_shardings=shardings)(key), shardings


def _check_train(train_settings):
    for name in ("log_every", "checkpoint_every", "keep_checkpoints", "validation_batches"):
        if train_settings[name] < 1:
            raise UserError(f"config.train.{name} is {train_settings[name]}; use 1 or more")


def _check_data(workdir, dataset):
    """A workdir goes on with the data it began with."""
    path = workdir / REPORT
    if not path.is_file():
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if before["fingerprint"] != dataset.report["fingerprint"]:
        raise UserError(
            f"the data has changed since {str(workdir)!r} was made ({before['train_rows']} rows "
            f"then, {dataset.report['train_rows']} now): restore it or use another --workdir"
        )


def _announce(run):
    if jax.process_index() != 0:
        return
    count = sum(leaf.size for leaf in jax.tree.leaves(run.state.params))
    report = run.dataset.report
    print(
        f"{count:,} parameters, {report['train_rows']:,} rows of {run.config.data.length} to train "
        f"on, {report['validation_rows']:,} held out, vocabulary {report['vocab_size']:,}, "
        f"{run.total_steps:,} steps of {run.config.train.batch_size} rows"
    )
    mesh = " x ".join(f"{axis} {size}" for axis, size in run.mesh.shape.items())
    used, there = run.mesh.size, jax.device_count()
    print(f"{used} of {there} {jax.devices()[0].device_kind} device(s), mesh {mesh}")
    print(f"workdir {store.location(run.workdir)}")
    if int(run.state.step):
        print(f"resuming from the checkpoint of step {int(run.state.step)}")


class _Interruption:
    """Context in which SIGINT and SIGTERM ask the loop to save and stop, once; a second one has
    its usual effect.
    """

    def __init__(self):
        self.signal = None
        self._before = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # not in the main thread, as in some notebooks: leave signals alone
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
    """Steps until `last_step`, the time limit or a signal; always leaves a checkpoint of where it
    stopped.
    """
    train = run.config.train
    step = int(run.state.step)
    if train.max_minutes and run.seconds >= 60 * train.max_minutes:
        last_step = step  # it ended by the clock before
    _forget_after(run.workdir / METRICS, step)
    log = _Log(run.workdir)
    key = _training_key(run)
    began, pending = time.monotonic() - run.seconds, []
    show = jax.process_index() == 0
    bar = tqdm(
        total=run.total_steps, initial=step, unit="step", dynamic_ncols=True, disable=not show
    )
    while step < last_step:
        batch = sharding.put_rows(Batch(**next(run.iterator)), run.mesh)
        with jax.transfer_guard("disallow"):  # nothing goes to or from the host within a step
            run.state, metrics = run.train_step(run.state, run.model.encoder.params, batch, key)
        pending.append(metrics)
        step += 1
        due = step % train.log_every == 0 or step == last_step
        save = step % train.checkpoint_every == 0 or step == last_step
        validate = bool(train.validate_every) and step % train.validate_every == 0
        # Alone, a process may stop at any step; several must agree, at the steps where all look.
        interrupted = bool(stop.signal) and jax.process_count() == 1
        if not (due or save or validate or interrupted):
            continue
        values = _collect(pending, step)  # waits for the device; raises if a loss is not finite
        run.seconds = time.monotonic() - began
        if train.max_minutes and _agreed(run.seconds >= 60 * train.max_minutes):
            last_step = step
        ending = step == last_step or _agreed(bool(stop.signal))
        if save or ending:
            run.checkpoints.save(run.state, run.iterator, {"train_seconds": run.seconds})
        if validate or step == last_step:
            values.update(_validate(run))
        if show:
            log.write({"step": step, "seconds": round(run.seconds, 2), **values})
            bar.set_postfix_str(_short(values), refresh=False)
            bar.update(step - bar.n)
        if save or ending:
            store.send(run.workdir)
        pending = []
        if ending:
            break
    bar.close()
    log.close()


def _training_key(run):
    """The root key of training, on all devices of all processes."""
    make = jax.jit(
        lambda: rng.stream(jax.random.key(run.config.seed), "training"),
        out_shardings=sharding.replicated(run.mesh),
    )
    return make()


def _agreed(condition):
    """True on all processes if it is on the first, so that they stop at the same step."""
    if jax.process_count() == 1:
        return condition
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(condition)))


def _collect(pending, step):
    """Means of the metrics of the last steps.

    Raises:
      UserError: a loss is not finite; names the step.
    """
    values = jax.device_get(pending)
    for number, value in enumerate(values, step - len(values) + 1):
        if not (math.isfinite(value["loss"]) and math.isfinite(value["gradient_norm"])):
            raise UserError(
                f"the loss is not finite at step {number}; the last good checkpoint is kept: "
                "lower config.optimizer.learning_rate or lengthen config.optimizer.warmup"
            )
    return {name: float(np.mean([value[name] for value in values])) for name in values[0]}


def _validate(run):
    return held_out_losses(
        run.eval_step, run.state.ema, run.model, run.dataset, run.config, run.mesh
    )


def _short(values):
    names = {"denoise_loss": "denoise", "decode_loss": "decode", "decode_accuracy": "accuracy"}
    return ", ".join(f"{short} {values[name]:.3f}" for name, short in names.items())


class _Log:
    """Metrics to JSON lines and TensorBoard, by process 0."""

    def __init__(self, workdir):
        self.file = self.board = None
        if jax.process_index() == 0:
            self.file = open(workdir / METRICS, "a", encoding="utf-8")  # noqa: SIM115
            self.board = tensorboardX.SummaryWriter(str(workdir / "tensorboard"))

    def write(self, values):
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()
        for name, value in values.items():
            if name != "step":
                self.board.add_scalar(name, value, values["step"])

    def close(self):
        if self.file:
            self.file.close()
            self.board.close()


def _forget_after(path, step):
    """Drops logged lines past `step`: a resumed run writes them again."""
    if not path.is_file() or jax.process_index() != 0:
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    if len(kept) < len(lines):
        write_text(path, "".join(kept))


def _finish(run):
    """What a finished training shows: the curve, samples, and the table if the config asks for
    it.
    """
    if jax.process_index() == 0:
        draw_curve(run.workdir / METRICS, run.workdir / CURVE)
        curve = run.workdir / CURVE
        print(f"trained {int(run.state.step)} steps in {run.seconds:.0f} s; curve: {curve}")
    if not run.config.evaluate.after_training:
        return
    weights = {"ema": run.state.ema, "live": run.state.params}[run.config.sample.weights]
    trained = Trained(
        run.config,
        run.dataset.tokenizer,
        run.model,
        weights,
        {"train_seconds": run.seconds},
        int(run.state.step),
        run.mesh,
        str(run.workdir),
    )
    rows = run.dataset.validation if run.dataset.conditional else None
    texts, _ = generate_texts(trained, run.config.sample.num_samples, run.config.sample.seed, rows)
    print("samples:\n" + "\n".join(f"  {text}" for text in texts))
    evaluate(trained, run.dataset, run.workdir)
