"""Commands that show how texts come about: the states of sampling, as a page or as data."""

import contextlib
import dataclasses
import itertools
import json
import pathlib
import sys

from elf_jax.commands.filling import check_one, template_lines
from elf_jax.commands.sampling import write_lines
from elf_jax.commands.shared import (
    check_format,
    check_one_candidate,
    held_out,
    model_of,
    open_workdir,
    say_unused,
)
from elf_jax.core import config as config_module
from elf_jax.core import processes, store
from elf_jax.core.arguments import expanding
from elf_jax.core.errors import UserError
from elf_jax.core.files import check_file, write_text
from elf_jax.core.workdir import WATCH

FORMATS = ("html", "jsonl")
SAMPLES = 4  # how many are watched, if the user does not say
RUNS = pathlib.Path("runs")  # where the page goes, if it belongs to no workdir


@expanding
def watch(
    workdir=None,
    workdirs=None,
    config=None,
    checkpoint=None,
    source=None,
    text=None,
    format="html",
    output=None,
    gap=None,
    strength=None,
    **settings,
):
    """Shows how texts come about, step by step. See docs/watching.md.

    Args:
      workdir, config, checkpoint, source, text, gap, strength, **settings: see `trajectories`.
      workdirs: list of workdirs and exports, or a string with commas between them, in place of
        `workdir`: their texts are shown side by side.
      format: "html": a page; "jsonl": the states as data.
      output: path. None: the page is watch.html in the workdir, or in runs/ if it shows several
        models or there is no workdir; data goes to the screen.

    Returns:
      The path of the page as a text; None if the format is jsonl.
    """
    check_format(format, FORMATS)
    if workdirs is not None and not (workdir is config is None and not checkpoint):
        raise UserError("--workdirs names all models: leave out --workdir, --checkpoint, --config")
    asked = {"source": source, "text": text, "gap": gap, "strength": strength, **settings}

    def shown():
        if workdirs is not None:
            return _several(workdirs, asked)
        return [trajectories(workdir, config, checkpoint, **asked)]

    if format == "jsonl":
        lines = (line for all in [shown()] for one in all for line in _lines(one, len(all) > 1))
        return write_lines(lines, output, False)
    from elf_jax.pages.watch import watch_page

    with _place(workdir, output) as (path, name):
        watched = shown()
        title = f"Step by step: {', '.join(one.name for one in watched)}"
        page = watch_page(watched, title)
        if processes.is_first():
            write_text(path, page)
            print(f"page: {name}")
    return name


@contextlib.contextmanager
def _place(workdir, output):
    """Yields (path of the page on this machine, its name for the user)."""
    if output or workdir is None:
        output = output or RUNS / WATCH
        check_file(output, "--output")
        yield output, str(output)
        return
    with open_workdir(workdir) as directory:
        check_file(directory / WATCH, "--workdir")
        yield directory / WATCH, f"{str(workdir).rstrip('/')}/{WATCH}"


@expanding
def trajectories(
    workdir=None,
    config=None,
    checkpoint=None,
    source=None,
    text=None,
    gap=None,
    strength=None,
    **settings,
):
    """The states of samples, from the first step to the last, of one model.

    The texts of the last states are those of `samples`, of `fills` for templates, or of `rewrites`.

    Args:
      workdir, config, checkpoint, **settings: see the package. num_samples is 4 if it is not given,
        and 1 for each template or text.
      source: path of a file with a source on each line for a model of pairs, or a template on each
        line for other models; "-": standard input; or a list of strings. If num_samples is not
        given, only the first 4 lines are read. None: a model of pairs answers held-out sources.
      text: a template, see `fill`. gap: as for `fill`.
      strength: with it, `text` and `source` are no templates, but texts to rewrite, see `rewrite`.

    Returns:
      A `generation.trajectory.Watched`.
    """
    from elf_jax.checkpoints.trained import load_trained
    from elf_jax.generation import trajectory

    origin, config = model_of(workdir, config, checkpoint, settings.get("steps", 0))
    of_pairs = bool(config.data.source_field)
    _check_asked(config, source, text, gap, strength)
    keys = {"num_samples": SAMPLES} | settings
    config_module.update(config, {f"sample.{name}": value for name, value in keys.items()})
    config_module.update(config, {} if gap is None else {"fill.gap": gap})
    check_one_candidate(config, "--mode=watch")
    trained = load_trained(origin, config)
    say_unused(trained.method, settings)
    shown = {} if strength is None else {"strength": strength}
    if strength is not None:
        found = _rewrites(trained, text, source, strength, settings.get("num_samples"))
    elif source is None and text is None:
        dataset = held_out(trained, origin, checkpoint) if of_pairs else None
        found = _texts(trained, dataset)
    elif of_pairs:
        found = _answers(trained, source, settings.get("num_samples"))
    else:
        found = _fills(trained, text, source, settings.get("num_samples"))
    return trajectory.watched(trained, str(checkpoint or workdir), found, **shown)


