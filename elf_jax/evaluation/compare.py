"""Compares trained models: the same data, tokenizer, scorer, numbers of steps, samples and seeds.

Of every model it collects its size, what it has seen, its likelihood, its scores at each number of
steps, its speed, its frontier of Gen. PPL and entropy, and how it fills in hidden parts of held-out
text if that is asked for. Everything is kept in the workdirs, as of an evaluation, so an
interrupted comparison goes on. docs/evaluation.md says what the numbers mean.
"""

import jax

from elf_jax import __version__
from elf_jax.checkpoints.trained import load_trained
from elf_jax.core import store
from elf_jax.core.files import write_json, write_text
from elf_jax.evaluation import same_pairs, tables
from elf_jax.evaluation.comparison_picture import draw_frontiers, draw_quality
from elf_jax.evaluation.comparison_table import comparison_text
from elf_jax.evaluation.evaluate import Evaluation
from elf_jax.evaluation.model_size import parameter_counts
from elf_jax.evaluation.protocols import combinations, effective
from elf_jax.evaluation.real_entropy import AXES, at_entropy, lines_of
from elf_jax.evaluation.records import environment, now
from elf_jax.evaluation.sampling_time import seconds_per_1000
from elf_jax.generation.consensus import how_many

# Files in the directory of a comparison.
NUMBERS = "comparison.json"
TEXT = "comparison.md"
PICTURE = "comparison.png"
FRONTIERS = "frontier.png"

# The lists of section `compare` whose combinations are the points of a frontier.
VARIED = ("temperature", "guidance_scale", "gamma", "token_temperature")
BOUND = "validation_nll_bound"  # nats a token; of methods that have a likelihood


def compare(subjects, held_out, output):
    """Scores the models one after the other. Writes the numbers, a table and pictures.

    Args:
      subjects: list of `Subject`.
      held_out: function (`Subject`, its `TrainedModel`) -> its `Dataset`; the held-out part is
        enough.
      output: directory of the results: comparison.json, comparison.md, comparison.png; and
        frontier.png if there is a scorer.

    Returns:
      Dict of what is in comparison.json.
    """
    models, real, notes = score_each(subjects, held_out, _score)
    best = {model["name"]: model.pop("best") for model in models}
    for model in models:
        model["at_real_entropy"] = _at_real_entropy(model, real)
    settings = subjects[0].config.compare
    result = {
        "models": models,
        "real": real,
        "settings": {**settings.to_dict(), "length": subjects[0].config.data.length},
        "data": subjects[0].summary,
        "same_pairs": same_pairs.differences(best),
        "notes": notes,
        "version": __version__,
        "date": now(),
        **environment(),
    }
    if jax.process_index() == 0:
        _write(result, output)
    return result


def score_each(subjects, held_out, score):
    """Scores models one after the other.

    Args:
      subjects, held_out: as for `compare`.
      score: function of a `Subject` and `held_out` -> (the entry of the model, the numbers of real
        text, notes).

    Returns:
      (list of the entries, the numbers of real text, notes).
    """
    models, real, notes = [], {}, []
    for number, subject in enumerate(subjects, 1):
        if jax.process_index() == 0:
            print(f"{number} of {len(subjects)}: {subject.name}", flush=True)
        model, of_real, lines = score(subject, held_out)
        models.append(model)
        real = real or of_real
        said = {line.split(":")[0] for line in notes}
        notes += [line for line in lines if line.split(":")[0] not in said]
        store.send(subject.home)
    return models, real, notes


def _write(result, output):
    models, real = result["models"], result["real"]
    pairs = result["same_pairs"]
    text = comparison_text(result, pairs and same_pairs.text(pairs))
    write_json(output / NUMBERS, result)
    write_text(output / TEXT, text)
    draw_quality(models, real, output / PICTURE)
    written = [NUMBERS, TEXT, PICTURE]
    if any(model["frontier"] for model in models):
        draw_frontiers(models, real, output / FRONTIERS)
        written.append(FRONTIERS)
    else:
        (output / FRONTIERS).unlink(missing_ok=True)  # of an earlier comparison
    print(text)
    print("\n".join(f"{store.location(output)}/{name}" for name in written))


