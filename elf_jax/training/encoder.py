"""An encoder from scratch: a small T5 trained on the config's own data with span corruption,
written as a normal Hugging Face directory.

Spans are hidden in the whole row. The condition of a pair attends only to itself. ELF encodes it in
the same way, so the encoder is trained for its later use.

Source: T5, arXiv 1910.10683, section 3.1.4.
"""

import pathlib
from functools import partial

import jax

from elf_jax.checkpoints.experiment import Checkpoints
from elf_jax.core import checks, checksums, processes, rng, sharding
from elf_jax.core.config import check_same, followed, is_of_data
from elf_jax.core.errors import UserError
from elf_jax.core.files import open_directory
from elf_jax.core.types import compute_dtype
from elf_jax.core.workdir import (
    CONFIG,
    ENCODER,
    ENCODER_TRAINING,
    METRICS,
    OLD_HISTORY,
    TOKENIZER,
)
from elf_jax.data import span_corruption
from elf_jax.data.dataset import load_dataset
from elf_jax.data.pipeline import make_iterator
from elf_jax.data.tokenizer import add_sentinels, vocab_size
from elf_jax.networks.t5 import T5
from elf_jax.pretrained.t5 import save_t5
from elf_jax.training import ending, loop
from elf_jax.training.begin import begin, check_data, hold
from elf_jax.training.encoder_objective import SpanFilling, counted_targets, t5_config
from elf_jax.training.metrics_log import read_metrics
from elf_jax.training.optimizer import in_steps, make_optimizer, make_schedule
from elf_jax.training.state import TrainState, init_state, training_key
from elf_jax.training.step import StepSettings, make_eval_step, make_train_step
from elf_jax.training.validation import sum_over_held_out

REMEDY = "lower config.pretrain.optimizer.learning_rate or lengthen its warmup"
CURVES = {
    "loss": "loss (cross-entropy, nats per target token)",
    "accuracy": "accuracy (share of the target tokens)",
}


def pretrain_encoder(config, output, until=None):
    """Trains a T5 on the config's data, or continues the training, and writes its directory.

    Args:
      config: whole config; sections pretrain, data and mesh, model.dtype and seed are read.
      output: directory to make, with config.json, model.safetensors and the tokenizer. The
        sentinels of span corruption are appended to the tokenizer. The directory appears only
        when it is complete. The training has its own workdir next to it, OUTPUT-pretraining.
      until: step to stop after, before the end of the training. None: train to the end.

    Returns:
      Dict of the last metrics. It has validation_loss (nats per target token) and
      validation_accuracy. None if the encoder already exists or the training was stopped.

    Raises:
      UserError: bad config or data, another config in OUTPUT-pretraining, a loss that is not
        finite.
    """
    checks.check(config)
    output = pathlib.Path(output)
    workdir = output.with_name(f"{output.name}{ENCODER_TRAINING.removeprefix(ENCODER)}")
    if output.exists() and not (workdir / CONFIG).is_file():
        raise UserError(f"{str(output)!r} is there already: name another directory, or remove it")
    config = followed(workdir, config)
    check_same(workdir, config, _matters)
    if output.exists():
        _announce_use(output)
        return None
    if (workdir / OLD_HISTORY).is_file():
        raise UserError(
            f"{str(workdir)!r} is an unfinished training of version 0.1, which this version cannot "
            "resume: remove that directory to start anew"
        )
    with hold(workdir) as is_lost:
        return _train(config, workdir, output, until, is_lost)


def _train(config, workdir, output, until, is_lost):
    """`pretrain_encoder` in its own workdir, which this process holds."""
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(config.pretrain.batch_size, 1, mesh, "config.pretrain.batch_size")
    dataset = load_dataset(config.data, workdir / TOKENIZER)
    check_data(workdir, dataset.summary)
    corrupt, task = _make_task(config, dataset.tokenizer, mesh)
    run = _make_run(config, workdir, dataset, corrupt, task, mesh)
    run.is_lost = is_lost
    if not (loop.carry_out(run, until) and until is None):
        return None
    return _finish(run, task, dataset.tokenizer, output, mesh)


def _matters(name):
    """Whether the pretraining depends on a config key."""
    return name == "seed" or name.startswith("pretrain.") or is_of_data(name)


def _make_task(config, tokenizer, mesh):
    """(function (fields of a `Batch`, draws) -> batch with hidden spans, `SpanFilling`)."""
    pretrain = config.pretrain
    shape = config.data.length, pretrain.density, pretrain.mean_span
    corrupt = partial(
        span_corruption.corrupt,
        sentinels=add_sentinels(tokenizer, span_corruption.corrupted_shapes(*shape)[-1]),
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
        density=pretrain.density,
        mean_span=pretrain.mean_span,
    )
    network = T5(t5_config(pretrain, vocab_size(tokenizer)), compute_dtype(config.model.dtype))
    return corrupt, SpanFilling(network, tokenizer.pad_token_id, sharding.row_shards(mesh))