def _check_asked(config, source, text, gap, strength):
    """Raises UserError for what does not go together."""
    from elf_jax.generation.lines import check_takes_text
    from elf_jax.generation.rewrite import check_strength

    if strength is not None:
        check_takes_text(config, "single texts")
        check_strength(strength)
        check_one(text, source)
        if gap is not None:
            raise UserError("--gap is for templates, and --strength for texts: leave one out")
    elif text is not None:
        check_takes_text(config, "templates")
    if source is not None and text is not None:
        check_one(text, source)
    if gap is not None and (config.data.source_field or (source is None and text is None)):
        raise UserError("--gap is for templates: name one in --text, or leave --gap out")


def _texts(trained, dataset):
    from elf_jax.generation.trajectory import texts

    sample = trained.config.sample
    most = sample.num_samples if dataset is None else len(dataset.validation)
    return list(texts(trained, min(sample.num_samples, most), sample.seed, dataset))


def _answers(trained, source, limit):
    from elf_jax.generation.answers import Counts, describe, read_sources
    from elf_jax.generation.trajectory import answers

    data, counts = trained.config.data, Counts()
    sources = source if isinstance(source, list) else read_sources(source, data.source_field)
    sources = _first(sources) if limit is None else itertools.islice(sources, limit)
    found = list(answers(trained, sources, trained.config.sample.seed, counts))
    _say(describe(counts, data.source_length))
    return found


def _fills(trained, text, source, samples):
    from elf_jax.core.averaging import warn_of_first_weights
    from elf_jax.generation.fill import Counts, describe
    from elf_jax.generation.trajectory import fills

    warn_of_first_weights(trained.config, trained.step)
    counts, lines = Counts(), template_lines(text, source, trained.config.data.field)
    lines = _first(lines) if samples is None else lines
    found = list(fills(trained, lines, trained.config.sample.seed, counts, samples or 1))
    _say(describe(counts, trained.config))
    return found


def _rewrites(trained, text, source, strength, samples):
    from elf_jax.core.averaging import warn_of_first_weights
    from elf_jax.generation.rewrite import Counts, describe
    from elf_jax.generation.trajectory import rewrites

    warn_of_first_weights(trained.config, trained.step)
    counts, lines = Counts(), template_lines(text, source, trained.config.data.field)
    lines, seed = _first(lines) if samples is None else lines, trained.config.sample.seed
    found = list(rewrites(trained, lines, strength, seed, counts, samples or 1))
    _say(describe(counts))
    return found


def _first(lines):
    """The first lines, so that a long file does not become a page that no browser can show."""
    lines = iter(lines)
    yield from itertools.islice(lines, SAMPLES)
    if next(lines, None) is not None:
        _say(f"note: only the first {SAMPLES} lines are shown: --num_samples shows more")


def _say(note):
    if note and processes.is_first():
        print(note, file=sys.stderr)


def _several(workdirs, asked):
    """A list of `Watched`, one for each of several workdirs, under short names.

    Raises:
      UserError: they answer different sources.
    """
    from elf_jax.checkpoints.export import is_export
    from elf_jax.evaluation.subjects import paths_of, short_names

    places = paths_of(workdirs)
    shown = []
    for place, name in zip(places, short_names(places), strict=True):
        as_export = is_export(store.fetch(place))
        one = trajectories(**{"checkpoint" if as_export else "workdir": place}, **asked)
        shown.append(dataclasses.replace(one, name=name))
    for one in shown[1:]:
        if _tasks(one) != _tasks(shown[0]):
            raise UserError(
                f"{one.name} answers other held-out sources than {shown[0].name}: name sources "
                "for all in --source, or leave one of the workdirs out"
            )
    return shown


def _tasks(watched):
    """What each text of a `Watched` was made from."""
    return [(one.source, one.template) for one in watched.trajectories]


def _lines(watched, with_name):
    """The states of a `Watched` as JSON lines."""
    for one in watched.trajectories:
        about = {"workdir": watched.name} if with_name else {}
        about["sample"] = one.sample
        end = {name: getattr(one, name) for name in ("source", "reference", "template")}
        end = {name: value for name, value in end.items() if value is not None}
        for state in one.states:
            fields = {name: getattr(state, name) for name in _STATE}
            yield json.dumps(about | fields | end, ensure_ascii=False)


_STATE = ("step", "time", "evaluations", "entropy", "changed", "tokens", "text")