def _score(subject, held_out):
    """(the entry of a model, the numbers of real text, notes). The model is not kept."""
    config = subject.config
    settings, sample = config.compare, config.sample
    trained = load_trained(subject.origin, config)
    dataset = held_out(subject, trained)
    scorer, hidden = subject.scorer or None, settings.infill
    run = Evaluation(trained, dataset, subject.home, settings.num_samples, scorer, hidden)
    steps = combinations(sample, {"steps": settings.steps}, trained.method, "compare")
    points = [score_point(run, protocol, settings.seeds) for protocol in steps]
    for point, protocol in zip(points, steps, strict=True):
        point["speed"] = seconds_per_1000(run, protocol)
        filled = [run.fill(protocol, seed) for seed in point["seeds"]]
        point["infill"] = tables.summarise(filled)
    frontier = []
    if run.metrics.scorer is not None:
        values = {"steps": (settings.frontier_steps,)}
        values |= {name: settings[name] for name in VARIED}
        protocols = combinations(sample, values, trained.method, "compare")
        frontier = [score_point(run, protocol, settings.frontier_seeds) for protocol in protocols]
    model = {**_about(subject, trained), "likelihood": _likelihood(run)}
    model["best"] = same_pairs.score_best(run, points, steps, points[0]["seeds"])
    real = run.real() | run.real_fill()
    return {**model, "points": points, "frontier": frontier}, real, run.describe()


def score_point(run, protocol, seeds):
    """The settings, network evaluations and scores of a protocol."""
    method, first = run.trained.method, protocol.sample.seed
    results = [run.score(protocol, seed) for seed in range(first, first + seeds)]
    used, sample = effective(method, protocol.sample), protocol.sample
    passes = method.evaluations(sample, run.trained.config.data.length)
    return {
        "protocol": protocol.name,
        "steps": used.get("steps"),
        "settings": used,
        "evaluations": how_many(method, sample) * passes,
        "n": run.count,
        "seeds": list(range(first, first + seeds)),
        "scores": tables.summarise([numbers for numbers, _, _ in results]),
        "signatures": results[0][1],
        "samples": [made.file for _, _, made in results],
    }


def _about(subject, trained):
    """What a model is and what it has seen."""
    everything, inside = parameter_counts(trained.params)
    rows, summary = trained.step * subject.batch_size, subject.summary
    has_train = "train_rows" in summary and "train_tokens" in summary
    tokens = summary["train_tokens"] / summary["train_rows"] if has_train else None
    return {
        "name": subject.name,
        "method": trained.method.name,
        "fills_anywhere": trained.method.fills_anywhere,
        "workdir": store.location(subject.origin.path),
        "checkpoint": trained.origin,
        "step": trained.step,
        "weights": trained.config.sample.weights,
        "parameters": everything,
        "parameters_without_embeddings": inside,
        "rows_seen": rows,
        "tokens_seen": None if tokens is None else round(rows * tokens),
        "train_seconds": trained.progress.get("train_seconds"),
        "train_devices": trained.progress.get("devices", []),
        "constants": trained.method.constants(),
        "config": {**trained.config.to_dict(), "train": subject.train.to_dict()},
    }


def _likelihood(run):
    """The held-out likelihood of a model, or its bound; value None if the method has neither."""
    losses, config = run.losses(), run.trained.config
    rows = config.train.batch_size * config.train.validation_batches
    return {
        "nats_per_token": losses.get(BOUND),
        "is_exact": run.trained.method.has_exact_likelihood,
        "rows": min(rows, len(run.dataset.validation)),
        "losses": losses,
    }


def _at_real_entropy(model, real):
    """The result of `at_entropy` for a model; None without a frontier or real text."""
    if not model["frontier"] or real.get(AXES[0]) is None:
        return None
    return at_entropy(lines_of(model["frontier"]), real[AXES[0]])
