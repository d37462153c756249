"""An encoder from scratch: a small T5 trained on the config's own data with span corruption (arXiv
1910.10683, section 3.1.4), written as a Hugging Face directory that loads like any other.

A row is corrupted as a whole. Of a pair the condition attends to itself alone, as it does when ELF
encodes it, so the encoder is trained on what it will be used for.
"""

import dataclasses
import functools
import math
import os
import pathlib
import shutil
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from elf_jax.checkpoints.experiment import Checkpoints, abstract
from elf_jax.core import rng, sharding
from elf_jax.core.errors import UserError
from elf_jax.core.files import write_json
from elf_jax.data import spans
from elf_jax.data.dataset import load_dataset
from elf_jax.data.pipeline import make_iterator
from elf_jax.data.tokenizer import add_sentinels, save_tokenizer, vocab_size
from elf_jax.methods.elf.build import compute_dtype
from elf_jax.networks.t5 import T5
from elf_jax.pretrained.t5 import save_t5
from elf_jax.training.optimizer import in_steps, make_optimizer, make_schedule
from elf_jax.training.span_corruption import PretrainState, loss_sums, make_train_step, t5_config

VERSIONS = ("v1.0", "v1.1")
TOKENIZER = "tokenizer"
HISTORY = "history.json"
SIZES = ("width", "depth", "decoder_depth", "heads", "head_width", "hidden")
EVERY = ("log_every", "validate_every", "validation_batches", "checkpoint_every")


@dataclasses.dataclass
class Run:
    """A pretraining run: what is built once and what moves from step to step."""

    config: object
    working: pathlib.Path
    dataset: object
    mesh: object
    network: T5
    corrupt: object  # (fields of a Batch, draws) -> the task's batch, numpy arrays
    total_steps: int
    train_step: object
    eval_step: object
    state: PretrainState
    iterator: object
    checkpoints: Checkpoints
    history: list  # of logged metrics
    seconds: float = 0.0  # of training, over all resumptions


def pretrain_encoder(config, output):
    """Trains a T5 on the config's data, or goes on training it, and writes its directory.

    Args:
      config: whole config; sections pretrain, data and mesh, model.dtype and seed are read.
      output: directory to be made, whole or not at all: config.json, model.safetensors and the
        tokenizer, to which the task's sentinels are appended. Checkpoints, the record of the
        config and the metrics lie beside it in OUTPUT-pretraining.

    Returns:
      Dict of the last metrics, validation_loss (nats a target token) and validation_accuracy
      among them; None if the encoder was there already.

    Raises:
      UserError: bad config or data, another config in OUTPUT-pretraining, a loss not finite.
    """
    output = pathlib.Path(output)
    working = output.with_name(f"{output.name}-pretraining")
    if output.exists() and not (working / config.FILE).is_file():
        raise UserError(f"{str(output)!r} is there already: name another directory, or remove it")
    config.check_same(working, config, _matters)
    if output.exists():
        _announce_use(output)
        return None
    run = prepare(config, working)
    try:
        loop(run)
    finally:
        run.checkpoints.close()
    _write(run, output)
    return run.history[-1]


def _matters(name):
    """Whether a config key has a part in the pretraining."""
    return name == "seed" or name.startswith(("data.", "pretrain."))


def prepare(config, working):
    """Builds a `Run`: checks everything first, writes into `working` only then, resumes if there
    is a checkpoint.
    """
    p = config.pretrain
    _check(p)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(p.batch_size, 1, mesh, "config.pretrain.batch_size")
    *_, span_count = spans.corrupted_shapes(config.data.length, p.density, p.mean_span)
    dataset = load_dataset(config.data, working / TOKENIZER)
    tokenizer = dataset.tokenizer
    sentinels = add_sentinels(tokenizer, span_count)
    ids = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    task = {"sentinels": sentinels, "density": p.density, "mean_span": p.mean_span, **ids}
    network = T5(t5_config(p, vocab_size(tokenizer)), compute_dtype(config.model.dtype))
    optimizer, total = _optimizer(p, len(dataset.train))
    state, shardings = _init_state(config, network, optimizer, mesh)
    step = make_train_step(network, optimizer, ids["pad_id"])
    iterator = make_iterator(
        dataset.train, p.batch_size, config.seed, jax.process_index(), jax.process_count()
    )
    if jax.process_index() == 0:
        config.save(working, config)
        save_tokenizer(tokenizer, working / TOKENIZER)
    run = Run(
        config,
        working,
        dataset,
        mesh,
        network,
        functools.partial(spans.corrupt, **task),
        total,
        jax.jit(step, donate_argnums=0, out_shardings=(shardings, None)),
        jax.jit(functools.partial(loss_sums, network, start_id=ids["pad_id"])),
        state,
        iterator,
        Checkpoints(working, keep=1),
        [],
    )
    _resume(run, shardings)
    _announce(run)
    return run


