"""The main training. Everything is built and checked before anything is written."""

import dataclasses
import pathlib
from functools import partial

import jax
import jax.numpy as jnp

from elf_jax.checkpoints.experiment import Checkpoints, check_whole
from elf_jax.checkpoints.origins import save_start, starting_point, tokenizer_path
from elf_jax.checkpoints.rounds import check_no_distillation
from elf_jax.checkpoints.trained import TrainedModel
from elf_jax.checkpoints.weights import load_weights
from elf_jax.core import checks, rng, sharding, store
from elf_jax.core.ahead import compiled_ahead
from elf_jax.core.allowed import reads_from_left
from elf_jax.core.averaging import LARGE_SHARE, share_of_first
from elf_jax.core.config import check_same, followed, say_followed
from elf_jax.core.errors import UserError
from elf_jax.core.types import Batch, counted_positions
from elf_jax.core.workdir import START, TOKENIZER
from elf_jax.data.buckets import Buckets, make_buckets
from elf_jax.data.dataset import Dataset, load_dataset
from elf_jax.data.pipeline import first_batch, make_iterator
from elf_jax.data.tokenizer import vocab_size
from elf_jax.methods.registry import build_method
from elf_jax.training import ending, loop
from elf_jax.training.begin import begin, check_data, hold
from elf_jax.training.given import make_law
from elf_jax.training.optimizer import in_steps, make_optimizer, make_schedule
from elf_jax.training.samples import make_sampling
from elf_jax.training.state import TrainState, describe_state, init_state, training_key
from elf_jax.training.step import StepSettings, make_train_step
from elf_jax.training.validation import held_out_losses, jit_eval_step

REMEDY = "lower config.optimizer.learning_rate or lengthen config.optimizer.warmup"


@dataclasses.dataclass
class Training:
    """A main training, completely built.

    Attributes:
      config: whole config. workdir: directory for all its files.
      dataset: the `Dataset`. mesh: the devices. method, frozen: see `registry.build_method`.
      schedule: learning rate by step. run: the `Run` for the loop.
      buckets: the `Buckets` of the training rows; None: all rows have the whole length.
      changed: {config key: (value before, value now)} of the keys that changed since the workdir
        was used last.
      start: name of the checkpoint whose weights the training starts from, or None.
    """

    config: object
    workdir: pathlib.Path
    dataset: Dataset
    mesh: jax.sharding.Mesh
    method: object
    frozen: dict
    schedule: object
    run: loop.Run
    buckets: Buckets | None = None
    changed: dict = dataclasses.field(default_factory=dict)
    start: str | None = None

    def trained(self):
        """The model as it is now, as a `TrainedModel`."""
        state = self.run.state
        return TrainedModel(
            config=self.config,
            tokenizer=self.dataset.tokenizer,
            method=self.method,
            frozen=self.frozen,
            params={"ema": state.ema, "live": state.params}[self.config.sample.weights],
            progress={"train_seconds": self.run.seconds},
            step=int(state.step),
            mesh=self.mesh,
            origin=str(self.workdir),
        )


def train(config, workdir, until=None, checkpoint=None):
    """Trains, or continues the training, until the config's duration or time limit is reached.

    Args:
      config: whole config.
      workdir: directory for all files. A workdir with checkpoints is resumed.
      until: step to stop after, before the end of the training. None: train to the end.
      checkpoint: path or name of a checkpoint whose weights the training starts from, see
        `origins.find_origin`. The workdir keeps its name, so it may be left out when resuming.

    Returns:
      (the `Training`, whether it reached its end).

    Raises:
      UserError: bad config or data, another config in the workdir, a loss that is not finite.
    """
    workdir = pathlib.Path(workdir)
    with hold(workdir) as is_lost:
        training = build_training(config, workdir, checkpoint)
        training.run.is_lost = is_lost
        if until is None:
            announce(training)
        done = loop.carry_out(training.run, until) and until is None
    if done and jax.process_index() == 0:
        run = training.run
        end = ending.finish(run, training.method.curves, ending.OF_AVERAGE)
        print(f"trained {int(run.state.step)} steps in {run.seconds:.0f} s\n{end}")
    return training, done


