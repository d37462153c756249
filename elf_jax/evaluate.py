"""A trained model to numbers with their provenance: samples, held-out losses, a table.

Every number is kept with the settings, seed, step and samples that gave it.
"""

import pathlib

import jax
import numpy as np
from tqdm import tqdm

from elf_jax import __version__, rng, sharding
from elf_jax.data.tokenizer import encode
from elf_jax.files import write_json, write_text
from elf_jax.generate import generate_texts
from elf_jax.metrics import text
from elf_jax.train_step import StepSettings, loss_metrics, make_eval_step
from elf_jax.types import Batch

SAMPLES = "samples.txt"
MAX_REAL_ROWS = 10_000  # that samples are compared with, of rows that are no whole texts


def evaluate(trained, dataset, workdir):
    """Samples, scores, prints a table, and writes config.evaluate.output and the samples into the
    workdir.

    Args:
      trained: a `Trained` model. dataset: the `Dataset` that it was trained on.
      workdir: where the results go.

    Returns:
      Dict of numbers, with their provenance under "provenance".
    """
    s, count = trained.config.sample, trained.config.evaluate.num_samples
    rows = None
    if dataset.conditional:
        rows, count = dataset.validation, min(count, len(dataset.validation))
    with tqdm(total=count, desc="sampling", unit="text", dynamic_ncols=True) as bar:
        texts, tokens = generate_texts(trained, count, s.seed, rows, bar.update)
    numbers = score(trained, dataset, texts, tokens)
    numbers.update(validation_losses(trained, dataset))
    numbers["train_seconds"] = trained.progress["train_seconds"]
    numbers["steps"] = trained.step
    numbers["provenance"] = {
        "version": __version__,
        "num_samples": count,
        "checkpoint": trained.source,
        "data": dataset.report,
        "compute_dtype": np.dtype(trained.model.predictor.network.dtype).name,
        "device": jax.devices()[0].device_kind,
        **{name: s[name] for name in s},
    }
    if jax.process_index() == 0:
        workdir = pathlib.Path(workdir)
        write_text(workdir / SAMPLES, "".join(f"{line!r}\n" for line in texts))
        write_json(workdir / trained.config.evaluate.output, numbers)
        print(table(numbers))
        print(f"numbers: {workdir / trained.config.evaluate.output}, samples: {workdir / SAMPLES}")
    return numbers


def score(trained, dataset, texts, tokens):
    """The numbers that the kind of data allows, from samples as texts and as token rows."""
    examples = dataset.validation_examples
    if dataset.conditional or not dataset.train_examples:
        examples = examples[: len(texts)]  # of prepared data each is decoded for this
    real = [example.text for example in examples]
    real_tokens = encode(trained.tokenizer, real)
    length = trained.config.data.length
    if not dataset.whole:
        # Of a stream or of packed documents the rows are compared: they are as long as samples.
        rows = dataset.validation.sample(MAX_REAL_ROWS)
        real_tokens = [row[:n] for row, n in zip(rows.tokens, rows.valid_length, strict=True)]
    numbers = {}
    if dataset.conditional:
        numbers["exact_match"] = text.exact_match(texts, real)
    elif dataset.whole and dataset.train_examples:
        train = [example.text for example in dataset.train_examples]
        numbers.update(text.membership(texts, train, real))
    numbers["distinct"] = text.distinct(texts)
    numbers["entropy"] = text.unigram_entropy(tokens)
    numbers["entropy_real"] = text.unigram_entropy([row[:length] for row in real_tokens])
    return numbers


def validation_losses(trained, dataset):
    """Held-out losses of the weights in `trained`, over at most config.train.validation_batches
    batches.
    """
    settings = step_settings(trained.config, trained.mesh, accumulate=1)
    step = jax.jit(make_eval_step(trained.model.predictor, trained.model.encoder, settings))
    return held_out_losses(
        step, trained.params, trained.model, dataset, trained.config, trained.mesh
    )


def step_settings(config, mesh, accumulate):
    """`StepSettings` of a whole config on a mesh."""
    return StepSettings(
        groups=sharding.row_shards(mesh),
        accumulate=accumulate,
        pad_in_loss=config.data.pad == "eos",
        ema=config.optimizer.ema,
        dropout=config.model.dropout,
        objective=config.objective,
    )


def held_out_losses(step, params, model, dataset, config, mesh):
    """Validation losses with the same draws every time.

    Args:
      step: jitted `make_eval_step`. params: parameters. model: the `Model`.
      dataset: the `Dataset`. config: whole config. mesh: the mesh.

    Returns:
      Dict of validation_loss, validation_denoise_loss, validation_decode_loss,
      validation_decode_accuracy.
    """
    size, shards = config.train.batch_size, sharding.row_shards(mesh)
    size = -(-min(size, len(dataset.validation)) // shards) * shards
    key = rng.stream(jax.random.key(config.seed), "validation")
    totals = None
    for index, (fields, real) in enumerate(dataset.validation.batches(size)):
        if index == config.train.validation_batches:
            break
        batch = sharding.share_rows(Batch(**fields), mesh)
        real = sharding.share_rows(real, mesh)
        sums = step(params, model.encoder.params, batch, jax.random.fold_in(key, index), real)
        totals = sums if totals is None else jax.tree.map(lambda a, b: a + b, totals, sums)
    loss, sums, positions = jax.device_get(totals)
    metrics = loss_metrics(loss / positions, sums, positions, config.objective.decode_fraction)
    return {f"validation_{name}": float(value) for name, value in metrics.items()}


def table(numbers):
    """The numbers as lines of name and value."""
    shown = {name: value for name, value in numbers.items() if name != "provenance"}
    width = max(len(name) for name in shown)
    as_text = {
        name: f"{value:.4f}" if isinstance(value, float) else str(value)
        for name, value in shown.items()
    }
    return "\n".join(f"  {name:<{width}}  {value:>10}" for name, value in as_text.items())