def _optimizer(pretrain, row_count):
    """(optimiser, total steps)."""

    def steps(duration, name):
        return in_steps(duration, pretrain.batch_size, row_count, f"pretrain.{name}")

    total = steps(pretrain.duration, "duration")
    warmup = steps(pretrain.optimizer.warmup, "optimizer.warmup")
    if total < 1:
        raise UserError("config.pretrain.duration is 0: set one of its steps, epochs, examples")
    schedule = make_schedule(pretrain.optimizer, pretrain.batch_size, warmup, total)
    return make_optimizer(pretrain.optimizer, schedule), total


def _check(pretrain):
    if pretrain.version not in VERSIONS:
        known = ", ".join(VERSIONS)
        raise UserError(f"config.pretrain.version is {pretrain.version!r}; use one of {known}")
    for name in (*SIZES, *EVERY):
        if pretrain[name] < 1:
            raise UserError(f"config.pretrain.{name} is {pretrain[name]}; use 1 or more")


def _init_state(config, network, optimizer, mesh):
    """(PretrainState, its shardings): every device makes its own part."""

    def create(key):
        tokens, ones = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
        params = network.init(key, tokens, ones[:, None] & ones[:, :, None], ones, tokens)
        params = params["params"]
        return PretrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    key = rng.stream(jax.random.key(config.seed), "pretrain")
    shardings = sharding.of_tree(jax.eval_shape(create, key), mesh)
    return jax.jit(create, out_shardings=shardings)(key), shardings


def _resume(run, shardings):
    if run.checkpoints.latest() is None:
        return
    run.state, progress = run.checkpoints.restore(abstract(run.state, shardings), run.iterator)
    run.history, run.seconds = progress["history"], progress["seconds"]
    if progress["data"] != run.dataset.report["fingerprint"]:
        raise UserError(
            f"the data has changed since {str(run.working)!r} was made: restore it, or name "
            "another output directory"
        )


def _announce(run):
    if jax.process_index() != 0:
        return
    p, length, report = run.config.pretrain, run.config.data.length, run.dataset.report
    shapes = spans.corrupted_shapes(length, p.density, p.mean_span)
    encoder, decoder = (
        sum(leaf.size for leaf in jax.tree.leaves(run.state.params[part]))
        for part in ("encoder", "decoder")
    )
    print(
        f"T5 {p.version}, {encoder:,} parameters in the encoder and {decoder:,} in the decoder, "
        f"vocabulary {run.network.config.vocab_size:,}\n"
        f"{report['train_rows']:,} rows of {length} to train on, as {shapes[0]} input and "
        f"{shapes[1]} target tokens, {report['validation_rows']:,} held out; "
        f"{run.total_steps:,} steps of {p.batch_size} rows"
    )
    if run.history:
        print(f"resuming from the checkpoint of step {int(run.state.step)}")


