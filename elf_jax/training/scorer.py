"""A scorer that needs no download: a small GPT-2 trained on the corpus that the config names.

Its Gen. PPL means something beside that of held-out real text under the same scorer, and compares
models of one corpus; it does not compare with numbers under another scorer.

The rows of the data are the training texts: a whole text with its EOS, or a piece of a stream. Of
pairs it learns the targets, which are what is sampled.
"""

import math
import pathlib
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from elf_jax import __version__
from elf_jax.core import rng, sharding
from elf_jax.core.errors import UserError
from elf_jax.core.files import open_directory, write_json
from elf_jax.data.dataset import load_dataset
from elf_jax.data.pipeline import make_iterator
from elf_jax.data.tokenizer import TOKENIZER, vocab_size
from elf_jax.evaluation.scorer import row_nll
from elf_jax.methods.elf.build import compute_dtype
from elf_jax.networks.gpt2 import GPT2, GPT2Config
from elf_jax.pretrained.gpt2 import save_gpt2
from elf_jax.training.optimizer import REFERENCE_BATCH, make_optimizer, make_schedule

DIRECTORY = "scorer"  # in the workdir
REPORT = "training.json"  # in the scorer's directory
VALIDATIONS = 10  # over the training; the best of the parameters are kept


def train_scorer(config, workdir, output=None):
    """Trains a GPT-2 on the config's data and writes it, whole or not at all.

    Args:
      config: whole config; sections data, scorer, mesh and the seed are read, and of the others
        what is said there.
      workdir: its tokenizer is used if there is one.
      output: where the scorer goes, a directory in Hugging Face's format with its tokenizer; None:
        WORKDIR/scorer. Nothing may be there yet.

    Returns:
      Dict of validation_nll (nats a token of held-out rows), validation_perplexity, and how they
      came about; it is kept in the scorer's directory too.

    Raises:
      UserError: bad settings or data, something at `output`, a loss that is not finite.
    """
    workdir = pathlib.Path(workdir)
    output = workdir / DIRECTORY if output is None else pathlib.Path(output)
    if output.exists():
        raise UserError(f"{output} is there already: remove it to train a new scorer in its place")
    mesh = sharding.make_mesh(config.mesh)
    _check(config, mesh)
    dataset = load_dataset(config.data, workdir / TOKENIZER)
    network = _network(config, vocab_size(dataset.tokenizer))
    _announce(config, dataset, network, mesh)
    began = time.monotonic()
    params, best = _train(config, dataset, network, mesh)
    report = {
        **best,
        "validation_perplexity": math.exp(best["validation_nll"]),
        "seconds": round(time.monotonic() - began, 1),
        "version": __version__,
        "device": jax.devices()[0].device_kind,
        "data": dataset.report,
        **{f"scorer.{name}": value for name, value in config.scorer.items()},
    }
    if jax.process_index() == 0:
        with open_directory(output) as scratch:
            save_gpt2(scratch, network.config, params, dataset.tokenizer.eos_token_id)
            dataset.tokenizer.save_pretrained(scratch)
            write_json(scratch / REPORT, report)
        print(
            f"held out: {report['validation_nll']:.4f} nats a token, perplexity "
            f"{report['validation_perplexity']:.2f}, over {report['validation_tokens']:,} tokens"
        )
        print(f"scorer: {output}; to evaluate with it: --config.scorer.path={output}")
    return report


def _check(config, mesh):
    settings = config.scorer
    for name in ("depth", "width", "heads", "steps", "batch_size"):
        if settings[name] < 1:
            raise UserError(f"config.scorer.{name} is {settings[name]}; use 1 or more")
    if settings.width % settings.heads:
        raise UserError(
            f"config.scorer.width={settings.width} does not divide into heads={settings.heads}"
        )
    if not 2 <= _length(config) <= config.data.length:
        raise UserError(
            f"config.scorer.length is {settings.length}; use 2 to config.data.length="
            f"{config.data.length}, or 0 for all of it"
        )
    sharding.check_batch(settings.batch_size, 1, mesh, "config.scorer.batch_size")


def _length(config):
    return config.scorer.length or config.data.length


def _network(config, vocabulary):
    settings = config.scorer
    sizes = GPT2Config(
        vocab_size=vocabulary,
        n_positions=_length(config),
        n_embd=settings.width,
        n_layer=settings.depth,
        n_head=settings.heads,
    )
    return GPT2(sizes, compute_dtype(config.model.dtype))


def _announce(config, dataset, network, mesh):
    if jax.process_index() != 0:
        return
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    print(
        f"scorer of {count:,} parameters, {len(dataset.train):,} rows of {_length(config)} to "
        f"train on, {len(dataset.validation):,} held out, vocabulary "
        f"{network.config.vocab_size:,}, {config.scorer.steps:,} steps of "
        f"{config.scorer.batch_size} rows on {mesh.size} device(s)"
    )


