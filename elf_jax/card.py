"""The model card of an exported model: what it is, what it was trained on, how good it is, how to
load it.
"""

import json
import pathlib

from huggingface_hub import EvalResult, ModelCardData

from elf_jax.data.dataset import REPORT

_NO_METRICS = ("steps", "train_seconds")  # what else an evaluation says in numbers
PAPER = "https://arxiv.org/abs/2605.10938"


def model_card(name, config, step, parameters, vocab_size, workdir=None):
    """Text of README.md, with front matter as on the Hugging Face hub.

    Args:
      name: of the model. config: whole config.
      step: of the weights. parameters: how many. vocab_size: V.
      workdir: holds the report of the training data and the evaluation results; None if there is
        no such place.
    """
    results = [] if workdir is None else read_results(workdir / config.evaluate.output)
    weights = "moving average" if config.sample.weights == "ema" else "live"
    parts = [
        f"---\n{_front_matter(name, config, results)}\n---",
        f"# {name}",
        f"A text diffusion model, ELF ([Embedded Language Flows]({PAPER})): it denoises text in "
        f"the embedding space of a frozen encoder and reads the words off in the last step. "
        f"{_task(config)}",
        _table(
            {
                "parameters": f"{parameters:,}",
                "network": "depth {depth}, width {width}, {heads} heads".format(**config.model),
                "positions": config.data.length,
                "vocabulary": f"{vocab_size:,}",
                "encoder": _encoder(config.encoder),
                "weights": f"{weights}, step {step:,}",
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
    """Evaluation results as a list of dicts: a JSON object, a list of them, or JSON lines; an
    empty list where there are none.
    """
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    try:
        values = json.loads(text)
    except ValueError:
        values = [json.loads(line) for line in text.splitlines() if line.strip()]
    return values if isinstance(values, list) else [values]


def _metrics(result):
    """(metric, number) pairs of one result: a record of one metric, or a dict of many."""
    if isinstance(result.get("metric"), str) and "value" in result:
        return [(result["metric"], result["value"])]
    return [
        (name, value)
        for name, value in result.items()
        if isinstance(value, int | float) and name not in _NO_METRICS
    ]


def _front_matter(name, config, results):
    dataset = config.data.path or config.data.source
    task = "translation" if config.data.source_field else "text-generation"
    evaluations = [
        EvalResult(
            task_type=task,
            dataset_type=pathlib.PurePath(dataset).stem or "custom",
            dataset_name=pathlib.PurePath(dataset).name or "custom",
            metric_type=metric,
            metric_value=value,
        )
        for result in results
        for metric, value in _metrics(result)
    ]
    data = ModelCardData(
        library_name="elf-jax",
        pipeline_tag=task,
        tags=["diffusion", "flow-matching", "elf", "jax", "arxiv:2605.10938"],
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


def _encoder(settings):
    if settings.kind == "t5":
        return f"frozen T5, {settings.path}"
    return f"frozen {settings.kind} embedding, width {settings.width}"


def _source_flag(config):
    return " --source=FILE" if config.data.source_field else ""


def _data(settings, workdir):
    named = pathlib.PurePath(settings.path).name if settings.path else ""
    lines = f"Source: {settings.source}{f', {named}' if named else ''}."
    path = None if workdir is None else workdir / REPORT
    if path is None or not path.is_file():
        return f"{lines} The run kept no report of its data."
    return f"{lines}\n\n{_table(json.loads(path.read_text(encoding='utf-8')))}"


def _evaluation(results):
    if not results:
        return (
            "None was made. `python main.py --mode=evaluate --workdir=DIR` makes it; export again "
            "after it."
        )
    parts = []
    for result in results:
        plain = {key: value for key, value in result.items() if not isinstance(value, dict | list)}
        parts.append(_table(plain))
        parts += [
            f"{key.capitalize()}:\n\n```json\n{json.dumps(value, indent=2)}\n```"
            for key, value in result.items()
            if isinstance(value, dict | list)
        ]
    return "\n\n".join(parts)


def _table(values):
    rows = [f"| {key} | {_cell(value)} |" for key, value in values.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _cell(value):
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())
