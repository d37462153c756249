"""Axes of pictures: ranges that are not too narrow, and tick labels that do not touch."""

import collections
import math

from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, ScalarFormatter

from elf_jax.evaluation.looks import LABELS, is_number

LOGARITHMIC = ("gen_ppl",)
SHARES = ("valid", "held_out", "distinct", "gen_seq_rep_4")  # never below 0
# Digits of the ticks of a logarithmic axis, for wider and wider ranges.
DIGITS = ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 7), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
MOST_TICKS = 10
LEAST_SPAN = 0.05  # of a range, as a share of its value
CHARACTER = 0.09  # width of a digit of a tick label, inches
PANEL = 3.6  # width of the smallest panel, inches


def metric_axis(axis, side, name, values, margin=0.1):
    """Names the axis of a metric with its unit, and sets its range and its ticks.

    Args:
      axis: of matplotlib. side: "x" or "y". name: of the metric. values: what is drawn.
      margin: room beside the values, as a share of their range.
    """
    _call(axis, side, "set_{}label", LABELS.get(name, name))
    values = [value for value in values if is_number(value)]
    ticks = axis.xaxis if side == "x" else axis.yaxis
    if name in LOGARITHMIC and values and min(values) > 0:
        _call(axis, side, "set_{}scale", "log")
        low, high = _spread(math.log(min(values)), math.log(max(values)), LEAST_SPAN, margin)
        low, high = math.exp(low), math.exp(high)
        ticks.set_major_locator(FixedLocator(log_ticks(low, high)))
        ticks.set_minor_locator(NullLocator())
        ticks.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    else:
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        least = LEAST_SPAN * max(abs(low), abs(high)) or LEAST_SPAN
        low, high = _spread(low, high, least, margin)
        if name in SHARES:
            low = max(low, -0.02 * high)
        _linear_ticks(ticks)
    _call(axis, side, "set_{}lim", low, high)
    axis.grid(alpha=0.3)


def scale_axis(axis, title, values):
    """The horizontal axis of a setting with no unit, such as a guidance scale."""
    axis.set_xlabel(f"{title} (no unit)")
    low, high = min(values), max(values)
    axis.set_xlim(_spread(low, high, LEAST_SPAN * abs(high) or LEAST_SPAN, 0.1))
    _linear_ticks(axis.xaxis)
    axis.grid(alpha=0.3)


def evaluations_axis(axis, values):
    """A logarithmic axis with a tick at every value. A value has a label, the most frequent one
    first, unless the label would touch another one.
    """
    axis.set_xlabel(LABELS["evaluations"])
    if not values:
        axis.set_xticks([])
        return
    low, high = min(values) / 1.4, max(values) * 1.4
    shown = []
    for value, _ in collections.Counter(values).most_common():
        if all(_is_apart(value, other, low, high) for other in shown):
            shown.append(value)
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    axis.xaxis.set_major_locator(FixedLocator(sorted(shown)))
    axis.xaxis.set_minor_locator(FixedLocator(sorted(set(values) - set(shown))))
    axis.xaxis.set_minor_formatter("")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def minutes_axis(axis, values):
    """A linear axis of the time of training, which begins at 0."""
    axis.set_xlabel(LABELS["minutes"])
    axis.set_xlim(0, 1.05 * max(values, default=1))
    _linear_ticks(axis.xaxis)


def log_ticks(low, high):
    """Round numbers between two positive ones, at most `MOST_TICKS`, and at least two."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in DIGITS:
        ticks = [digit * 10.0**power for power in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= MOST_TICKS:
            break
    if len(ticks) < 3:
        ticks = [t for t in MaxNLocator(6).tick_values(low, high) if low <= t <= high]
    return ticks[:: -(-len(ticks) // MOST_TICKS)]


def plain(value):
    """A number as a tick label, without an exponent unless it is very large or small."""
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}"
    return f"{round(value, 6):,.6f}".rstrip("0").rstrip(".")


def _linear_ticks(ticks):
    ticks.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10]))
    ticks.set_major_formatter(ScalarFormatter(useOffset=False))


def _spread(low, high, least, margin):
    """A range that is at least so wide, with a margin at both ends."""
    missing = max(least - (high - low), 0) / 2
    low, high = low - missing, high + missing
    return low - margin * (high - low), high + margin * (high - low)


def _is_apart(one, other, low, high):
    """Whether the labels of two values of a logarithmic axis do not touch."""
    size = (len(f"{one:,}") + len(f"{other:,}")) / 2 * CHARACTER + CHARACTER
    return abs(math.log(one / other)) * PANEL > size * math.log(high / low)


def _call(axis, side, name, *arguments):
    """A method of the axes for its side "x" or "y", such as "set_{}lim"."""
    getattr(axis, name.format(side))(*arguments)
