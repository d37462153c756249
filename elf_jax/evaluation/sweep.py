"""Every combination of sampling settings: the frontier between Gen. PPL and entropy.

Text can be had at any Gen. PPL by giving up entropy, so that one pair of numbers says little and
the frontier says much (ELF, arXiv 2605.10938, as it is drawn there). Of pairs, BLEU and ROUGE-L
over the guidance scale. Points are kept like those of an evaluation: interrupted, a sweep goes on.
"""

import itertools
import pathlib

import jax
import numpy as np

from elf_jax.core.errors import UserError
from elf_jax.core.files import write_json
from elf_jax.evaluation import tables
from elf_jax.evaluation.evaluate import RECORDS, Evaluation
from elf_jax.evaluation.frontier import draw_frontier
from elf_jax.evaluation.kept_samples import check_count, make_protocol, now
from elf_jax.evaluation.records import surroundings

OUTPUT, PICTURE = "sweep.json", "sweep.png"  # in the workdir
# Key of config.sweep -> the setting that it lists, what changes first last: of a new number of
# steps or another grid the sampler is compiled anew.
AXES = {
    "time_grids": "time_grid",
    "steps": "steps",
    "cfg_scales": "cfg_scale",
    "gammas": "gamma",
    "guidance_scales": "guidance_scale",
}
SHORT = {"steps": "steps", "gamma": "gamma", "guidance_scale": "w", "cfg_scale": "c"}


def sweep(trained, dataset, workdir, scorer=None):
    """Samples and scores every combination of config.sweep; writes sweep.json and sweep.png.

    Args:
      trained, dataset, workdir, scorer: as for `evaluate`.

    Returns:
      Dict of what is in sweep.json.

    Raises:
      UserError: lists that cannot be, or nothing to score text with.
    """
    workdir, config = pathlib.Path(workdir), trained.config
    protocols = combinations(config)
    if config.sweep.seeds < 1:
        raise UserError(f"config.sweep.seeds is {config.sweep.seeds}; use 1 or more")
    check_count(config.sweep.num_samples, dataset.conditional, "config.sweep.num_samples")
    run = Evaluation(trained, dataset, workdir, RECORDS, config.sweep.num_samples, scorer)
    panels = _panels(run, protocols, workdir)
    seeds = range(config.sample.seed, config.sample.seed + config.sweep.seeds)
    points = []
    for number, protocol in enumerate(protocols, 1):
        if jax.process_index() == 0:
            print(f"{number} of {len(protocols)}: {protocol.name}", flush=True)
        summary = tables.summarise([run.samples(protocol, seed)[0] for seed in seeds])
        points.append(_point(protocol, summary))
    result = {
        "points": points,
        "real": run.real(),
        "seeds": list(seeds),
        "num_samples": run.count,
        "provenance": _provenance(run),
    }
    if jax.process_index() == 0:
        write_json(workdir / OUTPUT, result)
        title = f"{run.count} texts a point, step {trained.step:,}, {config.sample.sampler}"
        draw_frontier(points, result["real"], panels, workdir / PICTURE, title)
        print(_table(points, result["real"], panels))
        print("\n".join(run.describe()))
        print(f"points: {workdir / OUTPUT}, picture: {workdir / PICTURE}")
    return result


def combinations(config):
    """A `Protocol` for each combination of the lists in config.sweep.

    Raises:
      UserError: a list with something in it that its setting cannot be.
    """
    lists = []
    for key, setting in AXES.items():
        values = [value.strip() for value in config.sweep[key].split(",") if value.strip()]
        if setting == "gamma" and config.sample.sampler == "ode":
            values = ["0"]  # an ODE puts no noise back
        lists.append([(setting, value) for value in values or [str(config.sample[setting])]])
    protocols = []
    for combination in itertools.product(*lists):
        values = dict(combination)
        name = "-".join(f"{short}{values[setting]}" for setting, short in SHORT.items())
        protocols.append(make_protocol(f"{name}-{values['time_grid']}", config.sample, values))
    names = [protocol.name for protocol in protocols]
    if len(set(names)) < len(names):
        raise UserError("config.sweep lists a value twice: name each once")
    return protocols


def _panels(run, protocols, workdir):
    """What is drawn against what: (x, y) of each panel."""
    if "gen_ppl" in run.judge.metrics:
        return [("gen_entropy", "gen_ppl")]
    scores = [name for name in ("bleu", "rouge_l") if name.split("_")[0] in run.judge.metrics]
    if not scores:
        reason = run.note or f"train one: python main.py --mode=train_scorer --workdir={workdir}"
        raise UserError(f"nothing to draw a sweep of without Gen. PPL, BLEU or ROUGE: {reason}")
    several = len({protocol.sample.cfg_scale for protocol in protocols}) > 1
    return [("cfg_scale" if several else "guidance_scale", score) for score in scores]


def _point(protocol, summary):
    errors = {f"{name}_standard_error": one["standard_error"] for name, one in summary.items()}
    return {**protocol.settings(), **tables.means(summary), **errors}


def _provenance(run):
    trained = run.trained
    return {
        "checkpoint": trained.source,
        "step": trained.step,
        "weights": trained.config.sample.weights,
        "weights_fingerprint": run.sampling.weights,
        "compute_dtype": np.dtype(trained.model.predictor.network.dtype).name,
        **run.judge.provenance(),
        **surroundings(),
        "date": now(),
    }


def _table(points, real, panels):
    shown = list(dict.fromkeys(name for panel in panels for name in panel[::-1]))
    shown = [name for name in shown if name not in AXES.values()]
    settings = [name for name in ("steps", "gamma", "guidance_scale", "cfg_scale", "time_grid")]
    lines = [[*settings, *shown]]
    for point in points:
        numbers = [tables.cell(point[name], point[f"{name}_standard_error"]) for name in shown]
        lines.append([*(f"{point[name]}" for name in settings), *numbers])
    if all(name in real for name in shown):
        lines.append([tables.REAL, "", "", "", "", *(tables.cell(real[name]) for name in shown)])
    return tables.columns(lines)