def _make_run(config, workdir, dataset, corrupt, task, mesh):
    """The `Run`, at its newest checkpoint if there is one. Everything is built before anything is
    written into the workdir.
    """
    pretrain, place = config.pretrain, (jax.process_index(), jax.process_count())
    total, schedule = _make_plan(pretrain, len(dataset.train))
    optimizer = make_optimizer(pretrain.optimizer, schedule)

    def create(key):
        return TrainState.create(task.init(key), optimizer, with_ema=False)

    key = rng.stream(jax.random.key(config.seed), "pretrain")
    state, shardings = init_state(create, key, mesh)
    step = make_train_step(task, optimizer, schedule, StepSettings(counted_targets))
    step = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
    step_key = training_key(config.seed, mesh)
    run = loop.Run(
        workdir=workdir,
        total_steps=total,
        every=loop.Every(pretrain.log_every, pretrain.validate_every, pretrain.checkpoint_every),
        place=partial(_place, config, mesh, corrupt),
        train_step=lambda state, batch: step(state, {}, batch, step_key),
        validate=_make_validation(config, mesh, corrupt, task, dataset.validation),
        state=state,
        iterator=make_iterator(dataset.train, pretrain.batch_size, config.seed, *place),
        checkpoints=Checkpoints(workdir, keep=1),
        shown={"loss": "loss", "accuracy": "accuracy", "validation_loss": "held out"},
        remedy=REMEDY,
    )
    resumed = loop.resume(run, shardings)
    begin(workdir, config, dataset)
    if jax.process_index() == 0:
        _announce(config, run, task, dataset.summary, resumed)
    return run


def _make_plan(pretrain, row_count):
    """(steps of the whole training, learning rate by step)."""
    total = in_steps(pretrain.duration, pretrain.batch_size, row_count)
    if total < 1:
        raise UserError("config.pretrain.duration is less than one step: make it longer")
    warmup = in_steps(pretrain.optimizer.warmup, pretrain.batch_size, row_count)
    return total, make_schedule(pretrain.optimizer, pretrain.batch_size, warmup, total)


def _draws(config, name, number, size):
    return span_corruption.draws(config.seed, name, number, size, config.data.length)


def _place(config, mesh, corrupt, fields, number):
    """The global batch of a step, with hidden spans, from this process's rows."""
    size = config.pretrain.batch_size
    local = size // jax.process_count()
    uniforms = _draws(config, "train", number, size)[jax.process_index() * local :][:local]
    return sharding.put_rows(corrupt(fields, uniforms), mesh)


def _make_validation(config, mesh, corrupt, task, rows):
    """A function of the state: loss and accuracy on held-out rows. The hidden spans are always the
    same.
    """
    pretrain, eval_step = config.pretrain, jax.jit(make_eval_step(task, counted_targets))
    key = training_key(config.seed, mesh)

    def validate(state):
        def sums(fields, real, index):
            uniforms = _draws(config, "validation", index, len(fields["tokens"]))
            batch = sharding.share_rows(corrupt(fields, uniforms), mesh)
            return eval_step(state.params, {}, batch, key, real)

        sizes = pretrain.batch_size, pretrain.validation_batches
        return sum_over_held_out(task, sums, rows, *sizes, mesh)

    return validate


def _announce(config, run, task, summary, resumed):
    pretrain, length = config.pretrain, config.data.length
    shapes = span_corruption.corrupted_shapes(length, pretrain.density, pretrain.mean_span)
    encoder, decoder = (
        sum(leaf.size for leaf in jax.tree.leaves(run.state.params[part]))
        for part in ("encoder", "decoder")
    )
    print(
        f"T5 {pretrain.version}, {encoder:,} parameters in the encoder and {decoder:,} in the "
        f"decoder, vocabulary {task.network.config.vocab_size:,}\n"
        f"{summary['train_rows']:,} rows of {length} to train on, as {shapes[0]} input and "
        f"{shapes[1]} target tokens, {summary['validation_rows']:,} held out; "
        f"{run.total_steps:,} steps of {pretrain.batch_size} rows"
    )
    if resumed:
        print(f"resuming from the checkpoint of step {int(run.state.step)}")


def _finish(run, task, tokenizer, output, mesh):
    """Writes the finished directory; returns the last metrics."""
    gather = jax.jit(lambda params: params, out_shardings=sharding.replicated(mesh))
    params = gather(run.state.params)
    end = processes.share(_last_line(run.workdir) if jax.process_index() == 0 else None)
    if jax.process_index() != 0:
        return end
    with open_directory(output) as scratch:
        ids = tokenizer.pad_token_id, tokenizer.eos_token_id
        save_t5(scratch, task.network.config, jax.device_get(params), *ids)
        tokenizer.save_pretrained(scratch)
        checksums.write(scratch)
    pictures = ending.finish(run, CURVES)
    print(
        f"trained {end['step']} steps in {run.seconds:.0f} s; held out: loss "
        f"{end['validation_loss']:.3f} nats per token, accuracy {end['validation_accuracy']:.3f}\n"
        f"{pictures}"
    )
    _announce_use(output)
    return end


def _last_line(workdir):
    lines = read_metrics(workdir)
    if not lines:
        raise UserError(f"{workdir / METRICS} has no lines: restore the file")
    return lines[-1]


def _announce_use(output):
    if jax.process_index() == 0:
        print(
            f"encoder: {output}; train with it: --config.encoder.kind=t5 "
            f"--config.encoder.path={output} --config.data.tokenizer={output}"
        )
