"""A scorer that needs no download: a small GPT-2 trained on the corpus that the config names.

Compare its Gen. PPL of samples only with its Gen. PPL of held-out real text, or of samples of other
models of the same corpus. Numbers of another scorer cannot be compared with it.

The rows of the data are the training texts: a whole text with its EOS, or a piece of a stream. For
pairs, the scorer learns the targets, because a model of pairs generates targets.
"""

import dataclasses
import math
import pathlib

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from elf_jax import __version__
from elf_jax.checkpoints.experiment import Checkpoints
from elf_jax.core import checks, checksums, rng, sharding
from elf_jax.core.config import check_same, followed, is_of_data
from elf_jax.core.errors import UserError
from elf_jax.core.files import open_directory, write_json
from elf_jax.core.types import compute_dtype
from elf_jax.core.workdir import SCORER, SCORER_SUMMARY, SCORER_TRAINING, TOKENIZER
from elf_jax.data.dataset import load_dataset
from elf_jax.data.pipeline import make_iterator
from elf_jax.data.tokenizer import vocab_size
from elf_jax.networks.gpt2 import GPT2, GPT2Config, row_nll
from elf_jax.pretrained.gpt2 import save_gpt2
from elf_jax.training import ending, loop
from elf_jax.training.begin import begin, check_data, hold
from elf_jax.training.optimizer import REFERENCE_BATCH, make_optimizer, make_schedule
from elf_jax.training.state import TrainState, init_state, training_key
from elf_jax.training.step import StepSettings, make_eval_step, make_train_step
from elf_jax.training.validation import sum_over_held_out

ADAM_SCALE = 0.3  # with Muon: the learning rate of embeddings, norms and biases beside its own
VALIDATIONS = 10  # in one training, if the config does not set scorer.validate_every
REMEDY = "lower config.scorer.learning_rate"
CURVES = {"loss": "loss (cross-entropy, nats per token)"}


@flax.struct.dataclass
class ScorerState(TrainState):
    """Attributes:
    best: the parameters with the lowest loss on held-out rows so far.
    """

    best: dict


@flax.struct.dataclass
class Texts:
    """Texts as input of a scorer.

    Attributes:
      tokens: [B, L] int32. Every text begins at position 0; tokens after its end are not used.
      lengths: [B] int32, number of tokens of each text, with its EOS.
    """

    tokens: jax.Array
    lengths: jax.Array


@dataclasses.dataclass(frozen=True)
class NextToken:
    """The loss of the training step, like `Method.loss` and `Method.metrics`.

    Attributes:
      network: the GPT-2.
      groups: number of parts that the rows of a batch are split into over the devices.
    """

    network: GPT2
    groups: int = 1

    def loss(self, params, frozen, batch, counted, ids, context):
        """(negative log-likelihood in nats of all tokens except the first of each text, {})."""
        del frozen, context
        # `counted` leaves out the first token of a text, so it is added. A row without counted
        # positions gets length 0.
        lengths = jnp.sum(counted, axis=1) + jnp.any(counted, axis=1)
        rows = len(ids) // self.groups
        return jnp.sum(row_nll(self.network, params, batch.tokens, lengths, rows)), {}

    def metrics(self, loss, sums, positions):
        """Mean cross-entropy in nats per token, and the number of scored tokens."""
        del sums
        return {"loss": loss, "tokens": positions}


def counted_tokens(batch):
    """[B, L] bool, the scored tokens: all except the first of each text."""
    position = jnp.arange(batch.tokens.shape[1])
    return (position > 0) & (position < batch.lengths[:, None])


def train_scorer(config, workdir, output=None, until=None):
    """Trains a GPT-2 on the config's data, or continues the training, and writes its directory.

    Args:
      config: whole config. The sections data, scorer and mesh, the seed, optimizer.clip, the betas
        of Adam, model.dtype and train.validation_batches are read.
      workdir: its tokenizer is used if there is one. The training has its own workdir in it,
        WORKDIR/scorer-training.
      output: directory to make, in Hugging Face's format, with the tokenizer. It must not exist,
        and appears only when it is complete. None: WORKDIR/scorer.
      until: step to stop after, before the end of the training. None: train to the end.

    Returns:
      Dict of validation_nll (nats per token of held-out rows), validation_perplexity, and how the
      scorer was trained. The scorer's directory has it as a file too. None if the training was
      stopped.

    Raises:
      UserError: bad values or data, `output` exists, a loss that is not finite.
    """
    checks.check(config)
    workdir = pathlib.Path(workdir)
    output = workdir / SCORER if output is None else pathlib.Path(output)
    if output.exists():
        raise UserError(
            f"{output} is there already: remove it and {workdir / SCORER_TRAINING} to train a new "
            "scorer in its place"
        )
    own = workdir / SCORER_TRAINING
    with hold(own) as is_lost:
        return _train(config, workdir, own, output, until, is_lost)


