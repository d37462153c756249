"""What the served page can do with a model: each task is a function (work, text, values) -> Answer.

The texts are made by the same functions as those of the command line, so they are the same texts.
"""

import dataclasses

from elf_jax.core.errors import UserError
from elf_jax.generation import answers, fill, rewrite, templates, trajectory
from elf_jax.pages.served_settings import ANSWER, FILL, REWRITE, SAMPLE

NAMES = {ANSWER: "the sources", FILL: "the template", REWRITE: "the text"}  # in messages


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a visitor gets.

    Attributes:
      texts: list of str. watched: a `Watched` of how the first of them were made.
      sources: the source of each text, or None.
      note: a sentence about what the visitor may not expect, or "".
    """

    texts: list
    watched: trajectory.Watched
    sources: list | None = None
    note: str = ""


def tasks_of(trained):
    """The tasks that a `TrainedModel` can do, in the order of the page."""
    if trained.config.data.source_field:
        return [ANSWER]
    try:
        trained.method.rewriter(trained.config.sample, trained.config.data.length)
    except UserError:
        return [SAMPLE, FILL]
    return [SAMPLE, FILL, REWRITE]


def sample(work, text, values):
    """New texts."""
    del text
    count, seed = values["num_samples"], values["seed"]
    return work.watched(trajectory.texts(work.trained, count, seed, None, *work.watching()))


def answer(work, lines, values):
    """A target for each line."""
    counts, watching = answers.Counts(), work.watching()
    found = trajectory.answers(work.trained, lines, values["seed"], counts, *watching)
    done = work.watched(found)
    note = answers.describe(counts, work.trained.config.data.source_length)
    return dataclasses.replace(done, sources=lines, note=note)


def fill_gaps(work, text, values):
    """A template, several times."""
    if not templates.parse(text).gaps:
        raise UserError("the template has no gap: write ___ for some words, or [[3]] for 3 tokens")
    counts, lines, watching = fill.Counts(), [(NAMES[FILL], text)], work.watching()
    count, seed = values["num_samples"], values["seed"]
    done = work.watched(trajectory.fills(work.trained, lines, seed, counts, count, *watching))
    return dataclasses.replace(done, note=fill.describe(counts, work.trained.config))


def rewrite_text(work, text, values):
    """A text, several times."""
    counts, lines = rewrite.Counts(), [(NAMES[REWRITE], text)]
    strength, seed, count = (values[name] for name in ("strength", "seed", "num_samples"))
    how = strength, seed, counts, count, *work.watching(rewrites=True)
    done = work.watched(trajectory.rewrites(work.trained, lines, *how), strength=strength)
    return dataclasses.replace(done, note=rewrite.describe(counts))


TASKS = {SAMPLE: sample, ANSWER: answer, FILL: fill_gaps, REWRITE: rewrite_text}
