"""A trained model to numbers with their provenance: the config's protocols over several seeds.

Every number is a record in WORKDIR/evaluation.jsonl with the settings, seed, step and samples that
gave it; what is there already is neither sampled nor scored again. docs/evaluation.md says what
each number means.
"""

import pathlib

import jax
import numpy as np

from elf_jax import __version__
from elf_jax.core import rng, sharding
from elf_jax.core.errors import UserError
from elf_jax.core.files import write_json, write_text
from elf_jax.core.types import Batch
from elf_jax.evaluation import tables
from elf_jax.evaluation.kept_samples import DIRECTORY, Sampling, check_count, now, parse_protocols
from elf_jax.evaluation.measure import Judge, find_scorer, held_out_pairs, resolve_metrics
from elf_jax.evaluation.records import Records, surroundings
from elf_jax.training.step import StepSettings, loss_metrics, make_eval_step

RECORDS = "evaluation.jsonl"  # in the workdir
SAMPLES = "samples.txt"  # the first protocol's with the first seed, to be read


class Evaluation:
    """Numbers of a trained model, each computed once and kept in a file of records.

    All processes call together, and all are given the same.

    Args:
      trained: a `Trained` model. dataset: the `Dataset` that it was trained on.
      workdir: where samples and records are kept. records: name of their file.
      num_samples: texts of every protocol and seed; 0: of pairs all that are held out.
      scorer: directory or name that the user asked for, or None.

    Attributes:
      count: texts of every protocol and seed. note: what is missing, for the user, or "".

    Raises:
      UserError: metrics or a number of samples that cannot be, a scorer that does not work.
    """

    def __init__(self, trained, dataset, workdir, records, num_samples, scorer=None):
        config, self.note = trained.config, ""
        self.trained, self.dataset = trained, dataset
        self.sampling = Sampling(trained, dataset, workdir)
        self.count = self.sampling.count(num_samples)
        self.records = Records(pathlib.Path(workdir) / records)
        metrics = resolve_metrics(config.evaluate.metrics, dataset.conditional)
        found, pairs = None, None
        if "gen_ppl" in metrics:
            found, self.note = find_scorer(config.scorer, workdir, trained.mesh, scorer)
        if dataset.conditional:
            pairs = held_out_pairs(trained, dataset, self.count)
        self.judge = Judge(trained, dataset, metrics, found, pairs)

    def samples(self, protocol, seed):
        """(numbers, signatures, `Samples`) of a protocol with a seed."""
        pairs = self.judge.pairs
        rows = None if pairs is None else list(zip(pairs.sources, pairs.references, strict=True))
        made = self.sampling.samples(protocol, seed, self.count, rows)
        about = {**made.provenance, "samples": made.file}

        def score():
            return *self.judge.samples(made), self._provenance(protocol.name, seed, about)

        identity = {"samples": made.made_with, "data": self._data(), **self.judge.identity()}
        return *self.records.once(identity, score), made

    def real(self):
        """Numbers of held-out text."""

        def score():
            numbers, count = self.judge.real(self.count)
            return numbers, {}, self._provenance(tables.REAL, None, {"n": count})

        identity = {"real": self.count, "data": self._data(), **self.judge.identity()}
        return self.records.once(identity, score)[0]

    def losses(self):
        """Held-out losses of the weights, see `held_out_losses`."""
        config = self.trained.config
        about = {
            "step": self.trained.step,
            "weights": config.sample.weights,
            "weights_fingerprint": self.sampling.weights,
            "seed": config.seed,
            "n": min(
                config.train.batch_size * config.train.validation_batches,
                len(self.dataset.validation),
            ),
        }

        def compute():
            losses = validation_losses(self.trained, self.dataset)
            origin = {"checkpoint": self.trained.source, **about, **surroundings()}
            return losses, {}, self._provenance(None, config.seed, origin)

        identity = {"losses": config.objective.to_dict(), "data": self._data(), **about}
        return self.records.once(identity, compute)[0]

    def _data(self):
        return self.dataset.report["fingerprint"]

    def _provenance(self, protocol, seed, about):
        return {
            "protocol": protocol,
            "seed": seed,
            **about,
            **self.judge.provenance(),
            "split": split_name(self.trained.config.data),
            "data": self._data(),
            "date": now(),
            "scored_with": surroundings(),
        }

    def describe(self):
        """Lines for the user: how the numbers came about, and what is missing."""
        judge, lines = self.judge, []
        if judge.scorer is not None:
            about = judge.scorer.provenance()
            lines.append(
                f"scorer: {about['scorer']} ({about['scorer_revision']}), "
                f"{about['scorer_dtype']}, at most {about['scorer_length']} tokens a text"
            )
        if judge.pairs is not None:
            lines.append(f"{self.count} held-out pairs: {judge.pairs.statement}")
        return lines + ([self.note] if self.note else [])


