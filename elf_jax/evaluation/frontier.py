"""Results of a sweep as a picture: a line for each number of steps, a point for each setting."""

import os
import pathlib

import matplotlib

matplotlib.use("Agg")  # no display is needed

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: E402

LABELS = {
    "gen_entropy": "unigram entropy of the scorer's tokens (nats)",
    "gen_ppl": "Gen. PPL",
    "bleu": "BLEU (cased)",
    "rouge_l": "ROUGE-L",
    "cfg_scale": "guidance on the condition, c",
    "guidance_scale": "self-conditioning guidance, w",
}
MARKERS = "osD^vP"
STYLES = ("-", "--", ":", "-.")
POINTS_NAMED = "guidance_scale"  # written beside each point, where it is not an axis


def draw_frontier(points, real, panels, picture, title):
    """Draws a sweep to a PNG, written whole or not at all.

    Args:
      points: list of dicts of settings and numbers (steps, gamma, time_grid, guidance_scale, ...).
      real: {metric: value} of held-out text, marked where it has both of a panel's.
      panels: list of (x, y), names in the points. picture: path. title: of the whole.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(7.2 * len(panels), 5.2), layout="constrained", squeeze=False
    )
    for axis, (x, y) in zip(axes[0], panels, strict=True):
        _draw_panel(axis, points, real, x, y)
    figure.suptitle(title, fontsize=11)
    scratch = pathlib.Path(picture).with_name(f".{pathlib.Path(picture).name}")
    figure.savefig(scratch, dpi=120, format="png")
    plt.close(figure)
    os.replace(scratch, picture)


def _draw_panel(axis, points, real, x, y):
    steps, gammas, grids = (_values(points, name) for name in ("steps", "gamma", "time_grid"))
    shades = plt.get_cmap("viridis")
    colours = {n: shades(0.75 * i / max(len(steps) - 1, 1)) for i, n in enumerate(steps)}
    markers = {n: MARKERS[i % len(MARKERS)] for i, n in enumerate(gammas)}
    styles = {n: STYLES[i % len(STYLES)] for i, n in enumerate(grids)}
    for line in _lines(points, x):
        line = [point for point in line if point[x] is not None and point[y] is not None]
        if not line:
            continue
        n, gamma, grid = (line[0][name] for name in ("steps", "gamma", "time_grid"))
        axis.plot(
            [point[x] for point in line],
            [point[y] for point in line],
            color=colours[n],
            marker=markers[gamma],
            linestyle=styles[grid],
            ms=5,
            lw=1.3,
        )
        if x != POINTS_NAMED and len({point[POINTS_NAMED] for point in line}) > 1:
            _name_points(axis, line, x, y, colours[n])
    if x in real and y in real and real[y] is not None:
        axis.plot(real[x], real[y], "*", color="crimson", ms=15, zorder=5)
    _finish_panel(axis, x, y)
    handles = [_handle(f"{n} steps", color=colours[n], linestyle="-", lw=2) for n in steps]
    if len(gammas) > 1:
        handles += [_handle(f"γ = {n:g}", color="0.3", marker=markers[n], lw=0) for n in gammas]
    if len(grids) > 1:
        handles += [_handle(name, color="0.3", linestyle=styles[name]) for name in grids]
    if x in real and y in real:
        handles.append(_handle("held-out real text", color="crimson", marker="*", ms=12, lw=0))
    axis.legend(handles=handles, fontsize=8, framealpha=0.9)


def _lines(points, x):
    """The points that one line joins, each list in the order of what changes along it."""
    fixed = [name for name in ("steps", "gamma", "time_grid", "cfg_scale") if name != x]
    if x == "cfg_scale":
        fixed.append(POINTS_NAMED)
    groups = {}
    for point in points:
        groups.setdefault(tuple(point[name] for name in fixed), []).append(point)
    order = x if x in ("cfg_scale", POINTS_NAMED) else POINTS_NAMED
    return [sorted(group, key=lambda point: point[order]) for group in groups.values()]


def _name_points(axis, line, x, y, colour):
    """The guidance scale at both ends of a line, written outside of it."""
    ends = sorted((line[0], line[-1]), key=lambda point: point[x])
    for point, side, shift in zip(ends, ("right", "left"), (-7, 7), strict=True):
        axis.annotate(
            f"w={point[POINTS_NAMED]:g}",
            (point[x], point[y]),
            textcoords="offset points",
            xytext=(shift, 0),
            ha=side,
            va="center",
            fontsize=7,
            color=colour,
        )


def _finish_panel(axis, x, y):
    axis.set_xlabel(LABELS.get(x, x))
    axis.set_ylabel(LABELS.get(y, y))
    axis.grid(alpha=0.3)
    axis.margins(0.1)
    if y == "gen_ppl":
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())


def _values(points, name):
    return sorted({point[name] for point in points})


def _handle(label, **style):
    return Line2D([], [], label=label, **style)
