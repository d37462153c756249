"""The loss curves of a run, as a picture."""

import math
import pathlib
import re

import matplotlib

matplotlib.use("Agg")  # no display is needed

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.ticker import MaxNLocator, StrMethodFormatter  # noqa: E402

from elf_jax.core.files import write_picture  # noqa: E402
from elf_jax.core.workdir import CURVE  # noqa: E402
from elf_jax.training.metrics_log import read_metrics  # noqa: E402
from elf_jax.training.validation import PREFIX  # noqa: E402

RATE = "learning_rate"
COLUMNS = 3  # panels in a row; four panels are two rows of two
PANEL = (4.6, 3.4)  # width and height in inches
TRAINING, HELD_OUT = "#0072b2", "#d55e00"  # colour-blind people can tell them apart
FEW = 30  # points: each of them is marked
MANY = 200  # points: their moving mean is drawn too, and they themselves in pale
WINDOW = 50  # one part in so many of the points is averaged for the moving mean
FRAMED = (0.5, 99.5)  # percent of them that are in the picture; the others leave its frame


def draw_curve(workdir, curves, held_out="held out"):
    """Draws metrics of the training rows and of the held-out rows over the steps, and the learning
    rate, as a PNG.

    Args:
      workdir: with the log of the metrics. The picture goes there too.
      curves: {metric: title with its unit in brackets}; one panel for each.
      held_out: name of the held-out metrics in the legend.

    Returns:
      Path of the picture.

    Raises:
      UserError: a line of the log is damaged.
    """
    values, panels = read_metrics(workdir), curves | {RATE: "learning rate"}
    columns = 2 if len(panels) == 4 else min(len(panels), COLUMNS)
    rows = math.ceil(len(panels) / columns)
    size = PANEL[0] * columns, PANEL[1] * rows
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (name, title) in zip(axes.flat, panels.items(), strict=False):
        _draw_panel(axis, title)
        if values:
            axis.set_xlim(0, 1.03 * values[-1]["step"])
        training, validation = _points(values, name), _points(values, f"{PREFIX}{name}")
        if name == RATE:
            _draw_line(axis, *training, color=TRAINING)
        else:
            _draw_metric(axis, training, validation, held_out)
    picture = pathlib.Path(workdir) / CURVE
    write_picture(figure, picture, dpi=110)
    plt.close(figure)
    return picture


def moving_mean(values, width):
    """Each of [N] values averaged with its neighbours: `width` values in all, at the ends those of
    them that are there.
    """
    half = width // 2
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    first = np.maximum(np.arange(len(values)) - half, 0)
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def _points(values, name):
    """(steps, values of a metric at these steps)."""
    found = [(one["step"], one[name]) for one in values if name in one]
    return tuple(np.array(found, np.float64).reshape(-1, 2).T)


def _draw_panel(axis, title):
    """The title without its unit, which is the name of the upward axis."""
    found = re.fullmatch(r"(.*?) \((.*?)\)(.*)", title)
    axis.set_title(found[1] + found[3] if found else title, fontsize=11)
    axis.set_ylabel(found[2] if found else title)
    axis.set_xlabel("training step")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.grid(alpha=0.3)


def _draw_metric(axis, training, validation, held_out):
    steps, values = training
    if len(steps) < MANY:
        _draw_line(axis, steps, values, label="training", color=TRAINING)
    else:
        mean = moving_mean(values, len(steps) // WINDOW)
        axis.plot(steps, values, label="training", color=TRAINING, alpha=0.3, lw=0.7)
        axis.plot(steps, mean, label="training, moving mean", color=TRAINING)
        seen = np.concatenate([np.percentile(values, FRAMED), mean, validation[1]])
        if np.isfinite(seen).all():
            room = 0.05 * np.ptp(seen) or 1.0
            axis.set_ylim(seen.min() - room, seen.max() + room)
    _draw_line(axis, *validation, label=held_out, color=HELD_OUT, zorder=3)
    if axis.lines:
        axis.legend(fontsize=8)


def _draw_line(axis, steps, values, **look):
    """A line; few points are marked, so that a single one is seen too."""
    if len(steps):
        axis.plot(steps, values, marker="o" if len(steps) < FEW else None, ms=3.5, **look)