def split_name(data_settings):
    """What the held-out text is, in words."""
    if data_settings.validation_split or data_settings.validation_path:
        parts = data_settings.validation_path, data_settings.validation_split
        return " ".join(part for part in parts if part)
    return f"{data_settings.validation_fraction:g} of the data, split off by a hash"


def evaluate(trained, dataset, workdir, scorer=None):
    """Samples by each of the config's protocols with each seed, scores, prints a table.

    What is left in the workdir: evaluation.jsonl, a record for each number; samples/, the samples
    of each protocol and seed; config.evaluate.output, a summary, with the first protocol's means at
    its top. Interrupted, the same call goes on.

    Args:
      trained: a `Trained` model. dataset: the `Dataset` that it was trained on.
      workdir: where the results go.
      scorer: directory or hub name of the scorer, in place of that of the config; None: that.

    Returns:
      Dict of what is in the summary.
    """
    workdir, config = pathlib.Path(workdir), trained.config
    protocols = parse_protocols(config.evaluate.protocols, config.sample)
    if config.evaluate.seeds < 1:
        raise UserError(f"config.evaluate.seeds is {config.evaluate.seeds}; use 1 or more")
    count = config.evaluate.num_samples
    check_count(count, dataset.conditional, "config.evaluate.num_samples")
    run = Evaluation(trained, dataset, workdir, RECORDS, count, scorer)
    seeds = range(config.sample.seed, config.sample.seed + config.evaluate.seeds)
    summaries, signatures, first = {}, {}, None
    for protocol in protocols:
        results = [run.samples(protocol, seed) for seed in seeds]
        first = results[0][2] if first is None else first
        summaries[protocol.name] = tables.summarise([numbers for numbers, _, _ in results])
        signatures.update(results[0][1])
    real, losses = run.real(), run.losses()
    numbers = {
        **tables.flat(summaries[protocols[0].name], real),
        **losses,
        "train_seconds": trained.progress["train_seconds"],
        "steps": trained.step,
        "signatures": signatures,
        "protocols": summaries,
        "real": real,
        "provenance": _provenance(run, protocols[0], list(seeds)),
    }
    if jax.process_index() == 0:
        write_text(workdir / SAMPLES, "".join(f"{line!r}\n" for line in first.texts))
        write_json(workdir / config.evaluate.output, numbers)
        _show(run, numbers, workdir)
    return numbers


def _provenance(run, protocol, seeds):
    """Of the numbers at the top of the summary."""
    trained = run.trained
    return {
        "version": __version__,
        "protocol": protocol.name,
        "num_samples": run.count,
        "seeds": seeds,
        "checkpoint": trained.source,
        "data": run.dataset.report,
        "compute_dtype": np.dtype(trained.model.predictor.network.dtype).name,
        "device": jax.devices()[0].device_kind,
        **protocol.settings(),
        "weights": protocol.sample.weights,
        **run.judge.provenance(),
    }


def _show(run, numbers, workdir):
    """Prints the table, and how its numbers came about."""
    summaries = numbers["protocols"]
    seeds = len(numbers["provenance"]["seeds"])
    plain = {name: value for name, value in numbers.items() if not isinstance(value, dict)}
    if len(summaries) == seeds == 1 and run.judge.scorer is None:
        print(tables.table(plain))
    else:
        apart = {name for one in summaries.values() for name in one}
        apart |= {f"{name}_real" for name in apart}
        print(tables.grid(summaries, numbers["real"]))
        print(tables.table({key: value for key, value in plain.items() if key not in apart}))
        print(f"{run.count} texts a seed, {seeds} seed(s); ± is the standard error over seeds")
        print(f"records: {workdir / RECORDS}, all samples: {workdir / DIRECTORY}")
    for metric, signature in numbers["signatures"].items():
        print(f"  {metric}: {signature}")
    for line in run.describe():
        print(line)
    output = workdir / run.trained.config.evaluate.output
    print(f"numbers: {output}, samples: {workdir / SAMPLES}")


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
