"""Draws a comparison: quality against network evaluations, and the frontiers of Gen. PPL.

Every model has one colour and one marker in all pictures. The colours are those of Okabe and Ito,
which colour-blind readers can tell apart, without yellow.
"""

import collections
import math

import matplotlib

matplotlib.use("Agg")  # no display is needed

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator  # noqa: E402

from elf_jax.core.files import write_picture  # noqa: E402
from elf_jax.evaluation.real_entropy import AXES, lines_of  # noqa: E402

COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
MARKERS = "osD^vPX"
LINES = ("-", "--", ":")  # after every seven models
REAL_LABEL = "held-out real text"
REAL_COLOUR = "crimson"

# The rows of panels of a picture: (the metrics of which one must be there, the panels).
ROWS = (
    (("valid",), ("valid", "held_out", "distinct")),
    (("gen_ppl",), ("gen_ppl", "gen_entropy", "gen_seq_rep_4")),
    (("bleu", "rouge_l"), ("bleu", "rouge_l")),
)
OTHERWISE = ("entropy", "distinct")
LABELS = {
    "valid": "valid (share of the samples)",
    "held_out": "held-out (share of the samples)",
    "distinct": "distinct (share of the samples)",
    "gen_ppl": "Gen. PPL",
    "gen_entropy": "unigram entropy of the scorer's tokens (nats)",
    "gen_seq_rep_4": "rep-4 (share of the 4-grams)",
    "bleu": "BLEU (cased)",
    "rouge_l": "ROUGE-L",
    "entropy": "unigram entropy of the model's tokens (nats)",
}
LOGARITHMIC = ("gen_ppl",)
SHARES = ("valid", "held_out", "distinct", "gen_seq_rep_4")  # never below 0


def draw_quality(models, real, picture):
    """Draws the scores over the network evaluations and writes a PNG.

    Args:
      models: list of the entries of models in comparison.json.
      real: {metric: value} of held-out text; marked by a line. picture: path.
    """
    points = [point for model in models for point in model["points"]]
    rows = panels({name for point in points for name in point["scores"]})
    figure, axes = _figure(len(rows), max(map(len, rows)))
    dashed = {"color": REAL_COLOUR, "lw": 1.2, "ls": (0, (6, 3))}
    marks = {}
    for row, names in zip(axes, rows, strict=True):
        for axis in row[len(names) :]:
            axis.set_axis_off()
        for axis, name in zip(row, names, strict=False):
            for model, look in zip(models, looks(len(models)), strict=True):
                _draw_scores(axis, model["points"], name, look)
            if real.get(name) is not None:
                axis.axhline(real[name], zorder=1, **dashed)
                marks[REAL_LABEL] = Line2D([], [], label=REAL_LABEL, **dashed)
            _evaluations_axis(axis, [point["evaluations"] for point in points])
            _value_axis(axis, name)
    _finish(figure, models, list(marks.values()), picture)


def draw_frontiers(models, real, picture):
    """Draws Gen. PPL over entropy, a line for each model, and writes a PNG.

    Args:
      models, picture: as for `draw_quality`. real: {metric: value} of held-out text, which a star
        marks.
    """
    figure, ((axis,),) = _figure(1, 1, width=8.0)
    for model, look in zip(models, looks(len(models)), strict=True):
        for line in lines_of(model["frontier"]):
            x, y = [point.entropy for point in line], [point.gen_ppl for point in line]
            axis.plot(x, y, **look)
    marks = []
    if all(real.get(name) is not None for name in AXES):
        star = {"color": REAL_COLOUR, "marker": "*", "ms": 15, "ls": ""}
        axis.axvline(real[AXES[0]], color=REAL_COLOUR, lw=0.8, ls=":", zorder=1)
        axis.plot(real[AXES[0]], real[AXES[1]], zorder=5, **star)
        marks = [Line2D([], [], label=REAL_LABEL, **star)]
    axis.set_xlabel(LABELS[AXES[0]])
    _value_axis(axis, AXES[1])
    _finish(figure, [model for model in models if model["frontier"]], marks, picture, models)


def looks(count):
    """The colour, marker and style of each of `count` models, a list of dicts for `plot`."""
    size = len(COLOURS)
    return [
        {
            "color": COLOURS[index % size],
            "marker": MARKERS[index % size],
            "ls": LINES[index // size % len(LINES)],
            "ms": 7,
            "mec": "white",
            "mew": 0.6,
            "lw": 1.4,
        }
        for index in range(count)
    ]


def panels(names):
    """The metrics to draw of those in `names`: a list of rows of panels."""
    rows = [
        [name for name in row if name in names]
        for leads, row in ROWS
        if any(name in names for name in leads)
    ]
    return rows or [list(OTHERWISE)]


def _figure(rows, columns, width=4.8):
    size = max(width * columns, 6.4), 4.6 * rows + 0.5
    return plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)


def _draw_scores(axis, points, name, look):
    """One line: a metric over the evaluations, with the standard error over seeds."""
    found = [
        (point["evaluations"], point["scores"][name])
        for point in points
        if point["scores"].get(name, {}).get("mean") is not None
    ]
    found.sort(key=lambda one: one[0])
    x, y = [one for one, _ in found], [score["mean"] for _, score in found]
    errors = [score["standard_error"] or 0.0 for _, score in found]
    if found:
        axis.errorbar(x, y, yerr=errors, capsize=2.5, elinewidth=1, **look)


def _evaluations_axis(axis, values):
    """A logarithmic axis with a label at every value, the most frequent ones first, unless it would
    touch another label.
    """
    low, high = min(values) / 1.4, max(values) * 1.4
    shown = []
    for value, _ in collections.Counter(values).most_common():
        if all(abs(math.log(value / other)) > 0.075 * math.log(high / low) for other in shown):
            shown.append(value)
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    axis.xaxis.set_major_locator(FixedLocator(sorted(shown)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel("network evaluations (forward passes)")


def _value_axis(axis, name):
    axis.set_ylabel(LABELS.get(name, name))
    axis.grid(alpha=0.3)
    axis.margins(y=0.1)
    if name in SHARES:
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, -0.02 * high), high)
    if name not in LOGARITHMIC:
        return
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    ticks = [digit * 10**power for power in range(-1, 8) for digit in (1, 1.5, 2, 3, 5, 7)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axis.yaxis.set_major_locator(FixedLocator(ticks) if len(ticks) > 2 else MaxNLocator(6))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _finish(figure, shown, marks, picture, models=None):
    """Adds the legend below the panels, writes the picture and closes it."""
    every = shown if models is None else models
    handles = [
        Line2D([], [], label=f"{model['name']} ({model['method']})", **look)
        for model, look in zip(every, looks(len(every)), strict=True)
        if model in shown
    ]
    figure.legend(
        handles=handles + marks,
        loc="outside lower center",
        ncols=min(4, len(handles + marks)),
        fontsize=9,
        frameon=False,
    )
    write_picture(figure, picture, dpi=120)
    plt.close(figure)
