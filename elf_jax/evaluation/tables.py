"""Summaries and tables of the numbers of several protocols and seeds."""

import math
import statistics

from elf_jax.evaluation.metrics.bootstrap import is_bound, names

REAL = "real text"  # the name of the column of held-out text
NOT_SHOWN_IF_ZERO = ("empty",)


def combine(values):
    """Mean and standard error of one number over seeds.

    Args:
      values: list of numbers; None if there was nothing to compute the number from.

    Returns:
      Dict of mean, standard_error (None if there are fewer than two values) and seeds, how many
      values there are.
    """
    values = [value for value in values if value is not None]
    if not values:
        return {"mean": None, "standard_error": None, "seeds": 0}
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    mean = values[0] if len(values) == 1 else statistics.fmean(values)
    return {"mean": mean, "standard_error": error, "seeds": len(values)}


def summarise(seeds):
    """{metric: its `combine`} of a list of dicts of numbers, one dict for each seed."""
    return {name: combine([numbers[name] for numbers in seeds]) for name in seeds[0]}


def means(summary):
    """{metric: mean} of a `summarise`."""
    return {name: one["mean"] for name, one in summary.items()}


def flat(summary, real):
    """{metric: mean}, each followed by the number of real text as "NAME_real"."""
    numbers = {}
    for name, value in means(summary).items():
        numbers[name] = value
        if name in real:
            numbers[f"{name}_real"] = real[name]
    return numbers


def table(numbers):
    """Numbers as lines of name, value and interval."""
    shown = _shown(numbers)
    width = max(len(name) for name in shown)
    return "\n".join(
        f"  {name:<{width}}  {cell(value):>10}{bounds(name, numbers)}"
        for name, value in shown.items()
    )


def grid(summaries, real):
    """A column for each protocol and one for real text: mean ± standard error over seeds, and the
    interval.

    Args:
      summaries: {protocol: its `summarise`}. real: {metric: value} of held-out text.
    """
    first = _shown(means(next(iter(summaries.values()))))
    lines = [["", *summaries, REAL]]
    for name in first:
        cells = [summary_cell(name, summary) for summary in summaries.values()]
        lines.append([name, *cells, cell(real[name]) if name in real else ""])
    return columns(lines)


def columns(lines):
    """Lists of strings, all of the same length, as lines with aligned columns."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            [f"  {line[0]:<{widths[0]}}"]
            + [f"{text:>{width}}" for text, width in zip(line[1:], widths[1:], strict=True)]
        ).rstrip()
        for line in lines
    )


def _shown(numbers):
    return {
        name: value
        for name, value in numbers.items()
        if not is_bound(name) and (value or name not in NOT_SHOWN_IF_ZERO)
    }


def summary_cell(name, summary):
    """The `cell` of a metric of a `summarise`, and its interval."""
    combined = summary[name]
    return cell(combined["mean"], combined["standard_error"]) + bounds(name, means(summary))


def bounds(name, numbers):
    """The interval of a metric among numbers as text, to stand after it. Empty without one."""
    found = [numbers.get(bound) for bound in names(name)]
    return "" if None in found else " ({:.2f} to {:.2f})".format(*found)


def cell(mean, standard_error=None):
    """The text of a number in a table, with its standard error if there is one."""
    text = f"{mean:.4f}" if isinstance(mean, float) else str(mean)
    return text if standard_error is None else f"{text} ± {standard_error:.4f}"
