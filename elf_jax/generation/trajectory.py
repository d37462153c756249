"""Trajectories: what the text of a sample would be if sampling stopped after each of its steps.

The texts are made by the functions that make samples without a watcher (`generate`, `answers`,
`fill`, `rewrite`), in the same batches and with the same random draws. So the last state of each
trajectory is the sample.

    for trajectory in texts(trained, count=4, seed=0): ...

With `tell`, a function, the trajectories of a batch are told again after each state. To be told
while the sampler runs, give the `run` of `live.live_run`.
"""

import collections
import dataclasses
import itertools

import numpy as np

from elf_jax.core.averaging import warn_of_first_weights
from elf_jax.generation import answers as answering
from elf_jax.generation import fill as filling
from elf_jax.generation import rewrite as rewriting
from elf_jax.generation.generate import batch_rows, stream, take
from elf_jax.generation.lines import made
from elf_jax.generation.pieces import FilledTemplate
from elf_jax.generation.states import Batches, Row, State, Trajectory, recorded_rewriting
from elf_jax.generation.templates import parse


@dataclasses.dataclass(frozen=True)
class Watched:
    """What a page shows of a model.

    Attributes:
      name: of the model. method: its name. settings: {short name: value} of the sampler.
    """

    name: str
    method: str
    settings: dict
    trajectories: list[Trajectory]


def watched(trained, name, trajectories, **settings):
    """The `Watched` of trajectories of a `TrainedModel`. settings: further ones to show."""
    method, sample = trained.method, trained.config.sample
    shown = {method.settings[key]: value for key, value in method.effective(sample).items()}
    shown |= settings | {"seed": sample.seed}
    return Watched(name, method.name, shown, list(trajectories))


def texts(trained, count, seed, dataset=None, run=None, tell=None):
    """Yields the `Trajectory`s of the samples of `generate.generate_texts`.

    Args:
      trained: a `TrainedModel`. count: of samples. seed: of all randomness.
      dataset: for a model of pairs, the `Dataset` whose first held-out sources are answered.
      run: a `states.recorded_run`, or a `live.live_run`, so that several calls compile once; None:
        a new `recorded_run`.
      tell: called with the list of trajectories of the batch after each of its states; None:
        nobody asks.
    """
    warn_of_first_weights(trained.config, trained.step)
    numbers = iter(range(count))

    def rows(size, is_cond):
        return [
            Row.of_text(
                batches.splitter,
                batches.length,
                None if is_cond is None else is_cond[row],
                sample=number,
                **_pair(dataset, number),
            )
            for row, number in enumerate(itertools.islice(numbers, size))
        ]

    batches, size = Batches(trained, rows, run, tell), batch_rows(trained, count)
    starts = range(0, count, size)
    conditions = ({} if dataset is None else take(dataset.validation, at, size) for at in starts)
    for _ in stream(trained, conditions, size, seed, batches):
        yield from batches.made()


def _pair(dataset, number):
    """Source and reference of a held-out row."""
    if dataset is None:
        return {}
    example = dataset.validation_examples[number]
    return {"source": example.source, "reference": example.text}


def answers(trained, sources, seed, counts=None, run=None, tell=None):
    """Yields the `Trajectory`s of the targets of `answers.translate`. An empty source has an empty
    target.

    Args:
      sources: iterable of str. counts: `answers.Counts`; None: nobody asks.
      The other arguments are as for `texts`.

    Raises:
      UserError: the model takes no sources.
    """
    read, copies = itertools.tee(sources)
    numbered = enumerate(copies)

    def rows(size, is_cond):
        return [
            Row.of_text(
                batches.splitter,
                batches.length,
                is_cond[row] | (not source.strip()),
                sample=number,
                source=source,
            )
            for row, (number, source) in enumerate(itertools.islice(numbered, size))
        ]

    batches = Batches(trained, rows, run, tell)
    counts = answering.Counts() if counts is None else counts
    for _ in answering.translate(trained, read, seed, counts, batches):
        yield from batches.made()