def build_training(config, workdir, checkpoint=None):
    """Builds a `Training`: checks everything, then writes into the workdir, then resumes if there
    is a checkpoint.

    Args:
      config, workdir, checkpoint: see `train`.

    Raises:
      UserError: a mistake in the config, the data, the workdir or the checkpoint.
    """
    checks.check(config)
    check_no_distillation(workdir)
    asked, config = config, followed(workdir, config)
    changed = check_same(workdir, config)
    say_followed(asked, config)
    check_whole(workdir)
    mesh = sharding.make_mesh(config.mesh)
    train = config.train
    sharding.check_batch(train.batch_size, train.accumulate, mesh, buckets=train.length_buckets)
    start = starting_point(workdir, checkpoint)
    tokenizer = workdir / TOKENIZER if start is None else tokenizer_path(start, config.data)
    dataset = load_dataset(config.data, tokenizer)
    check_data(workdir, dataset.summary)
    home = workdir if start is None else start.home
    tokenizer = dataset.tokenizer
    size, eos = vocab_size(tokenizer), tokenizer.eos_token_id
    method, frozen = build_method(config, size, mesh, home, dataset.train, eos)
    weights = None
    if start is not None:
        weights, _, start_step = load_weights(start, config, method, mesh, config.sample.weights)

    def write_more():
        if start is not None:
            save_start(workdir, start, config.sample.weights, start_step)

    training = assemble(config, workdir, dataset, mesh, method, frozen, weights, write_more)
    training.changed, training.start = changed, None if start is None else start.name
    return training


def assemble(config, workdir, dataset, mesh, method, frozen, weights=None, write_more=lambda: None):
    """A `Training` from its parts. Writes into the workdir, and resumes if there is a checkpoint.

    Args:
      config, workdir, dataset, mesh, method, frozen: see `Training`.
      weights: parameters that the training starts from. Their memory is reused. None: new ones.
      write_more: function without arguments that writes further files into the workdir.

    Raises:
      UserError: the duration is less than one step, or the checkpoint is damaged.
    """
    total, schedule = make_plan(config, len(dataset.train))
    optimizer = make_optimizer(config.optimizer, schedule, method.dtype, mesh, method.own_rates)
    shapes, shardings = described_state(config, method, optimizer, mesh)
    pad_id = dataset.tokenizer.pad_token_id
    step = jit_train_step(config, method, optimizer, schedule, mesh, shardings, pad_id)
    buckets = buckets_of(config, dataset.train)
    run = _make_run(config, workdir, dataset, mesh, method, frozen, total, step, shapes, buckets)
    if not loop.resume(run, shardings):
        run.state, _ = new_state(config, method, optimizer, mesh)
        if weights is not None:
            run.state = run.state.replace(params=weights, ema=jax.tree.map(jnp.copy, weights))

    def write():
        method.save_frozen(frozen, workdir)
        write_more()

    begin(workdir, config, dataset, write)
    return Training(config, workdir, dataset, mesh, method, frozen, schedule, run, buckets)


def make_plan(config, row_count, key="train.duration"):
    """(steps of the whole training, learning rate by step) of a whole config.

    Args:
      row_count: number of training rows, the length of an epoch.
      key: of the duration, for the message.

    Raises:
      UserError: the duration is less than one step.
    """
    batch_size = config.train.batch_size
    total = in_steps(config.train.duration, batch_size, row_count)
    if total < 1:
        raise UserError(f"config.{key} is less than one step: make it longer")
    warmup = in_steps(config.optimizer.warmup, batch_size, row_count)
    return total, make_schedule(config.optimizer, batch_size, warmup, total)


def new_state(config, method, optimizer, mesh):
    """(`TrainState` before the first step, its shardings)."""
    return init_state(*_creation(config, method, optimizer), mesh)


def described_state(config, method, optimizer, mesh):
    """`new_state` as ShapeDtypeStructs, and its shardings."""
    return describe_state(*_creation(config, method, optimizer), mesh)


def _creation(config, method, optimizer):
    """(function from a key to the first `TrainState`, its key)."""

    def create(key):
        return TrainState.create(method.init(key, config.data.length), optimizer)

    return create, rng.stream(jax.random.key(config.seed), "init")


def step_settings(config, mesh, pad_id=0):
    """`StepSettings` of a whole config on a mesh.

    Args:
      pad_id: the tokenizer's id of padding, which fills gaps up (config.data.given).
    """
    pad_in_loss = config.data.pad == "eos"
    return StepSettings(
        counted=lambda batch: counted_positions(batch, pad_in_loss),
        groups=sharding.row_shards(mesh),
        accumulate=config.train.accumulate,
        ema=config.optimizer.ema,
        ema_warmup=config.optimizer.ema_warmup,
        give=make_law(config.data.given, pad_id),
    )


def jit_train_step(config, method, optimizer, schedule, mesh, shardings, pad_id=0):
    """The training step of a whole config, jitted. The state that it gets cannot be used again,
    because its memory is reused (donated). For pad_id see `step_settings`.
    """
    settings = step_settings(config, mesh, pad_id)
    step = make_train_step(method, optimizer, schedule, settings, shardings.params)
    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(shardings, None),
        compiler_options=sharding.compiler_options(mesh),
    )


