"""Commands that write text with a trained model."""

import contextlib
import itertools
import sys

from elf_jax.commands.shared import check_format, held_out, model_of, say_unused
from elf_jax.core import config as config_module
from elf_jax.core import processes
from elf_jax.core.arguments import expanding
from elf_jax.core.errors import UserError
from elf_jax.core.files import check_file, open_text

FORMATS = ("text", "jsonl")


@expanding
def sample(
    workdir=None,
    config=None,
    checkpoint=None,
    source=None,
    format="text",
    output=None,
    **settings,
):
    """Writes samples.

    A model of text writes texts. A model of pairs writes targets, for the held-out sources or for
    the sources in a file.

    Args:
      workdir, config, checkpoint, **settings: see the package.
      source: path of a file with one source on each line, or "-" for standard input. In a .jsonl
        or .parquet file the source is the field config.data.source_field. Files may be compressed.
      format: "text" or "jsonl". output: path; None: the screen.
    """
    from elf_jax.generation.answers import format_answer, format_sample

    check_format(format, FORMATS)
    show = format_sample if source is None else format_answer
    lines = samples(workdir, config, checkpoint, source, **settings)
    write_lines((show(*one, format) for one in lines), output, source is not None)


def write_lines(lines, output, flush):
    """Prints lines to a file, or if `output` is None to the screen."""
    first = processes.is_first()
    if output:
        check_file(output, "--output")
    elif sys.stdout is None:
        raise UserError("standard output is closed: name a file in --output")
    made = list(itertools.islice(lines, 1))  # first, so that a mistake leaves no new directory
    with open_text(output) if output and first else contextlib.nullcontext(sys.stdout) as out:
        for line in itertools.chain(made, lines):
            print(line, file=out, flush=flush)


@expanding
def samples(workdir=None, config=None, checkpoint=None, source=None, **settings):
    """Yields the samples that `sample` writes as (source or None, text), as soon as they are made.

    Args:
      workdir, config, checkpoint, **settings: see the package.
      source: as for `sample`, or a list of strings.
    """
    from elf_jax.checkpoints.trained import load_trained
    from elf_jax.generation.answers import check_takes_sources
    from elf_jax.generation.generate import sampler_ahead

    origin, config = model_of(workdir, config, checkpoint, settings.get("steps", 0))
    config_module.update(config, {f"sample.{name}": value for name, value in settings.items()})
    if source is not None:
        check_takes_sources(config)
    runs = []  # the sampler of a model of text, which is compiled while the weights are read

    def meanwhile(model):
        if not config.data.source_field and config.sample.num_samples > 0:
            runs.append(sampler_ahead(model, config.sample.num_samples))

    trained = load_trained(origin, config, meanwhile)
    say_unused(trained.method, settings, trained.config.sample)
    if source is not None:
        yield from _answers(trained, source, settings.get("num_samples"))
    else:
        yield from _samples(trained, origin, checkpoint, *runs)


def _answers(trained, source, limit):
    from elf_jax.generation.answers import Counts, describe, read_sources, translate

    data, counts = trained.config.data, Counts()
    if not isinstance(source, list):
        source = read_sources(source, data.source_field)
    source = itertools.islice(source, limit)
    for batch in translate(trained, source, trained.config.sample.seed, counts):
        yield from batch
    note = describe(counts, data.source_length)
    if note:
        print(note, file=sys.stderr)


def _samples(trained, origin, checkpoint, run=None):
    from elf_jax.generation.generate import generate_texts

    config, rows, sources = trained.config, None, itertools.repeat(None)
    count = config.sample.num_samples
    if config.data.source_field:
        dataset = held_out(trained, origin, checkpoint)
        rows, count = dataset.validation, min(count, len(dataset.validation))
        sources = [example.source for example in dataset.validation_examples[:count]]
    texts = generate_texts(trained, count, config.sample.seed, rows, run)
    yield from zip(sources, texts, strict=False)