def _train(config, workdir, own, output, until, is_lost):
    """`train_scorer` in its own workdir, which this process holds."""
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(config.scorer.batch_size, 1, mesh, "config.scorer.batch_size")
    config = followed(own, config)
    _check_same(own, config)
    tokenizer = workdir / TOKENIZER
    dataset = load_dataset(config.data, tokenizer if tokenizer.is_dir() else own / TOKENIZER)
    check_data(workdir, dataset.summary)
    check_data(own, dataset.summary)
    sizes = GPT2Config(
        vocab_size=vocab_size(dataset.tokenizer),
        n_positions=_length(config),
        n_embd=config.scorer.width,
        n_layer=config.scorer.depth,
        n_head=config.scorer.heads,
    )
    task = NextToken(GPT2(sizes, compute_dtype(config.model.dtype)), sharding.row_shards(mesh))
    run = _make_run(config, own, dataset, task, mesh)
    run.is_lost = is_lost
    if not (loop.carry_out(run, until) and until is None):
        return None
    return _finish(config, run, dataset, task, output, mesh)


def _check_same(workdir, config):
    """Refuses other settings of the scorer's training in its workdir. Settings of scoring, and how
    often the training logs, validates and saves, may change.
    """

    def matters(name):
        return name == "seed" or is_of_data(name)

    changed = check_same(workdir, config, matters)
    free = ("path", "dtype", "score_batch_size", "log_every", "validate_every", "checkpoint_every")
    refused = [
        f"{name} ({before!r} there, {now!r} now)"
        for name, (before, now) in changed.items()
        if name.startswith("scorer.") and name.removeprefix("scorer.") not in free
    ]
    if refused:
        raise UserError(
            f"the scorer in {str(workdir)!r} was begun with another config; it differs in "
            f"{', '.join(refused)}: use the same values, or remove that directory"
        )


def _length(config):
    return config.scorer.length or config.data.length