def _make_run(config, workdir, dataset, mesh, method, frozen, total, step, shapes, buckets):
    """The `Run`, whose state is still described by `shapes`. If there are steps to make, the step
    begins to be compiled.
    """
    train, key = config.train, training_key(config.seed, mesh)
    buckets = None if buckets is None else buckets.each
    checkpoints = Checkpoints(workdir, train.keep_checkpoints)
    iterator = make_iterator(
        dataset.train,
        train.batch_size,
        config.seed,
        jax.process_index(),
        jax.process_count(),
        buckets,
    )
    place = partial(placed, mesh, buckets)
    if (checkpoints.latest() or 0) < total:
        batch = place(first_batch(dataset.train, train.batch_size, jax.process_count(), buckets))
        step = compiled_ahead(step, shapes, frozen, batch, key)
    eval_step = jit_eval_step(method, config)
    return loop.Run(
        workdir=workdir,
        total_steps=total,
        every=loop.Every(
            train.log_every, train.validate_every, train.checkpoint_every, train.max_minutes
        ),
        place=place,
        train_step=partial(_step, step, frozen, key),
        validate=lambda state: held_out_losses(
            method, eval_step, state.ema, frozen, dataset.validation, config, mesh
        ),
        state=shapes,
        iterator=iterator,
        checkpoints=checkpoints,
        shown=method.shown,
        remedy=REMEDY,
        make_samples=make_sampling(config, workdir, dataset, mesh, method, frozen),
    )


def buckets_of(config, rows):
    """The `Buckets` of the training rows of a config, or None if rows have the whole length."""
    train, block_length = config.train, config.model.block_length
    if train.length_buckets == 1:
        return None
    cuts_targets = reads_from_left(config.method, block_length)
    sizes = train.batch_size, train.length_buckets, block_length
    return make_buckets(rows, *sizes, cuts_targets)


def placed(mesh, buckets, fields, number=0):
    """What the iterator gives, on the devices: a `Batch`, or a list with one for each `Bucket`."""
    del number
    if buckets is None:
        return sharding.put_rows(Batch(**fields), mesh)
    return [
        sharding.put_rows(Batch(**part, places=bucket.places), mesh)
        for part, bucket in zip(fields, buckets, strict=True)
    ]


def _step(step, frozen, key, state, batch):
    return step(state, frozen, batch, key)


def announce(training):
    """Prints the size of the model, the data, the devices, and the config keys that changed."""
    if jax.process_index() != 0:
        return
    config, run, summary = training.config, training.run, training.dataset.summary
    count = sum(leaf.size for leaf in jax.tree.leaves(run.state.params))
    print(
        f"{count:,} parameters, {summary['train_rows']:,} rows of {config.data.length} to train "
        f"on, {summary['validation_rows']:,} held out, vocabulary {summary['vocab_size']:,}, "
        f"{run.total_steps:,} steps of {config.train.batch_size} rows"
    )
    if training.buckets is not None:
        print(training.buckets)
    print(devices_of(training.mesh))
    print(f"workdir {store.location(training.workdir)}")
    if training.start is not None:
        print(f"starting from the {config.sample.weights} weights of {training.start}")
    note = _first_weights(training)
    if note:
        print(note)
    step = int(run.state.step)
    if step:
        print(f"resuming from the checkpoint of step {step}")
    for name, (before, now) in training.changed.items():
        print(f"config.{name} was {before!r} and is {now!r} from here on")
    if step and any(name.startswith("train.duration.") for name in training.changed):
        print(_new_rate(training, step))


def devices_of(mesh):
    """The devices of a mesh and its sizes, as one line."""
    sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    kind = jax.devices()[0].device_kind
    return f"{mesh.size} of {jax.device_count()} {kind} device(s), mesh {sizes}"


def _first_weights(training):
    """A warning, as one line, if at the end of the training the averaged weights still hold much of
    the random ones that it began with; else None.
    """
    settings, total = training.config.optimizer, training.run.total_steps
    share = share_of_first(total, settings.ema, settings.ema_warmup)
    # If the training began with --checkpoint, the first weights are those of a trained model.
    if share <= LARGE_SHARE or (training.workdir / START).is_file():
        return None
    return (
        f"warning: config.optimizer.ema={settings.ema} is large for {total:,} steps. At the end "
        "the averaged weights, which are sampled from and validated, will still hold "
        f"{share:.0%} of the first, random ones: lower it, set config.optimizer.ema_warmup=True, "
        "or sample with --weights=live"
    )


def _new_rate(training, step):
    """How a new duration changes the learning rate, as one line."""
    settings, total = training.config.optimizer, training.run.total_steps
    rate = float(training.schedule(min(step, total)))
    if settings.schedule == "constant":
        return f"the learning rate stays {rate:.3g} (config.optimizer.schedule=constant)"
    return (
        f"the {settings.schedule} schedule now reaches zero at step {total:,}: the learning rate "
        f"continues at {rate:.3g} at step {step:,}, as with this duration from the beginning"
    )
