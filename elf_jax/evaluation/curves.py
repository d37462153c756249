"""Learning curves: the scores of all checkpoints that workdirs keep, over the time of training.

A training keeps as many of its newest checkpoints as `train.keep_checkpoints` says. Every number is
a record in the workdir, as of an evaluation, so interrupted curves go on.
"""

import dataclasses

import jax

from elf_jax import __version__
from elf_jax.checkpoints.experiment import Checkpoints
from elf_jax.checkpoints.trained import load_trained
from elf_jax.core import store
from elf_jax.core.errors import UserError
from elf_jax.core.files import write_json, write_text
from elf_jax.evaluation.compare import score_each, score_point
from elf_jax.evaluation.comparison_picture import MINUTES, draw_quality
from elf_jax.evaluation.comparison_table import (
    SCORES,
    ending,
    markdown,
    score_cell,
    settings_text,
    texts_note,
)
from elf_jax.evaluation.evaluate import Evaluation
from elf_jax.evaluation.protocols import PLAIN, Protocol
from elf_jax.evaluation.records import environment, now

# Files in the directory of the curves.
NUMBERS = "curves.json"
TEXT = "curves.md"
PICTURE = "curves.png"


def curves(subjects, held_out, output):
    """Scores all checkpoints of some models. Writes the numbers, a table and a picture.

    Args:
      subjects: list of `Subject`. Each is sampled by the section `sample` of its config.
      held_out: function (`Subject`, its `TrainedModel`) -> its `Dataset`; the held-out part is
        enough.
      output: directory of the results: curves.json, curves.md and curves.png.

    Returns:
      Dict of what is in curves.json.

    Raises:
      UserError: a checkpoint is damaged, or a model does not tell how long it was trained.
    """
    models, real, notes = score_each(subjects, held_out, _score)
    settings = subjects[0].config.compare
    result = {
        "models": models,
        "real": real,
        "settings": {"num_samples": settings.num_samples, "seeds": settings.seeds},
        "data": subjects[0].summary,
        "notes": notes,
        "version": __version__,
        "date": now(),
        **environment(),
    }
    if jax.process_index() == 0:
        text = curves_text(result)
        write_json(output / NUMBERS, result)
        write_text(output / TEXT, text)
        draw_quality(models, real, output / PICTURE, MINUTES)
        print(text)
        print("\n".join(f"{store.location(output)}/{name}" for name in (NUMBERS, TEXT, PICTURE)))
    return result


def _score(subject, held_out):
    """(the entry of a model, the numbers of real text, notes)."""
    settings, dataset, points = subject.config.compare, None, []
    for step in _steps(subject.origin):
        trained = load_trained(dataclasses.replace(subject.origin, step=step), subject.config)
        dataset = dataset or held_out(subject, trained)
        run = Evaluation(
            trained, dataset, subject.home, settings.num_samples, subject.scorer or None
        )
        seconds = _seconds(trained, subject)
        if jax.process_index() == 0:
            print(f"step {trained.step:,}", flush=True)
        point = score_point(run, Protocol(PLAIN, subject.config.sample), settings.seeds)
        about = {"step": trained.step, "train_seconds": seconds, MINUTES: seconds / 60}
        points.append({**about, **point})
    model = {
        "name": subject.name,
        "method": trained.method.name,
        "workdir": store.location(subject.origin.path),
        "batch_size": subject.batch_size,
        "train_devices": trained.progress.get("devices", []),
        "points": points,
    }
    return model, run.real(), run.describe()


def _seconds(trained, subject):
    """The seconds of training of a checkpoint. Raises UserError if it does not tell them."""
    seconds = trained.progress["train_seconds"]
    if seconds is None:  # an export of a published checkpoint
        raise UserError(
            f"{subject.name} does not tell how long it was trained, so it has no place in a curve: "
            "leave it out of --workdirs"
        )
    return seconds


def _steps(origin):
    """The steps of the checkpoints of an origin; [None] of an export, which has one."""
    if origin.kind != "workdir":
        return [None]
    checkpoints = Checkpoints(origin.path, create=False)
    try:
        return checkpoints.steps()
    finally:
        checkpoints.close()


def curves_text(result):
    """The text of curves.md.

    Args:
      result: dict of what is in curves.json.
    """
    models = result["models"]
    points = [(model, point) for model in models for point in model["points"]]
    names = [name for name in SCORES if any(name in point["scores"] for _, point in points)]
    head = ["model", "step", "rows seen", "training (s)", *(SCORES[name] for name in names)]
    lines = [
        [
            model["name"],
            f"{point['step']:,}",
            f"{point['step'] * model['batch_size']:,}",
            f"{point['train_seconds']:,.0f}",
            *(score_cell(point["scores"].get(name)) for name in names),
        ]
        for model, point in points
    ]
    how = [
        f"{model['name']}: method {model['method']}, trained on "
        f"{', then '.join(model['train_devices']) or 'unknown devices'}, "
        f"{settings_text(model['points'][0]['settings'])}"
        for model in models
    ]
    parts = ["# Learning curves", markdown(head, lines, words=1), texts_note(result) + "."]
    parts += ["\n".join(f"- {line}" for line in [*how, *ending(result)])]
    return "\n\n".join(parts) + "\n"