def _train(config, dataset, network, mesh):
    """(the parameters with the lowest validation loss on the host, that loss and its step)."""
    settings = config.scorer
    optimizer = _optimizer(config)
    state, shardings = _init(config, network, optimizer, mesh)
    step = jax.jit(
        _make_step(network, optimizer), donate_argnums=0, out_shardings=(shardings, None)
    )
    sums = jax.jit(lambda params, tokens, lengths: _sums(network, params, tokens, lengths))
    everywhere = jax.jit(lambda tree: tree, out_shardings=sharding.replicated(mesh))
    place = jax.process_index(), jax.process_count()
    iterator = make_iterator(dataset.train, settings.batch_size, config.seed, *place)
    every, best = max(settings.steps // VALIDATIONS, 1), None
    progress = tqdm(
        total=settings.steps, unit="step", dynamic_ncols=True, disable=jax.process_index() != 0
    )
    with progress as bar:
        for number in range(1, settings.steps + 1):
            batch = sharding.put_rows(left_aligned(next(iterator), _length(config)), mesh)
            state, loss = step(state, *batch)
            bar.update()
            if number % every and number != settings.steps:
                continue
            nll, tokens = _validate(config, dataset, mesh, partial(sums, state[0]))
            _check_finite(float(loss), nll, number)
            if best is None or nll < best[1]["validation_nll"]:
                found = {"validation_nll": nll, "validation_tokens": tokens, "best_step": number}
                best = jax.device_get(everywhere(state[0])), found
            bar.set_postfix_str(f"loss {float(loss):.3f}, held out {nll:.3f}")
    return best


def _check_finite(loss, nll, step):
    if not (math.isfinite(loss) and math.isfinite(nll)):
        raise UserError(
            f"the scorer's loss is not finite at step {step}: lower config.scorer.learning_rate"
        )


def _optimizer(config):
    """AdamW with linear warm-up and cosine decay; clip and betas are those of the main job."""
    settings = config.optimizer.copy_and_resolve_references()
    with settings.unlocked():
        settings.name, settings.schedule = "adamw", "cosine"
        settings.learning_rate = config.scorer.learning_rate
        settings.weight_decay = config.scorer.weight_decay
    steps = config.scorer.steps
    warmup = min(config.scorer.warmup_steps, steps)
    # The learning rate is that of this batch, as it is: nothing is scaled.
    schedule = make_schedule(settings, REFERENCE_BATCH, warmup, steps)
    return make_optimizer(settings, schedule)


def _init(config, network, optimizer, mesh):
    """((parameters, optimiser state), their shardings): every device makes its own part."""

    def create(key):
        params = network.init(key, jnp.zeros((1, 2), jnp.int32))["params"]
        return params, optimizer.init(params)

    key = rng.stream(jax.random.key(config.seed), "scorer")
    shardings = sharding.of_tree(jax.eval_shape(create, key), mesh)
    return jax.jit(create, out_shardings=shardings)(key), shardings


def _sums(network, params, tokens, lengths):
    """(summed negative log-likelihood, scored tokens) of rows."""
    nll = row_nll(network, params, tokens, lengths)
    return jnp.sum(nll), jnp.sum(jnp.maximum(lengths - 1, 0))


def _make_step(network, optimizer):
    """The function (state, tokens [B, L], lengths [B]) -> (state, mean loss), to be jitted."""

    def loss(params, tokens, lengths):
        nll, count = _sums(network, params, tokens, lengths)
        return nll / jnp.maximum(count, 1)

    def step(state, tokens, lengths):
        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params, tokens, lengths)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    return step


def _validate(config, dataset, mesh, sums):
    """(mean negative log-likelihood of a token of held-out rows, tokens), over at most
    config.train.validation_batches batches.
    """
    total, count = 0.0, 0
    local = config.scorer.batch_size // jax.process_count()
    part = slice(jax.process_index() * local, (jax.process_index() + 1) * local)
    batches = dataset.validation.batches(config.scorer.batch_size)
    for index, (fields, real) in enumerate(batches):
        if index == config.train.validation_batches:
            break
        tokens, lengths = left_aligned(fields, _length(config))
        lengths = np.where(real, lengths, 0)
        nll, tokens_scored = sums(*sharding.put_rows((tokens[part], lengths[part]), mesh))
        total, count = total + float(nll), count + int(tokens_scored)
    return total / max(count, 1), count


def left_aligned(fields, length):
    """The targets of a batch, each from position 0 on, where the scorer sees a text to judge.

    Args:
      fields: dict of the fields of a `Batch`. length: L'; longer targets are cut.

    Returns:
      (tokens [B, L'] int32, lengths [B] int32, the target's positions of each row, EOS included;
      what follows them is anything).
    """
    start, end = fields["is_cond"].sum(axis=1), fields["is_valid"].sum(axis=1)
    last = fields["tokens"].shape[1] - 1
    index = np.minimum(start[:, None] + np.arange(length), last)
    tokens = np.take_along_axis(fields["tokens"], index, axis=1)
    return tokens.astype(np.int32), np.minimum(end - start, length).astype(np.int32)
