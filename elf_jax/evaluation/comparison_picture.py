"""Draws a comparison: quality against network evaluations or the time of training, and the
frontiers of Gen. PPL.
"""

import math

from elf_jax.core.files import write_picture
from elf_jax.evaluation.axes import evaluations_axis, metric_axis, minutes_axis
from elf_jax.evaluation.looks import (
    DPI,
    REAL_COLOUR,
    REAL_LABEL,
    entry,
    is_number,
    legend_below,
    looks,
    plt,
    real_line,
    real_star,
)
from elf_jax.evaluation.real_entropy import AXES, lines_of

# The rows of panels of a picture: (the metrics of which one must be there, the panels).
ROWS = (
    (("valid",), ("valid", "held_out", "distinct")),
    (("gen_ppl",), ("gen_ppl", "gen_entropy", "gen_seq_rep_4")),
    (("bleu", "rouge_l"), ("bleu", "rouge_l")),
)
OTHERWISE = ("entropy", "distinct")
# What the scores of a point may be drawn over, and the axis for it.
EVALUATIONS, MINUTES = "evaluations", "minutes"
OVER = {EVALUATIONS: evaluations_axis, MINUTES: minutes_axis}


def draw_quality(models, real, picture, over=EVALUATIONS):
    """Draws the scores over the network evaluations and writes a PNG.

    Args:
      models: list of the entries of models in comparison.json.
      real: {metric: value} of held-out text; marked by a line. picture: path.
      over: another number of a point, see `OVER`.
    """
    _write(quality_figure(models, real, over), picture)


def draw_frontiers(models, real, picture):
    """Draws Gen. PPL over entropy, a line for each model, and writes a PNG.

    Args:
      models, picture: as for `draw_quality`. real: {metric: value} of held-out text, which a star
        marks.
    """
    _write(frontiers_figure(models, real), picture)


def quality_figure(models, real, over=EVALUATIONS):
    """The figure of `draw_quality`."""
    points = [point for model in models for point in model["points"]]
    rows = panels({name for point in points for name in point["scores"]})
    figure, axes = _figure(len(rows), max(map(len, rows)))
    is_marked = False
    for row, names in zip(axes, rows, strict=True):
        for axis in row[len(names) :]:
            axis.set_axis_off()
        for axis, name in zip(row, names, strict=False):
            values = []
            for model, look in zip(models, looks(len(models)), strict=True):
                values += _draw_scores(axis, model["points"], name, look, over)
            if is_number(real.get(name)):
                axis.axhline(real[name], zorder=1, **real_line())
                values.append(real[name])
                is_marked = True
            OVER[over](axis, [point[over] for point in points])
            metric_axis(axis, "y", name, values)
    marks = [entry(REAL_LABEL, real_line())] if is_marked else []
    legend_below(figure, _names(models) + marks)
    return figure


def frontiers_figure(models, real):
    """The figure of `draw_frontiers`. Models without a point are not in its legend."""
    figure, ((axis,),) = _figure(1, 1, width=8.0)
    drawn, shown = [], []
    for model, handle, look in zip(models, _names(models), looks(len(models)), strict=True):
        for line in lines_of(model["frontier"]):
            line = [(p.entropy, p.gen_ppl) for p in line if is_number(p.entropy * p.gen_ppl)]
            if line:
                axis.plot(*zip(*line, strict=True), **look)
                drawn += line
                shown += [] if handle in shown else [handle]
    if all(is_number(real.get(name)) for name in AXES):
        at = tuple(real[name] for name in AXES)
        axis.axvline(at[0], color=REAL_COLOUR, lw=0.8, ls=":", zorder=1)
        axis.plot(*at, zorder=5, **real_star())
        drawn.append(at)
        shown.append(entry(REAL_LABEL, real_star()))
    places = list(zip(*drawn, strict=True)) or [(), ()]
    for side, name, values in zip("xy", AXES, places, strict=True):
        metric_axis(axis, side, name, values)
    legend_below(figure, shown)
    return figure


def panels(names):
    """The metrics to draw of those in `names`: a list of rows of panels."""
    rows = [
        [name for name in row if name in names]
        for leads, row in ROWS
        if any(name in names for name in leads)
    ]
    return rows or [list(OTHERWISE)]


def _figure(rows, columns, width=4.8):
    size = max(width * columns, 6.4), 4.6 * rows
    return plt.subplots(rows, columns, figsize=size, dpi=DPI, layout="constrained", squeeze=False)


def _draw_scores(axis, points, name, look, over):
    """One line: a metric over the number `over` of its points, with the standard error over seeds.

    Returns:
      The numbers that are drawn, the ends of the errors among them.
    """
    scores = [point["scores"].get(name, {}) for point in points]
    found = sorted(
        (point[over], *_numbers(score)) for point, score in zip(points, scores, strict=True)
    )
    x, y, errors = zip(*found, strict=True) if found else ((), (), ())
    if not any(map(is_number, y)):
        return []
    axis.errorbar(x, y, yerr=errors, capsize=2.5, elinewidth=1, **look)
    ends = [mean + side * error for _, mean, error in found for side in (-1, 1)]
    return [end for end in ends if end > 0] + [mean for mean in y if is_number(mean)]


def _numbers(score):
    """(mean, standard error) of a score. Without a mean there is a gap in the line."""
    mean, error = score.get("mean"), score.get("standard_error")
    return mean if is_number(mean) else math.nan, error if is_number(error) else 0.0


def _names(models):
    """An entry of the legend for each model."""
    handles = []
    for model, look in zip(models, looks(len(models)), strict=True):
        name, method = model["name"], model["method"]
        handles.append(entry(name if name == method else f"{name} ({method})", look))
    return handles


def _write(figure, picture):
    write_picture(figure, picture, dpi=DPI)
    plt.close(figure)
