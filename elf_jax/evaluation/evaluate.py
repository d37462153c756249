"""Evaluates a trained model: samples by the config's protocols with several seeds, and scores them.

Every number is a record in WORKDIR/evaluation.jsonl, with the settings, seed, step and samples that
it was computed from. A number that is there already is neither sampled nor scored again.
docs/evaluation.md says what each number means.
"""

import pathlib
from functools import partial

import jax
import numpy as np

from elf_jax import __version__
from elf_jax.core.averaging import warn_of_first_weights
from elf_jax.core.checks import resolve_infill, resolve_metrics
from elf_jax.core.files import write_json, write_text
from elf_jax.core.workdir import RECORDS, SAMPLES, SAMPLES_TEXT
from elf_jax.evaluation import tables
from elf_jax.evaluation.hidden import hide
from elf_jax.evaluation.kept_samples import KeptSamples
from elf_jax.evaluation.metric_set import MetricSet
from elf_jax.evaluation.metrics.bootstrap import STATEMENT
from elf_jax.evaluation.pairs import held_out_pairs
from elf_jax.evaluation.protocols import effective, protocols_of
from elf_jax.evaluation.records import Records, environment, now
from elf_jax.evaluation.scorer import find_scorer
from elf_jax.training.validation import held_out_losses, jit_eval_step

FROM_THE_LEFT = "it sees only what is before a gap, not what comes after"


class Evaluation:
    """The numbers of a trained model. Each is computed once and kept in a file of records.

    All processes must call the methods together, and all get the same numbers.

    Args:
      trained: a `TrainedModel`. dataset: its `Dataset`; the held-out part is enough.
      workdir: where samples and records are kept.
      num_samples: texts of every protocol and seed; 0 (pairs only): all held-out pairs.
      scorer: directory or name that the user asked for, or None.
      infill: names of what is hidden for infilling, see `checks.resolve_infill`; "": nothing.

    Attributes:
      count: texts of every protocol and seed. notes: lines for the user about what is missing.
      hidden: list of the `Hidden` held-out texts, of at most `num_samples` rows each.

    Raises:
      UserError: the scorer does not load.
    """

    def __init__(self, trained, dataset, workdir, num_samples, scorer=None, infill=""):
        config, self.notes = trained.config, []
        warn_of_first_weights(config, trained.step)
        self.trained, self.dataset = trained, dataset
        self.kept = KeptSamples(trained, dataset, workdir)
        self.count = self.kept.count(num_samples)
        self.records = Records(pathlib.Path(workdir) / RECORDS)
        metrics = resolve_metrics(config.evaluate.metrics, dataset.conditional)
        found, pairs = None, None
        if "gen_ppl" in metrics:
            found, note = find_scorer(config.scorer, workdir, trained.mesh, scorer)
            self.notes += [note] if note else []
        if dataset.conditional:
            pairs = held_out_pairs(trained, dataset, self.count)
        elif dataset.whole and dataset.train_examples is None:
            self.notes.append(
                "no valid, no held_out: these metrics need the training text, which was not read"
            )
        self.metrics = MetricSet(trained, dataset, metrics, found, pairs)
        about = dataset.validation, num_samples, trained.tokenizer
        self.hidden = [hide(name, *about) for name in resolve_infill(infill)]

    def score(self, protocol, seed):
        """(numbers, signatures, `Samples`) of a protocol with a seed."""
        pairs = self.metrics.pairs
        rows = None if pairs is None else list(zip(pairs.sources, pairs.references, strict=True))
        made = self.kept.get(protocol, seed, self.count, rows)
        about = {**made.provenance, "samples": made.file}

        def compute():
            return *self.metrics.of_samples(made), self._provenance(protocol.name, seed, about)

        identity = {"samples": made.made_with, "data": self._data(), **self.metrics.identity()}
        return *self.records.once(identity, compute), made

    def real(self):
        """The numbers of held-out text."""

        def compute():
            numbers, count = self.metrics.of_real_text(self.count)
            return numbers, {}, self._provenance(tables.REAL, None, {"n": count})

        identity = {"real": self.count, "data": self._data(), **self.metrics.identity()}
        return self.records.once(identity, compute)[0]

    def fill(self, protocol, seed):
        """The numbers of the infilling benchmark with a protocol and a seed; empty without it."""
        numbers = {}
        for hidden in self.hidden:
            made = self.kept.fill(protocol, seed, hidden)
            about = {**made.provenance, "samples": made.file}
            compute = partial(self._fill, hidden, made, protocol.name, seed, about)
            identity = {"infill": made.made_with, "scorer": self.metrics.scorer_identity()}
            numbers |= self.records.once(identity, compute)[0]
        return numbers

    def _fill(self, hidden, made, protocol, seed, about):
        numbers, signatures = self.metrics.of_filled(hidden, made)
        return numbers, signatures, self._provenance(protocol, seed, about)

    def real_fill(self):
        """The numbers of what is hidden itself, see `MetricSet.of_hidden`."""
        numbers = {}
        for hidden in self.hidden:
            about = {"infill": hidden.name, "hidden": hidden.fingerprint, "n": len(hidden)}
            compute = partial(self._real_fill, hidden, about)
            identity = {"real": about, "data": self._data(), **self.metrics.scorer_identity()}
            numbers |= self.records.once(identity, compute)[0]
        return numbers

    def _real_fill(self, hidden, about):
        return self.metrics.of_hidden(hidden), {}, self._provenance(tables.REAL, None, about)

    def losses(self):
        """The held-out losses, see `held_out_losses`."""
        config = self.trained.config
        about = {
            "step": self.trained.step,
            "weights": config.sample.weights,
            "weights_fingerprint": self.kept.weights,
            "seed": config.seed,
            "n": min(
                config.train.batch_size * config.train.validation_batches,
                len(self.dataset.validation),
            ),
        }

        def compute():
            losses = held_out_losses_of(self.trained, self.dataset)
            origin = {"checkpoint": self.trained.origin, **about, **environment()}
            return losses, {}, self._provenance(None, config.seed, origin)

        identity = {"losses": self.trained.method.loss_settings(), "data": self._data(), **about}
        return self.records.once(identity, compute)[0]

    def _data(self):
        return self.dataset.summary["fingerprint"]

    def _provenance(self, protocol, seed, about):
        return {
            "protocol": protocol,
            "seed": seed,
            **about,
            **self.metrics.provenance(),
            "split": split_name(self.trained.config.data),
            "data": self._data(),
            "date": now(),
            "scored_with": environment(),
        }

    def describe(self):
        """Lines for the user: how the numbers were computed, and what is missing."""
        metrics, lines = self.metrics, []
        if metrics.scorer is not None:
            about = metrics.scorer.provenance()
            lines.append(
                f"scorer: {about['scorer']} ({about['scorer_revision']}), "
                f"{about['scorer_dtype']}, at most {about['scorer_length']} tokens a text"
            )
        if metrics.pairs is not None:
            lines.append(f"{self.count} held-out pairs: {metrics.pairs.statement}")
            if {"bleu", "rouge"} & set(metrics.names):
                lines.append(f"in brackets: {STATEMENT}")
        lines += [hidden.statement for hidden in self.hidden]
        method = self.trained.method
        if self.hidden and not method.fills_anywhere:
            lines.append(f"infill by {method.name}: {FROM_THE_LEFT}")
        return lines + self.notes


