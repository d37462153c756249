"""The loss curve of a run, as a picture."""

import pathlib

import matplotlib

matplotlib.use("Agg")  # no display is needed

import matplotlib.pyplot as plt  # noqa: E402

from elf_jax.core.files import write_picture  # noqa: E402
from elf_jax.core.workdir import CURVE  # noqa: E402
from elf_jax.training.metrics_log import read_metrics  # noqa: E402
from elf_jax.training.validation import PREFIX  # noqa: E402


def draw_curve(workdir, curves, held_out="held out"):
    """Draws metrics of the training rows and of the held-out rows over the steps, as a PNG.

    Args:
      workdir: with the log of the metrics. The picture goes there too.
      curves: {metric: title with its units}; one panel for each.
      held_out: name of the held-out metrics in the legend.

    Returns:
      Path of the picture.

    Raises:
      UserError: a line of the log is damaged.
    """
    values = read_metrics(workdir)
    figure, axes = plt.subplots(
        1, len(curves), figsize=(13 / 3 * len(curves), 3.8), layout="constrained", squeeze=False
    )
    for axis, (name, title) in zip(axes[0], curves.items(), strict=True):
        _draw_panel(axis, values, name, title, held_out)
    picture = pathlib.Path(workdir) / CURVE
    write_picture(figure, picture, dpi=110)
    plt.close(figure)
    return picture


def _draw_panel(axis, values, name, title, held_out):
    for key, label in ((name, "training"), (f"{PREFIX}{name}", held_out)):
        points = [(one["step"], one[key]) for one in values if key in one]
        if points:
            marker = "o" if len(points) < 30 else None
            axis.plot(*zip(*points, strict=True), label=label, marker=marker, ms=3)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("step")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
