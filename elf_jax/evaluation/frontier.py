"""Draws the results of a sweep: lines of points, one point for each combination of settings."""

import matplotlib

matplotlib.use("Agg")  # no display is needed

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: E402

from elf_jax.core.files import write_picture  # noqa: E402

LABELS = {
    "gen_entropy": "unigram entropy of the scorer's tokens (nats)",
    "gen_ppl": "Gen. PPL",
    "bleu": "BLEU (cased)",
    "rouge_l": "ROUGE-L",
}
STYLES = {"marker": "osD^vP", "linestyle": ("-", "--", ":", "-.")}
CHANNELS = ("color", "marker", "linestyle")  # how lines differ, the clearest way first


def draw_frontier(points, real, panels, picture, title, method):
    """Draws a sweep and writes it as a PNG.

    Along a line the last of the method's scales changes. Other settings that differ between points
    give the lines different colours, markers and styles.

    Args:
      points: list of dicts of settings and numbers.
      real: {metric: value} of held-out text. A panel marks it if both of its metrics are there.
      panels: list of (x, y), names in the points. picture: path. title: of the figure.
      method: a `Method`; its settings and scales are used.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(7.2 * len(panels), 5.2), layout="constrained", squeeze=False
    )
    for axis, (x, y) in zip(axes[0], panels, strict=True):
        _Panel(axis, points, real, x, y, method).draw()
    figure.suptitle(title, fontsize=11)
    write_picture(figure, picture, dpi=120)
    plt.close(figure)


class _Panel:
    """One pair of axes: y over x."""

    def __init__(self, axis, points, real, x, y, method):
        self.axis, self.points, self.x, self.y = axis, points, x, y
        self.method, self.real = method, real
        self.along = x if x in method.scales else list(method.scales)[-1]
        fixed = [key for key in method.settings if key not in (x, self.along)]
        # Steps are always in the legend, other settings only if they differ.
        self.fixed = sorted(fixed, key=lambda key: key != "steps")
        named = [key for key in self.fixed if key == "steps" or len(self._values(key)) > 1]
        self.looks = {
            key: {"channel": channel, **self._look(key, channel)}
            for key, channel in zip(named, CHANNELS, strict=False)
        }

    def _values(self, key):
        return sorted({point[key] for point in self.points})

    def _look(self, key, channel):
        """{value: colour, marker or line style} of a setting."""
        values = self._values(key)
        if channel == "color":
            shades = plt.get_cmap("viridis")
            last = max(len(values) - 1, 1)
            return {"of": {n: shades(0.75 * i / last) for i, n in enumerate(values)}}
        styles = STYLES[channel]
        return {"of": {n: styles[i % len(styles)] for i, n in enumerate(values)}}

    def draw(self):
        for line in self._lines():
            points = [p for p in line if p[self.x] is not None and p[self.y] is not None]
            if points:
                self._draw_line(points)
        if self._has_real():
            at = self.real[self.x], self.real[self.y]
            self.axis.plot(*at, "*", color="crimson", ms=15, zorder=5)
        self._finish()
        self.axis.legend(handles=self._legend(), fontsize=8, framealpha=0.9)

    def _lines(self):
        """The points of each line, in the order of the setting that changes along it."""
        groups = {}
        for point in self.points:
            groups.setdefault(tuple(point[key] for key in self.fixed), []).append(point)
        return [sorted(group, key=lambda point: point[self.along]) for group in groups.values()]

    def _draw_line(self, points):
        style = {"marker": "o", "color": "C0"}  # of a single line
        for key, look in self.looks.items():
            style[look["channel"]] = look["of"][points[0][key]]
        places = [[point[name] for point in points] for name in (self.x, self.y)]
        self.axis.plot(*places, ms=5, lw=1.3, **style)
        if self.x != self.along and len({point[self.along] for point in points}) > 1:
            self._name_ends(points, style["color"])

    def _name_ends(self, points, colour):
        """Writes the scale beside both ends of a line."""
        short = self.method.settings[self.along]
        ends = sorted((points[0], points[-1]), key=lambda point: point[self.x])
        for point, side, shift in zip(ends, ("right", "left"), (-7, 7), strict=True):
            self.axis.annotate(
                f"{short}={point[self.along]:g}",
                (point[self.x], point[self.y]),
                textcoords="offset points",
                xytext=(shift, 0),
                ha=side,
                va="center",
                fontsize=7,
                color=colour,
            )

    def _has_real(self):
        return self.real.get(self.x) is not None and self.real.get(self.y) is not None

    def _finish(self):
        labels = {**LABELS, **self.method.scales}
        self.axis.set_xlabel(labels.get(self.x, self.x))
        self.axis.set_ylabel(labels.get(self.y, self.y))
        self.axis.grid(alpha=0.3)
        self.axis.margins(0.1)
        if self.y == "gen_ppl":
            self.axis.set_yscale("log")
            self.axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
            self.axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            self.axis.yaxis.set_minor_formatter(NullFormatter())

    def _legend(self):
        handles = []
        for key, look in self.looks.items():
            for value, style in look["of"].items():
                handles.append(_handle(self._named(key, value), look["channel"], style))
        if self._has_real():
            star = {"color": "crimson", "marker": "*", "ms": 12, "lw": 0}
            handles.append(Line2D([], [], label="held-out real text", **star))
        return handles

    def _named(self, key, value):
        if key == "steps":
            return f"{value} steps"
        return value if isinstance(value, str) else f"{self.method.settings[key]} = {value:g}"


def _handle(label, channel, style):
    look = {"color": "0.3", channel: style}
    if channel == "color":
        look |= {"linestyle": "-", "lw": 2}
    elif channel == "marker":
        look["lw"] = 0
    return Line2D([], [], label=label, **look)