def split_name(data_settings):
    """The held-out text in words: its file, its split, or how it was split off."""
    if data_settings.validation_split or data_settings.validation_path:
        parts = data_settings.validation_path, data_settings.validation_split
        return " ".join(part for part in parts if part)
    return f"{data_settings.validation_fraction:g} of the data, split off by a hash"


def evaluate(trained, dataset, workdir, scorer=None):
    """Samples by each of the config's protocols with each seed, scores the samples, prints a table.

    In the workdir it writes evaluation.jsonl, a record for each number; samples/, the samples of
    each protocol and seed; samples.txt, those of the first protocol and seed; and
    config.evaluate.output, a summary with the first protocol's means at its top. After an
    interruption the same call continues.

    Args:
      trained: a `TrainedModel`. dataset: its `Dataset`; the held-out part is enough.
      workdir: where the results go.
      scorer: directory or hub name of the scorer; None: see `find_scorer`.

    Returns:
      Dict of what is in the summary.
    """
    workdir, config = pathlib.Path(workdir), trained.config
    protocols = protocols_of(config)
    settings = config.evaluate
    run = Evaluation(trained, dataset, workdir, settings.num_samples, scorer, settings.infill)
    seeds = range(config.sample.seed, config.sample.seed + config.evaluate.seeds)
    summaries, signatures, first = {}, {}, None
    for protocol in protocols:
        results = [run.score(protocol, seed) for seed in seeds]
        filled = [run.fill(protocol, seed) for seed in seeds]
        first = results[0][2] if first is None else first
        summaries[protocol.name] = tables.summarise(
            [r[0] | f for r, f in zip(results, filled, strict=True)]
        )
        signatures.update(results[0][1])
    real, losses = run.real() | run.real_fill(), run.losses()
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
        write_text(workdir / SAMPLES_TEXT, "".join(f"{line!r}\n" for line in first.texts))
        write_json(workdir / config.evaluate.output, numbers)
        _show(run, numbers, workdir)
    return numbers


def _provenance(run, protocol, seeds):
    """The provenance of the numbers at the top of the summary."""
    trained = run.trained
    return {
        "version": __version__,
        "protocol": protocol.name,
        "num_samples": run.count,
        "seeds": seeds,
        "checkpoint": trained.origin,
        "data": run.dataset.summary,
        "compute_dtype": np.dtype(trained.method.dtype).name,
        "device": jax.devices()[0].device_kind,
        **effective(trained.method, protocol.sample),
        "weights": protocol.sample.weights,
        **run.metrics.provenance(),
    }


def _show(run, numbers, workdir):
    """Prints the table and how its numbers were computed."""
    summaries = numbers["protocols"]
    seeds = len(numbers["provenance"]["seeds"])
    plain = {name: value for name, value in numbers.items() if not isinstance(value, dict)}
    if len(summaries) == seeds == 1 and run.metrics.scorer is None:
        print(tables.table(plain))
    else:
        apart = {name for one in summaries.values() for name in one}
        apart |= {f"{name}_real" for name in apart}
        print(tables.grid(summaries, numbers["real"]))
        print(tables.table({key: value for key, value in plain.items() if key not in apart}))
        print(f"{run.count} texts a seed, {seeds} seed(s); ± is the standard error over seeds")
        print(f"records: {workdir / RECORDS}, all samples: {workdir / SAMPLES}")
    for metric, signature in numbers["signatures"].items():
        print(f"  {metric}: {signature}")
    for line in run.describe():
        print(line)
    output = workdir / run.trained.config.evaluate.output
    print(f"numbers: {output}, samples: {workdir / SAMPLES_TEXT}")


def held_out_losses_of(trained, dataset):
    """Losses of a `TrainedModel` on the held-out rows of its `Dataset`, see `held_out_losses`."""
    method, config = trained.method, trained.config
    return held_out_losses(
        method,
        jit_eval_step(method, config),
        trained.params,
        trained.frozen,
        dataset.validation,
        config,
        trained.mesh,
    )
