"""Scores every combination of sampling settings and draws the frontier of Gen. PPL and entropy.

A model reaches a lower Gen. PPL if it gives up entropy. So one pair of numbers says little, and the
whole frontier says much (ELF, arXiv 2605.10938, draws it). For pairs the sweep draws BLEU and
ROUGE-L over the guidance scale. Numbers are kept like those of an evaluation, so an interrupted
sweep continues.
"""

import pathlib

import jax
import numpy as np

from elf_jax.core.errors import UserError
from elf_jax.core.files import write_json
from elf_jax.core.workdir import FRONTIER, SWEEP
from elf_jax.evaluation import tables
from elf_jax.evaluation.evaluate import Evaluation
from elf_jax.evaluation.frontier import draw_frontier
from elf_jax.evaluation.protocols import combinations, effective
from elf_jax.evaluation.records import environment, now


def sweep(trained, dataset, workdir, scorer=None):
    """Samples and scores every combination of config.sweep; writes sweep.json and sweep.png.

    Args:
      trained, dataset, workdir, scorer: as for `evaluate`.

    Returns:
      Dict of what is in sweep.json.

    Raises:
      UserError: a list has a value twice, or there is no metric to draw.
    """
    workdir, config = pathlib.Path(workdir), trained.config
    protocols = combinations(config.sample, config.sweep, trained.method)
    run = Evaluation(trained, dataset, workdir, config.sweep.num_samples, scorer)
    panels = _panels(run, protocols, workdir)
    seeds = range(config.sample.seed, config.sample.seed + config.sweep.seeds)
    points = []
    for number, protocol in enumerate(protocols, 1):
        if jax.process_index() == 0:
            print(f"{number} of {len(protocols)}: {protocol.name}", flush=True)
        summary = tables.summarise([run.score(protocol, seed)[0] for seed in seeds])
        points.append(_point(trained.method, protocol, summary))
    result = {
        "points": points,
        "real": run.real(),
        "seeds": list(seeds),
        "num_samples": run.count,
        "provenance": _provenance(run),
    }
    if jax.process_index() == 0:
        write_json(workdir / SWEEP, result)
        title = f"{run.count} texts a point, step {trained.step:,}, {config.sample.sampler}"
        draw_frontier(points, result["real"], panels, workdir / FRONTIER, title, trained.method)
        print(_table(trained.method, points, result["real"], panels))
        print("\n".join(run.describe()))
        print(f"points: {workdir / SWEEP}, picture: {workdir / FRONTIER}")
    return result


def _panels(run, protocols, workdir):
    """The (x, y) of each panel: names of settings or metrics."""
    if "gen_ppl" in run.metrics.names:
        return [("gen_entropy", "gen_ppl")]
    scores = [name for name in ("bleu", "rouge_l") if name.split("_")[0] in run.metrics.names]
    if not scores:
        remedy = f"train one: python main.py --mode=train_scorer --workdir={workdir}"
        reason = run.notes[0] if run.notes else remedy
        raise UserError(f"a sweep draws Gen. PPL, BLEU or ROUGE, and there is none: {reason}")
    # x is the first scale that has several values, or else the last scale.
    *others, along = run.trained.method.scales
    axis = next((scale for scale in others if _varies(protocols, scale)), along)
    return [(axis, score) for score in scores]


def _varies(protocols, setting):
    return len({protocol.sample[setting] for protocol in protocols}) > 1


def _point(method, protocol, summary):
    errors = {f"{name}_standard_error": one["standard_error"] for name, one in summary.items()}
    settings = {name: protocol.sample[name] for name in method.settings}
    settings |= effective(method, protocol.sample)
    return {**settings, **tables.means(summary), **errors}


def _provenance(run):
    trained = run.trained
    return {
        "checkpoint": trained.origin,
        "step": trained.step,
        "weights": trained.config.sample.weights,
        "weights_fingerprint": run.kept.weights,
        "compute_dtype": np.dtype(trained.method.dtype).name,
        **run.metrics.provenance(),
        **environment(),
        "date": now(),
    }


def _table(method, points, real, panels):
    shown = list(dict.fromkeys(name for panel in panels for name in panel[::-1]))
    shown = [name for name in shown if name not in method.settings]
    settings = list(method.settings)
    lines = [[*settings, *shown]]
    for point in points:
        numbers = [tables.cell(point[name], point[f"{name}_standard_error"]) for name in shown]
        lines.append([*(f"{point[name]}" for name in settings), *numbers])
    if all(name in real for name in shown):
        numbers = [tables.cell(real[name]) for name in shown]
        lines.append([tables.REAL, *[""] * (len(settings) - 1), *numbers])
    return tables.columns(lines)