def loop(run):
    """Steps until the end, logging, validating and saving on the way."""
    p, step = run.config.pretrain, int(run.state.step)
    began, pending = time.monotonic() - run.seconds, []
    show = jax.process_index() == 0
    bar = tqdm(
        total=run.total_steps, initial=step, unit="step", dynamic_ncols=True, disable=not show
    )
    while step < run.total_steps:
        batch = _corrupted(run, next(run.iterator), "train", step, p.batch_size)
        run.state, metrics = run.train_step(run.state, batch)
        pending.append(metrics)
        step += 1
        last = step == run.total_steps
        validate, save = (last or not step % p[k] for k in ("validate_every", "checkpoint_every"))
        if not (validate or save or step % p.log_every == 0):
            continue
        values = _means(pending, step)  # waits for the device
        run.seconds, pending = time.monotonic() - began, []
        if validate:
            values.update(validation_losses(run))
        run.history.append({"step": step, "seconds": round(run.seconds, 2), **values})
        if save:
            _save(run)
        shown = {name: f"{x:.3f}" for name, x in values.items() if name != "gradient_norm"}
        bar.set_postfix(shown, refresh=False)
        bar.update(step - bar.n)
    bar.close()


def _corrupted(run, fields, name, step, size):
    """The global batch of this process's rows `fields`, part of `size` rows."""
    local = size // jax.process_count()
    uniforms = spans.draws(run.config.seed, name, step, size, run.config.data.length)
    uniforms = uniforms[jax.process_index() * local :][:local]
    return sharding.put_rows(run.corrupt(fields, uniforms), run.mesh)


def _means(pending, step):
    """Means of the metrics of the last steps.

    Raises:
      UserError: a loss is not finite.
    """
    values = jax.device_get(pending)
    values = {name: float(np.mean([value[name] for value in values])) for name in values[0]}
    if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])):
        raise UserError(
            f"the loss is not finite at or before step {step}; the last good checkpoint is kept: "
            "lower config.pretrain.optimizer.learning_rate or lengthen its warmup"
        )
    return values


def validation_losses(run):
    """Cross-entropy and accuracy on held-out rows, with the same spans every time."""
    rows, shards = run.dataset.validation, sharding.row_shards(run.mesh)
    size = -(-min(run.config.pretrain.batch_size, len(rows)) // shards) * shards
    local = size // jax.process_count()
    part = slice(jax.process_index() * local, (jax.process_index() + 1) * local)
    totals = np.zeros(3)
    for index, (fields, real) in enumerate(rows.batches(size)):
        if index == run.config.pretrain.validation_batches:
            break
        fields = {name: array[part] for name, array in fields.items()}
        batch = _corrupted(run, fields, "validation", index, size)
        real = sharding.put_rows(real[part], run.mesh)
        batch["targets_valid"] = batch["targets_valid"] & real[:, None]
        totals += jax.device_get(run.eval_step(run.state.params, batch))
    loss, right, count = (float(total) for total in totals)
    return {"validation_loss": loss / count, "validation_accuracy": right / count}


def _save(run):
    """A checkpoint, and the metrics so far as a file."""
    progress = {
        "history": run.history,
        "seconds": run.seconds,
        "data": run.dataset.report["fingerprint"],
    }
    run.checkpoints.save(run.state, run.iterator, progress)
    if jax.process_index() == 0:
        write_json(run.working / HISTORY, run.history)


def _write(run, output):
    """The finished directory, whole or not at all."""
    gather = jax.jit(lambda params: params, out_shardings=sharding.replicated(run.mesh))
    params = gather(run.state.params)
    if jax.process_index() != 0:
        return
    tokenizer = run.dataset.tokenizer
    scratch = pathlib.Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}-"))
    try:
        ids = tokenizer.pad_token_id, tokenizer.eos_token_id
        save_t5(scratch, run.network.config, jax.device_get(params), *ids)
        tokenizer.save_pretrained(scratch)
        os.chmod(scratch, 0o755)
        os.replace(scratch, output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    end = run.history[-1]
    print(
        f"trained {end['step']} steps in {run.seconds:.0f} s; held out: loss "
        f"{end['validation_loss']:.3f} nats a token, accuracy {end['validation_accuracy']:.3f}"
    )
    _announce_use(output)


def _announce_use(output):
    if jax.process_index() == 0:
        print(
            f"encoder: {output}; train with it: --config.encoder.kind=t5 "
            f"--config.encoder.path={output} --config.data.tokenizer={output}"
        )