def _make_run(config, workdir, dataset, task, mesh):
    """The `Run`, at its newest checkpoint if there is one. Everything is built before anything is
    written into the workdir.
    """
    settings, place = config.scorer, (jax.process_index(), jax.process_count())
    optimizer, schedule = _make_optimizer(config)

    def create(key):
        params = task.network.init(key, jnp.zeros((1, 2), jnp.int32))["params"]
        best = jax.tree.map(jnp.copy, params)
        return ScorerState.create(params, optimizer, with_ema=False, best=best)

    state, shardings = init_state(create, rng.stream(jax.random.key(config.seed), "scorer"), mesh)
    step = make_train_step(task, optimizer, schedule, StepSettings(counted_tokens))
    step = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
    step_key = training_key(config.seed, mesh)
    every = settings.validate_every or max(settings.steps // VALIDATIONS, 1)
    run = loop.Run(
        workdir=workdir,
        total_steps=settings.steps,
        every=loop.Every(settings.log_every, every, settings.checkpoint_every),
        place=lambda fields, number: sharding.put_rows(left_aligned(fields, _length(config)), mesh),
        train_step=lambda state, batch: step(state, {}, batch, step_key),
        validate=_make_validation(config, task, dataset.validation, mesh),
        state=state,
        iterator=make_iterator(dataset.train, settings.batch_size, config.seed, *place),
        checkpoints=Checkpoints(workdir, keep=1),
        shown={"loss": "loss", "validation_loss": "held out"},
        remedy=REMEDY,
        after_validation=_keep_best,
    )
    resumed = loop.resume(run, shardings)
    begin(workdir, config, dataset)
    if jax.process_index() == 0:
        _announce(config, run, dataset, resumed, mesh)
    return run


def _keep_best(run, values):
    """Keeps the parameters if their loss on held-out rows is the lowest so far."""
    if not math.isfinite(values["validation_loss"]):
        step = int(run.state.step)
        raise UserError(f"the held-out loss is not finite at step {step}: {run.remedy}")
    if values["validation_loss"] < run.kept.get("validation_nll", math.inf):
        # A copy, because the next step reuses the memory of the parameters.
        run.state = run.state.replace(best=jax.tree.map(jnp.copy, run.state.params))
        run.kept = {
            "validation_nll": values["validation_loss"],
            "validation_tokens": int(values["validation_tokens"]),
            "best_step": int(run.state.step),
        }


def _make_optimizer(config):
    """(Muon or AdamW with linear warm-up and cosine decay, learning rate by step)."""
    settings = config.optimizer.copy_and_resolve_references()
    with settings.unlocked():
        settings.name, settings.schedule = config.scorer.optimizer, "cosine"
        settings.adam_scale, settings.adam_kernels = ADAM_SCALE, ""
        settings.learning_rate = config.scorer.learning_rate
        settings.weight_decay = config.scorer.weight_decay
    steps = config.scorer.steps
    warmup = min(config.scorer.warmup_steps, steps)
    # config.scorer.learning_rate is for config.scorer.batch_size. With REFERENCE_BATCH as the batch
    # size, `make_schedule` does not scale it.
    schedule = make_schedule(settings, REFERENCE_BATCH, warmup, steps)
    return make_optimizer(settings, schedule), schedule


def _make_validation(config, task, rows, mesh):
    """A function of the state: loss on held-out rows, and the number of scored tokens."""
    eval_step, key = jax.jit(make_eval_step(task, counted_tokens)), training_key(config.seed, mesh)

    def validate(state):
        def sums(fields, real, index):
            del index
            texts = sharding.share_rows(left_aligned(fields, _length(config)), mesh)
            return eval_step(state.params, {}, texts, key, real)

        sizes = config.scorer.batch_size, config.train.validation_batches
        return sum_over_held_out(task, sums, rows, *sizes, mesh)

    return validate


def _announce(config, run, dataset, resumed, mesh):
    count = sum(leaf.size for leaf in jax.tree.leaves(run.state.params))
    print(
        f"scorer of {count:,} parameters, {len(dataset.train):,} rows of {_length(config)} to "
        f"train on, {len(dataset.validation):,} held out, vocabulary "
        f"{vocab_size(dataset.tokenizer):,}, {config.scorer.steps:,} steps of "
        f"{config.scorer.batch_size} rows on {mesh.size} device(s)"
    )
    if resumed:
        print(f"resuming from the checkpoint of step {int(run.state.step)}")


def _finish(config, run, dataset, task, output, mesh):
    """Writes the scorer; returns its summary."""
    gather = jax.jit(lambda params: params, out_shardings=sharding.replicated(mesh))
    params = jax.device_get(gather(run.state.best))
    summary = {
        **run.kept,
        "validation_perplexity": math.exp(run.kept["validation_nll"]),
        "seconds": round(run.seconds, 1),
        "version": __version__,
        "device": jax.devices()[0].device_kind,
        "data": dataset.summary,
        **{f"scorer.{name}": value for name, value in config.scorer.items()},
    }
    if jax.process_index() == 0:
        with open_directory(output) as scratch:
            save_gpt2(scratch, task.network.config, params, dataset.tokenizer.eos_token_id)
            dataset.tokenizer.save_pretrained(scratch)
            write_json(scratch / SCORER_SUMMARY, summary)
            checksums.write(scratch)
        pictures = ending.finish(run, CURVES)
        print(
            f"held out: {summary['validation_nll']:.4f} nats per token, perplexity "
            f"{summary['validation_perplexity']:.2f}, over {summary['validation_tokens']:,} tokens"
        )
        print(f"{pictures}\nscorer: {output}; to evaluate with it: --config.scorer.path={output}")
    return summary


def left_aligned(fields, length):
    """The targets of a batch, each moved to position 0, because a scorer reads a text from there.

    Args:
      fields: dict of the fields of a `Batch`. length: L'; longer targets are cut.

    Returns:
      `Texts` of tokens [B, L'].
    """
    is_text = fields["is_valid"] & ~fields["is_cond"]
    start = fields["is_cond"].sum(axis=1)
    last = fields["tokens"].shape[1] - 1
    index = np.minimum(start[:, None] + np.arange(length), last)
    tokens = np.take_along_axis(fields["tokens"], index, axis=1)
    lengths = np.minimum(is_text.sum(axis=1), length)
    return Texts(tokens.astype(np.int32), lengths.astype(np.int32))
