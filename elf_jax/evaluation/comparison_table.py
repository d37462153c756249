"""Writes the tables of a comparison as Markdown that can also be read in a terminal."""

from elf_jax.core.checks import resolve_infill
from elf_jax.evaluation.hidden import metric_name
from elf_jax.evaluation.real_entropy import AXES
from elf_jax.evaluation.tables import REAL

# Metrics of the table of samples, if there are any: {name: head of its column}.
SCORES = {
    "valid": "valid",
    "held_out": "held-out",
    "distinct": "distinct",
    "entropy": "entropy",
    "gen_ppl": "Gen. PPL",
    "gen_entropy": "Gen. entropy",
    "gen_seq_rep_4": "rep-4",
    "bleu": "BLEU",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
}
# Metrics of the table of infilling: {name in `hidden.metric_name`: head of its column}.
INFILL = {
    "exact_tokens": "exact tokens",
    "exact_spans": "exact spans",
    "rouge_l": "ROUGE-L",
    "gen_ppl": "Gen. PPL",
}
NOTHING = "-"
SHORT = {"temperature": "T", "guidance_scale": "w", "gamma": "gamma", "token_temperature": "tau_x"}


def comparison_text(result, same_pairs=None):
    """The text of comparison.md.

    Args:
      result: dict of what is in comparison.json.
      same_pairs: the text of `same_pairs.text`; None if the data are no pairs.
    """
    models, real = result["models"], result["real"]
    parts = ["# Comparison", _models(models), _likelihood_note(models)]
    parts += ["## Samples", _samples(models, real), _samples_note(result)]
    parts += ["## On the same pairs", same_pairs] if same_pairs else []
    if any(model["at_real_entropy"] for model in models):
        parts += [
            "## Gen. PPL at the entropy of real text",
            _at_real_entropy(models, real),
            "Lower entropy flatters Gen. PPL, so it is read off each model's frontier where the "
            f"entropy is that of real text ({real[AXES[0]]:.3f} nats). "
            f"{result['settings']['frontier_steps']} steps; the lowest value, if several lines of "
            "a frontier reach it. A frontier is never continued beyond its points.",
        ]
    hidden = resolve_infill(result["settings"]["infill"])
    if hidden:
        parts += ["## Infilling", _infill(models, real, hidden), _infill_note(result)]
    parts += ["## How", "\n".join(f"- {line}" for line in _how(result))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _models(models):
    head = [
        "model",
        "method",
        "parameters",
        "without embeddings",
        "rows seen",
        "tokens seen",
        "training (s)",
        "trained on",
        "held-out nats a token",
    ]
    lines = []
    for model in models:
        seconds = model["train_seconds"]
        counts = ("parameters", "parameters_without_embeddings", "rows_seen", "tokens_seen")
        lines.append(
            [
                model["name"],
                model["method"],
                *(_whole(model[name]) for name in counts),
                NOTHING if seconds is None else f"{seconds:,.0f}",
                ", then ".join(model["train_devices"]) or NOTHING,
                _likelihood(model["likelihood"]),
            ]
        )
    return markdown(head, lines, words=2)


def _whole(value):
    return NOTHING if value is None else f"{value:,}"


def _likelihood(found):
    nats = found["nats_per_token"]
    if nats is None:
        return NOTHING
    return f"{nats:.3f} (exact)" if found["is_exact"] else f"≤ {nats:.3f}"


def _likelihood_note(models):
    rows = next(
        (
            model["likelihood"]["rows"]
            for model in models
            if model["likelihood"]["nats_per_token"] is not None
        ),
        None,
    )
    if rows is None:
        return ""
    return (
        f"≤: a bound of the negative log-likelihood, estimated with one time for each of {rows:,} "
        "held-out rows; exact: the negative log-likelihood itself; -: the method has neither."
    )


def _samples(models, real):
    points = [point for model in models for point in model["points"]]
    scores = [name for name in SCORES if any(name in point["scores"] for point in points)]
    head = ["model", "steps", "evaluations", *(SCORES[name] for name in scores), "s a 1,000"]
    lines = []
    for model in models:
        for point in model["points"]:
            cells = [score_cell(point["scores"].get(name)) for name in scores]
            fixed = [model["name"], _whole(point["steps"]), _whole(point["evaluations"])]
            lines.append([*fixed, *cells, number(point["speed"]["seconds_per_1000"])])
    if any(name in real for name in scores):
        cells = [number(real[name]) if name in real else "" for name in scores]
        lines.append([REAL, "", "", *cells, ""])
    return markdown(head, lines, words=1)


def _samples_note(result):
    points = [point for model in result["models"] for point in model["points"]]
    devices = sorted({point["speed"]["device"] for point in points})
    batches = sorted({point["speed"]["batch_size"] for point in points})
    return (
        f"{texts_note(result)}. evaluations: forward passes of the network for "
        f"one batch of samples. s a 1,000: seconds to sample 1,000 texts on {', '.join(devices)}, "
        f"in batches of {', '.join(map(str, batches))}, without compilation."
    )


def texts_note(result):
    """How many texts, and how many seeds, the scores are of."""
    seeds = result["settings"]["seeds"]
    error = f"; ± is the standard error over {seeds} seeds" if seeds > 1 else ", one seed"
    return f"{result['models'][0]['points'][0]['n']:,} texts a seed{error}"


def _infill(models, real, hidden):
    points = [(model, point) for model in models for point in model["points"]]
    has_scorer = any(metric_name(name, "gen_ppl") in real for name in hidden)
    columns = [name for name in INFILL if name != "gen_ppl" or has_scorer]
    lines = []
    for name in hidden:
        for model, point in points:
            found = [point["infill"][metric_name(name, column)] for column in columns]
            side = "" if model["fills_anywhere"] else " (from the left)"
            fixed = [name, f"{model['name']}{side}", _whole(point["steps"])]
            lines.append([*fixed, *map(score_cell, found)])
        frequent = number(real[metric_name(name, "most_frequent")])
        lines.append([name, "most frequent token", "", frequent, *[""] * (len(columns) - 1)])
        if has_scorer:
            gen_ppl = number(real[metric_name(name, "gen_ppl")])
            lines.append([name, REAL, "", *[""] * (len(columns) - 1), gen_ppl])
    heads = [INFILL[column] for column in columns]
    return markdown(["hidden", "model", "steps", *heads], lines, words=2)


def _infill_note(result):
    sides = [model["fills_anywhere"] for model in result["models"]]
    parts = [
        "Held-out texts with a hidden part, whose length is known. exact tokens: share of the "
        "hidden tokens; exact spans: share of the texts whose hidden tokens are all right; most "
        "frequent token: what the best single token for all gaps would get."
    ]
    if not all(sides):
        parts.append("from the left: the model sees only what is before a gap.")
    return " ".join(parts)


def _at_real_entropy(models, real):
    lines = []
    for model in models:
        found = model["at_real_entropy"]
        if found is None:
            lines.append([model["name"], NOTHING, NOTHING, NOTHING])
            continue
        reached = found["gen_ppl"] is not None
        lines.append(
            [
                model["name"],
                number(found["gen_ppl"]) if reached else "not reached",
                _between(found["between"]) if reached else NOTHING,
                _range(found),
            ]
        )
    lines.append([REAL, number(real[AXES[1]]), "", number(real[AXES[0]])])
    return markdown(["model", "Gen. PPL", "at", "entropies of its frontier"], lines, words=1)


def _between(settings):
    """The settings that differ between the frontier's points, and the others of the frontier."""
    parts = []
    for key, short in SHORT.items():
        values = sorted({point[key] for point in settings if key in point})
        if values:
            parts.append(f"{short} {' to '.join(f'{value:g}' for value in values)}")
    return ", ".join(parts)


def _range(found):
    low, high = found["lowest_entropy"], found["highest_entropy"]
    return NOTHING if low is None else f"{number(low)} to {number(high)}"


def _how(result):
    data = result["data"]
    models = result["models"]
    yield f"data {data['fingerprint']}, rows of {result['settings']['length']} positions"
    for model in models:
        kept = settings_text(model["points"][0]["settings"], leave_out="steps")
        yield f"{model['name']}: step {model['step']:,}, weights {model['weights']}, {kept}"
    yield from ending(result)


def settings_text(settings, leave_out=""):
    """Settings of sampling in one line, such as sampler=sde, gamma=4.0."""
    return ", ".join(f"{key}={value}" for key, value in settings.items() if key != leave_out)


def ending(result):
    """The last lines of how numbers were made: signatures, notes, version and device."""
    for metric, signature in result["models"][0]["points"][0]["signatures"].items():
        yield f"{metric}: {signature}"
    yield from result["notes"]
    yield f"ELF-JAX {result['version']}, {result['device']}, {result['date']}"


def score_cell(combined):
    """The text of a dict from `tables.combine`; None: the model does not have this number."""
    if combined is None or combined["mean"] is None:
        return NOTHING
    error = combined["standard_error"]
    places = decimals(combined["mean"])
    text = number(combined["mean"])
    return text if error is None else f"{text} ± {error:,.{places}f}"


def number(value):
    """The text of a number, with four digits or the whole part."""
    return NOTHING if value is None else f"{value:,.{decimals(value)}f}"


def decimals(value):
    """How many decimals of a number are shown."""
    return next((n for n, bound in ((3, 10), (2, 100), (1, 1000)) if abs(value) < bound), 0)


def markdown(head, lines, words):
    """A table in Markdown whose columns are aligned.

    Args:
      head: list of strings. lines: lists of as many strings.
      words: the number of columns with words, at the left; the others have numbers.
    """
    rows = [[cell.replace("|", "\\|") for cell in row] for row in (head, *lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    sides = ["<" if column < words else ">" for column in range(len(head))]
    texts = [
        " | ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)
        )
        for row in rows
    ]
    rule = "|".join(
        "-" * (width + 1) + ("-" if side == "<" else ":")
        for side, width in zip(sides, widths, strict=True)
    )
    return "\n".join([f"| {texts[0]} |", f"|{rule}|", *(f"| {text} |" for text in texts[1:])])
