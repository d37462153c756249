"""Measures a distillation: the students beside their teacher, at the same numbers of steps.

All numbers are records, as of an evaluation: those of a student in the workdir of its round, those
of the teacher in the workdir of the distillation. So an interrupted evaluation goes on.
"""

import dataclasses
import pathlib

import jax
from ml_collections import ConfigDict

from elf_jax import __version__
from elf_jax.checkpoints.origins import Origin
from elf_jax.checkpoints.trained import load_trained
from elf_jax.checkpoints.weights import fingerprint
from elf_jax.core.errors import UserError
from elf_jax.core.files import write_json
from elf_jax.core.workdir import FEW_STEPS
from elf_jax.evaluation import tables
from elf_jax.evaluation.compare import score_point
from elf_jax.evaluation.comparison_picture import draw_quality
from elf_jax.evaluation.comparison_table import SCORES, markdown, number, score_cell
from elf_jax.evaluation.evaluate import Evaluation
from elf_jax.evaluation.protocols import make_protocol
from elf_jax.evaluation.records import environment, now

TEACHER, STUDENT = "teacher", "student"


@dataclasses.dataclass(frozen=True)
class Part:
    """A model of a distillation, and the numbers of steps at which it is measured.

    Attributes:
      role: TEACHER or STUDENT. origin: its `Origin`. config: its whole config.
      steps: numbers of sampling steps. home: directory of its samples and records.
      fingerprint: of the weights that the distillation had, see `weights.fingerprint`; None: other
        weights were asked for.
    """

    role: str
    origin: Origin
    config: ConfigDict
    steps: tuple[int, ...]
    home: pathlib.Path
    fingerprint: str | None = None


def evaluate_few_steps(parts, held_out, workdir, scorer=None, notes=()):
    """Scores the teacher and the students. Writes the numbers and a picture, and prints a table.

    Args:
      parts: list of `Part`.
      held_out: function (`Part`, its `TrainedModel`) -> its `Dataset`; the held-out part is enough.
      workdir: of the distillation. It gets config.evaluate.output and few_steps.png.
      scorer: directory or name of the scorer of all of them; None: see `scorer.find_scorer`.
      notes: lines for the user.

    Returns:
      Dict of what is in the file of numbers.

    Raises:
      UserError: the weights of a model are not those of the distillation.
    """
    models, real, notes = {}, {}, list(notes)
    for part in parts:
        made, real, lines = _score(part, held_out, scorer)
        models.setdefault(part.role, []).extend(made)
        notes += [line for line in lines if line not in notes]
    config = parts[-1].config
    result = {
        "models": [
            {"name": role, "method": config.method, "points": points}
            for role, points in models.items()
        ],
        "real": real,
        "notes": notes,
        "version": __version__,
        "date": now(),
        **environment(),
    }
    if jax.process_index() == 0:
        output = workdir / config.evaluate.output
        write_json(output, result)
        draw_quality(result["models"], real, workdir / FEW_STEPS)
        print(few_steps_text(result))
        print(f"numbers: {output}, picture: {workdir / FEW_STEPS}")
    return result


def _score(part, held_out, scorer):
    """(the points of a part, the numbers of real text, notes). The model is not kept."""
    settings = part.config.evaluate
    trained = load_trained(part.origin, part.config)
    if part.fingerprint not in (None, fingerprint(trained.params)):
        raise UserError(
            f"the {part.role} {trained.origin} has changed since the distillation: restore its "
            "weights, or distil again in another --workdir"
        )
    run = Evaluation(
        trained, held_out(part, trained), part.home, settings.num_samples, scorer, settings.infill
    )
    points = []
    for steps in part.steps:
        protocol = make_protocol(f"steps{steps}", part.config.sample, {"steps": steps})
        if jax.process_index() == 0:
            print(f"{part.role}, {steps} steps", flush=True)
        point = score_point(run, protocol, settings.seeds)
        filled = tables.summarise([run.fill(protocol, seed) for seed in point["seeds"]])
        about = {"checkpoint": trained.origin, "step": trained.step}
        points.append({**point, "scores": point["scores"] | filled, **about})
    return points, run.real() | run.real_fill(), run.describe()


def few_steps_text(result):
    """The table of a distillation as Markdown.

    Args:
      result: dict of `evaluate_few_steps`.
    """
    models, real = result["models"], result["real"]
    points = [(model["name"], point) for model in models for point in model["points"]]
    found = {name for _, point in points for name in point["scores"]}
    names = [name for name in SCORES if name in found]
    names += sorted(name for name in found if name.startswith("infill_"))
    heads = [SCORES.get(name, name) for name in names]
    lines = [
        [
            role,
            f"{point['steps']:,}",
            f"{point['evaluations']:,}",
            *(score_cell(point["scores"].get(name)) for name in names),
        ]
        for role, point in sorted(points, key=lambda one: (one[1]["steps"], one[0]))
    ]
    cells = [number(real[name]) if name in real else "" for name in names]
    lines.append([tables.REAL, "", "", *cells])
    seeds = len(points[0][1]["seeds"])
    error = f"; ± is the standard error over {seeds} seeds" if seeds > 1 else ", one seed"
    note = f"{points[0][1]['n']:,} texts a seed{error}"
    table = markdown(["model", "steps", "evaluations", *heads], lines, words=1)
    return "\n".join([table, note, *result["notes"]])