def fills(trained, templates, seed, counts=None, samples=1, run=None, tell=None):
    """Yields the `Trajectory`s of the samples of `fill.fill`. A template without a gap has one
    state, which needs no model.

    Args:
      templates: iterable of (where it is from, text). counts: `fill.Counts`; None: nobody asks.
      samples: how many for each template. The other arguments are as for `texts`.

    Raises:
      UserError: as `fill.fill`.
    """
    waiting = collections.deque()
    filler = filling.Filler.of(trained, filling.Counts() if counts is None else counts)

    def rows(size, is_cond):
        return [waiting.popleft() for _ in range(min(size, len(waiting)))]

    def watched_job(job, text):
        about = {"sample": job.number, "template": text}
        if job.fields is None:
            trajectory = _without_gaps(filler, batches.splitter, about)
            return dataclasses.replace(job, record=lambda row: trajectory)
        waiting.append(_fill_row(filler, batches.splitter, about))
        return dataclasses.replace(job, record=lambda row: None)

    batches = Batches(trained, rows, run, tell)
    jobs = (
        watched_job(job, text)
        for place, (where, text) in enumerate(templates)
        for job in filler.jobs(place, where, text, samples)
    )
    yield from _with_made(made(trained, jobs, seed, batches), batches)


def rewrites(trained, lines, strength, seed, counts=None, samples=1, run=None, tell=None):
    """Yields the `Trajectory`s of the texts of `rewrite.rewrite`; each source is the text that was
    rewritten. An empty text has one state, which needs no model.

    Args:
      lines: iterable of (where it is from, text). strength: from 0 to 1.
      counts: `rewrite.Counts`; None: nobody asks. samples: how many for each text.
      run: a `states.recorded_rewriting`, or the `live.live_run` of a `live.jit_live_rewriter`, so
        that several calls, also with other strengths, compile once; None: a new
        `recorded_rewriting`.
      The other arguments are as for `texts`.

    Raises:
      UserError: as `rewrite.rewrite`.
    """
    waiting = collections.deque()
    run = recorded_rewriting(trained) if run is None else run

    def rows(size, is_cond):
        return [waiting.popleft() for _ in range(min(size, len(waiting)))]

    def watched_job(text, job):
        about = {"sample": job.number, "source": text}
        if job.fields is None:
            state = State(1, 0.0, 0, 0.0, 0, [], [], "")
            empty = Trajectory(states=[state], given=[], **about)
            return dataclasses.replace(job, record=lambda row: empty)
        positions = rewriting.shown_positions(trained, job.fields)
        nothing = np.zeros(len(positions), bool)
        waiting.append(Row(positions, nothing, batches.splitter.split, about))
        return dataclasses.replace(job, record=lambda row: None)

    batches = Batches(trained, rows, run, tell, rewriting.first_costs(trained))
    found = rewriting.jobs_of(trained, lines, samples, counts)
    jobs = (watched_job(text, job) for text, job in found)
    yield from _with_made(made(trained, jobs, seed, batches, np.float32(strength)), batches)


def _with_made(records, batches):
    """Yields the trajectories in lists of records, where None stands for the next one that the
    `Batches` has made.
    """
    for batch in records:
        found = iter(batches.made())
        yield from (next(found) if one is None else one for one in batch)


def _fill_row(filler, splitter, about):
    """The `Row` of a template with gaps. about: see `Row`."""
    template = parse(about["template"])
    fields, gaps = filler.layout(template)
    tokens, is_given = fields["tokens"], fields["is_cond"]
    last = filler.pieces.encode(template.literals[-1], False, True)
    end = gaps[-1].stop
    # A mark of padding may stand after a gap. It is shown as nothing.
    end += int(end < len(tokens) and is_given[end] and tokens[end] == filler.pad) + len(last)
    starts, stops = [0, *(gap.stop for gap in gaps)], [*(gap.start for gap in gaps), end]
    literals = [tokens[one:other].tolist() for one, other in zip(starts, stops, strict=True)]
    filled = FilledTemplate(splitter, template, literals, gaps, filler.eos)
    return Row(np.arange(end), is_given[:end], filled.split, about, least=1)


def _without_gaps(filler, splitter, about):
    """The `Trajectory` of a template without gaps. about: see `Row`."""
    (text,) = parse(about["template"]).literals
    tokens = filler.pieces.encode(text, True, True).tolist()
    pieces = splitter.literal(tokens, text, True)
    state = State(1, 0.0, 0, 0.0, 0, tokens, pieces, "".join(pieces))
    return Trajectory(states=[state], given=[True] * len(tokens), **about)
