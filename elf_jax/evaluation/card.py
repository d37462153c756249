"""The model card of an exported model: what it is, how to use it, its data, its numbers."""

import pathlib
from itertools import filterfalse

import jax
from huggingface_hub import EvalResult, ModelCardData

from elf_jax.core import checksums
from elf_jax.core.averaging import warn_of_first_weights
from elf_jax.core.errors import UserError
from elf_jax.core.files import read_json
from elf_jax.core.workdir import DATASET
from elf_jax.evaluation.metrics.bootstrap import is_bound
from elf_jax.evaluation.tables import REAL, cell, summary_cell

_NO_METRICS = ("steps", "train_seconds")  # numbers in a summary that are no metrics
_PRIVATE = ("checkpoint",)  # a path on this disk
_SECTIONS = ("protocols", "real", "signatures", "provenance")  # of a summary


def model_card(trained, name, workdir=None):
    """Text of README.md, with front matter for the Hugging Face hub.

    Args:
      trained: a `TrainedModel`. name: of the model.
      workdir: where the summary of the training data and the evaluation results are; None if there
        is none.
    """
    config, method = trained.config, trained.method
    warn_of_first_weights(config, trained.step)
    results = {} if workdir is None else read_results(workdir / config.evaluate.output)
    weights = "moving average" if config.sample.weights == "ema" else "live"
    parameters = sum(leaf.size for leaf in jax.tree.leaves(trained.params))
    described = method.described(config)
    summary = described.pop("summary")
    parts = [
        f"---\n{_front_matter(name, method, config, results)}\n---",
        f"# {name}",
        f"{summary} {_task(config)}",
        _table(
            {
                "parameters": f"{parameters:,}",
                "network": "depth {depth}, width {width}, {heads} heads".format(**config.model),
                "positions": config.data.length,
                "vocabulary": f"{method.vocab_size:,}",
                **described,
                "weights": f"{weights}, step {trained.step:,}",
            }
        ),
        "## Use\n\n"
        "In a clone of ELF-JAX:\n\n"
        f"```\npython main.py --mode=sample --checkpoint=PATH_OR_NAME{_source_flag(config)}\n```",
        "## Training data\n\n" + _data(config.data, workdir),
        "## Evaluation\n\n" + _evaluation(results),
    ]
    return "\n\n".join(parts) + "\n"


def read_results(path):
    """The summary that --mode=evaluate wrote to `path`; an empty dict if there is none.

    Raises:
      UserError: the file is no JSON object, or no summary.
    """
    if not path.is_file():
        return {}
    remedy = "remove it and run --mode=evaluate again"
    results = read_json(path, remedy=remedy)
    if not _is_summary(results):
        raise UserError(f"{path} is damaged (it is no summary of an evaluation): {remedy}")
    return results


def _is_summary(results):
    """Whether what is shown of a summary has the form that `evaluate` writes."""
    sections = [results.get(name, {}) for name in _SECTIONS]
    if not all(isinstance(section, dict) for section in sections):
        return False
    summaries = results.get("protocols", {}).values()
    if not all(isinstance(summary, dict) for summary in summaries):
        return False
    return all(
        isinstance(one, dict)
        and "mean" in one
        and isinstance(one.get("standard_error", ""), float | int | None)
        for summary in summaries
        for one in summary.values()
    )


def _metrics(results):
    """{metric: number} at the top of a summary."""
    return {
        name: value
        for name, value in results.items()
        if isinstance(value, int | float) and name not in _NO_METRICS and not is_bound(name)
    }


def _front_matter(name, method, config, results):
    dataset = config.data.path or config.data.kind
    task = "translation" if config.data.source_field else "text-generation"
    evaluations = [
        EvalResult(
            task_type=task,
            dataset_type=pathlib.PurePath(dataset).stem or "custom",
            dataset_name=pathlib.PurePath(dataset).name or "custom",
            metric_type=metric,
            metric_value=value,
        )
        for metric, value in _metrics(results).items()
    ]
    data = ModelCardData(
        library_name="elf-jax",
        pipeline_tag=task,
        tags=[*method.tags, "jax"],
        model_name=name if evaluations else None,
        eval_results=evaluations or None,
    )
    return data.to_yaml().strip()


def _task(config):
    if not config.data.source_field:
        return "It writes text without a prompt."
    return (
        f"It turns a source of at most {config.data.source_length} tokens "
        f"(`{config.data.source_field}`) into a target (`{config.data.field}`)."
    )


def _source_flag(config):
    return " --source=FILE" if config.data.source_field else ""


def _data(settings, workdir):
    named = pathlib.PurePath(settings.path).name if settings.path else ""
    lines = f"Kind: {settings.kind}{f', {named}' if named else ''}."
    path = None if workdir is None else workdir / DATASET
    if path is None or not checksums.is_there(path):
        return f"{lines} The run kept no summary of its data."
    return f"{lines}\n\n{_table(read_json(path))}"


def _evaluation(results):
    if not results:
        return (
            "None was made. `python main.py --mode=evaluate --workdir=DIR` makes it; export again "
            "after it."
        )
    protocols, real = results.get("protocols", {}), results.get("real", {})
    every = dict.fromkeys(name for summary in protocols.values() for name in summary)
    names = list(filterfalse(is_bound, every))
    lines = [["", *protocols, REAL], ["---"] * (len(protocols) + 2)]
    for name in names:
        found = protocols.values()
        cells = [summary_cell(name, one) if name in one else "" for one in found]
        lines.append([name, *cells, cell(real[name]) if name in real else ""])
    parts = ["\n".join(f"| {' | '.join(line)} |" for line in lines)] if protocols else []
    seen = {*every, *(f"{name}_real" for name in real)}
    parts.append(_table({k: v for k, v in _metrics(results).items() if k not in seen}))
    parts.append(_table({**results.get("signatures", {}), **_how(results)}))
    return "\n\n".join(parts)


def _how(results):
    """The provenance without paths on this disk and without nested values."""
    provenance = results.get("provenance", {})
    return {k: v for k, v in provenance.items() if k not in _PRIVATE and not isinstance(v, dict)}


def _table(values):
    rows = [f"| {key} | {_cell(value)} |" for key, value in values.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _cell(value):
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())
