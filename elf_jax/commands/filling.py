"""Commands that fill gaps in texts, and rewrite texts, with a trained model."""

import sys

from elf_jax.commands.sampling import FORMATS, write_lines
from elf_jax.commands.shared import check_format, model_of, say_unused
from elf_jax.core import config as config_module
from elf_jax.core import processes
from elf_jax.core.arguments import expanding
from elf_jax.core.errors import UserError


@expanding
def fill(
    workdir=None,
    config=None,
    checkpoint=None,
    text=None,
    source=None,
    format="text",
    output=None,
    gap=None,
    **settings,
):
    """Writes templates with their gaps filled in. See docs/filling.md.

    Args:
      workdir, config, checkpoint, **settings: see the module. num_samples is the number of samples
        of each template.
      text: a template. source: path of a file with a template on each line, or "-" for standard
        input. In a .jsonl or .parquet file the template is the field config.data.field. Give one of
        the two.
      format: "text" or "jsonl". output: path; None: the screen.
      gap: the most tokens of a gap ___, in place of config.fill.gap.
    """
    check_format(format, FORMATS)
    lines = fills(workdir, config, checkpoint, text, source, gap, **settings)
    _write_records(lines, format, output, source)


@expanding
def fills(workdir=None, config=None, checkpoint=None, text=None, source=None, gap=None, **settings):
    """Yields what `fill` writes, as soon as it is made.

    Args:
      As for `fill`; `source` may also be a list of templates.

    Yields:
      {"template": the template, "text": the whole text, "gaps": [text of each gap], "sample":
      number of the sample}. The samples of a template are next to each other, in order.
    """
    from elf_jax.generation.fill import Counts, describe
    from elf_jax.generation.fill import fill as run

    check_one(text, source)
    keys = {} if gap is None else {"fill.gap": gap}
    trained = _model_of_text(workdir, config, checkpoint, "templates", settings, keys)
    config, counts = trained.config, Counts()
    lines = template_lines(text, source, config.data.field)
    samples = settings.get("num_samples", 1)
    for batch in run(trained, lines, config.sample.seed, counts, samples):
        yield from batch
    _say(describe(counts, config))


@expanding
def rewrite(
    workdir=None,
    config=None,
    checkpoint=None,
    text=None,
    source=None,
    format="text",
    output=None,
    strength=0.5,
    **settings,
):
    """Writes texts that are rewritten by the model. See docs/filling.md.

    Args:
      workdir, config, checkpoint, text, source, format, output, **settings: as for `fill`; what
        comes in are texts, not templates.
      strength: from 0 (the text itself) to 1 (a new text).
    """
    check_format(format, FORMATS)
    lines = rewrites(workdir, config, checkpoint, text, source, strength, **settings)
    _write_records(lines, format, output, source)


@expanding
def rewrites(
    workdir=None,
    config=None,
    checkpoint=None,
    text=None,
    source=None,
    strength=0.5,
    **settings,
):
    """Yields what `rewrite` writes, as soon as it is made.

    Args:
      As for `rewrite`; `source` may also be a list of texts.

    Yields:
      {"source": the text, "text": the new text, "sample": number of the sample}. The samples of a
      text are next to each other, in order.
    """
    from elf_jax.generation.rewrite import Counts, check_strength, describe
    from elf_jax.generation.rewrite import rewrite as run

    check_one(text, source)
    check_strength(strength)
    trained = _model_of_text(workdir, config, checkpoint, "single texts", settings, {})
    config, counts = trained.config, Counts()
    lines = template_lines(text, source, config.data.field)
    samples = settings.get("num_samples", 1)
    for batch in run(trained, lines, strength, config.sample.seed, samples, counts=counts):
        yield from batch
    _say(describe(counts))


def _model_of_text(workdir, config, checkpoint, what, settings, keys):
    """A `TrainedModel` that takes texts. keys: of the config; `settings`: of its section sample."""
    from elf_jax.checkpoints.trained import load_trained
    from elf_jax.core.averaging import warn_of_first_weights
    from elf_jax.generation.lines import check_takes_text

    origin, config = model_of(workdir, config, checkpoint, settings.get("steps", 0))
    check_takes_text(config, what)
    keys = keys | {f"sample.{name}": value for name, value in settings.items()}
    config_module.update(config, keys)
    trained = load_trained(origin, config)
    say_unused(trained.method, settings)
    warn_of_first_weights(trained.config, trained.step)
    return trained


def _say(note):
    if note and processes.is_first():
        print(note, file=sys.stderr)


def check_one(text, source):
    """Raises UserError if none or both of --text and --source are given."""
    if (text is None) == (source is None):
        both = "" if text is None else ", not both"
        raise UserError(f"name a text in --text, or a file with one on each line in --source{both}")


def template_lines(text, source, field):
    """(where it is from, text) of `text`, or of each line of `source`, which may be a list."""
    from elf_jax.generation.answers import STDIN, read_sources

    if text is not None:
        return iter([("--text", text)])
    where = "standard input" if source == STDIN else source
    if isinstance(source, list):
        where, lines = "the list", source
    else:
        remedy = f"correct the line, or let the field with the text be {field!r}"
        lines = read_sources(source, field, remedy)
    return ((f"{where} line {number}", line) for number, line in enumerate(lines, 1))


def _write_records(records, format, output, source):
    """Writes dicts with a text. With a source, each is on one line."""
    from elf_jax.generation.answers import format_record

    lines = (format_record(record, format, source is not None) for record in records)
    write_lines(lines, output, source is not None)
