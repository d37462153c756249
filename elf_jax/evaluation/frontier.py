"""Draws the results of a sweep: lines of points, one point for each combination of settings."""

import math
import textwrap

from elf_jax.core.files import write_picture
from elf_jax.evaluation.axes import metric_axis, scale_axis
from elf_jax.evaluation.captions import place_captions
from elf_jax.evaluation.looks import (
    COLOURS,
    DPI,
    FILLS,
    LINES,
    MARKERS,
    REAL_COLOUR,
    REAL_LABEL,
    WIDTHS,
    entry,
    is_number,
    plt,
    real_star,
    shades,
)

# How lines differ, the clearest way first. With more settings than that, colours and markers are
# two ways.
CHANNELS = (("color", "marker"), ("linestyle",), ("fillstyle",), ("linewidth",))
APART = (("color",), ("marker",), *CHANNELS[1:])
STYLES = {"marker": MARKERS, "linestyle": LINES, "fillstyle": FILLS, "linewidth": WIDTHS}
TITLE = 80  # letters of a line of the title, over one panel
SIZES = (5.0, 9.0)  # of the marks along a line, points
SIZE = 6.5  # of a mark where nothing changes along a line


def draw_frontier(points, real, panels, picture, title, method):
    """Draws a sweep and writes it as a PNG.

    Along a line the last of the method's scales changes, and its marks grow with it. Other settings
    that differ between points give the lines different colours with markers, styles and so on.
    Settings that are the same for all points are in the title.

    Args:
      points: list of dicts of settings and numbers.
      real: {metric: value} of held-out text. A panel marks it if both of its metrics are there.
      panels: list of (x, y), names in the points. picture: path. title: of the figure.
      method: a `Method`; its settings and scales are used.
    """
    figure = frontier_figure(points, real, panels, title, method)
    write_picture(figure, picture, dpi=DPI)
    plt.close(figure)


def frontier_figure(points, real, panels, title, method):
    """The figure of `draw_frontier`, whose arguments these are."""
    size = 6.6 * len(panels) + 2.0, 5.2
    figure, axes = plt.subplots(
        1, len(panels), figsize=size, dpi=DPI, layout="constrained", squeeze=False
    )
    drawn = [
        _Panel(axis, points, real, x, y, method)
        for axis, (x, y) in zip(axes[0], panels, strict=True)
    ]
    for panel in drawn:
        panel.draw()
    lines = [title, *textwrap.wrap(drawn[0].looks.same(), TITLE * len(panels))]
    heading = figure.suptitle("\n".join(lines), fontsize=10, x=0.06, ha="left")
    handles = drawn[0].looks.legend()
    if any(panel.has_real() for panel in drawn):
        handles.append(entry(REAL_LABEL, {**real_star(), "ms": 12}))
    if handles:
        columns = 1 + (len(handles) - 1) // 24
        place = {"loc": "outside right upper", "ncols": columns, "frameon": False}
        figure.legend(handles=handles, fontsize=8.5, labelspacing=0.55, **place)
    figure.draw_without_rendering()  # the captions need the final places
    figure.set_layout_engine("none")
    heading.set_x(axes[0, 0].get_position().x0)
    for panel in drawn:
        panel.name_ends()
    return figure


class _Looks:
    """How the lines of a sweep look, and the legend that says so."""

    def __init__(self, points, method, along, x):
        self.points, self.method, self.along, self.x = points, method, along, x
        self.fixed = [key for key in method.settings if key not in (x, along)]
        varied = [key for key in self.fixed if len(self.values(key)) > 1]
        varied.sort(key=self._rank)
        ways = CHANNELS if len(varied) <= len(CHANNELS) else APART
        found = zip(varied, ways, strict=False)
        self.styles = {key: self._styles(key, way) for key, way in found}

    def values(self, key):
        """The different values of a setting, in order."""
        return sorted({point[key] for point in self.points if point.get(key) is not None})

    def _rank(self, key):
        """Steps come first, and before them only what has too many values for a style of lines."""
        count = len(self.values(key))
        return count <= len(LINES), key != "steps", -count

    def _styles(self, key, way):
        """{value: {channel: colour, marker or style}} of a setting."""
        values = self.values(key)
        styles = {channel: STYLES[channel] for channel in way if channel != "color"}
        found = {
            value: {channel: of[i % len(of)] for channel, of in styles.items()}
            for i, value in enumerate(values)
        }
        if "color" in way:
            for value, shade in shades(values).items():
                found[value]["color"] = shade
        return found

    def of_line(self, point):
        """The look of the line of a point, a dict for `plot`."""
        look = {"marker": "o", "color": COLOURS[2], "linewidth": WIDTHS[0]}
        for key, styles in self.styles.items():
            look |= styles.get(point.get(key), {})
        return look

    def size(self, point):
        """The diameter of the mark of a point, in points."""
        values = self.values(self.along)
        if len(values) < 2 or self.along == self.x:
            return SIZE
        share = values.index(point[self.along]) / (len(values) - 1)
        return SIZES[0] + share * (SIZES[1] - SIZES[0])

    def same(self):
        """Names the settings that all points share, except the sampler, which is in the title."""
        keys = [key for key in self.method.settings if len(self.values(key)) == 1]
        named = [self.named(k, self.values(k)[0]) for k in keys if k != "sampler"]
        return ", ".join(one.replace(" ", "\N{NO-BREAK SPACE}") for one in named)

    def named(self, key, value):
        """A setting and its value, in words."""
        if key == "steps":
            return f"{value} steps" if value != 1 else "1 step"
        short = self.method.settings[key]
        return f"{short}: {value}" if isinstance(value, str) else f"{short} = {value:g}"

    def legend(self):
        """The entries of the legend: of each setting, then of the sizes along a line."""
        handles = []
        for key, styles in self.styles.items():
            handles += [_example(self.named(key, value), look) for value, look in styles.items()]
        values = self.values(self.along)
        shown = values if len(values) <= 5 else [values[0], values[-1]]
        for value in shown if len(values) > 1 and self.along != self.x else ():
            look = {"color": "0.35", "marker": "o", "ls": "", "ms": self.size({self.along: value})}
            handles.append(entry(self.named(self.along, value), look))
        return handles


class _Panel:
    """One pair of axes: y over x."""

    def __init__(self, axis, points, real, x, y, method):
        self.axis, self.x, self.y, self.real, self.method = axis, x, y, real, method
        self.along = x if x in method.scales else list(method.scales)[-1]
        self.looks = _Looks(points, method, self.along, x)
        self.points = points
        self.marks, self.captions = [], []

    def draw(self):
        """Draws the lines, the mark of real text and the axes."""
        for line in self._lines():
            self._draw_line(line)
        if self.has_real():
            at = self.real[self.x], self.real[self.y]
            self.axis.axvline(at[0], color=REAL_COLOUR, lw=0.8, ls=":", zorder=1)
            self.axis.axhline(at[1], color=REAL_COLOUR, lw=0.8, ls=":", zorder=1)
            self.axis.plot(*at, zorder=5, **real_star())
            self.marks.append((*at, real_star()["ms"]))
        if not self.marks:
            middle = {"ha": "center", "va": "center", "transform": self.axis.transAxes}
            self.axis.text(0.5, 0.5, "no point has both numbers", color="0.4", **middle)
        if self.x == self.along:
            scale_axis(self.axis, self.method.scales[self.x], self.looks.values(self.x) or [0.0])
        else:
            metric_axis(self.axis, "x", self.x, [x for x, _, _ in self.marks])
        metric_axis(self.axis, "y", self.y, [y for _, y, _ in self.marks])

    def _lines(self):
        """The points of each line, in the order of the setting that changes along it."""
        groups = {}
        for point in self.points:
            groups.setdefault(tuple(point.get(key) for key in self.looks.fixed), []).append(point)
        return [sorted(group, key=lambda point: point[self.along]) for group in groups.values()]

    def _draw_line(self, points):
        """A line with a gap where a number is missing, and its marks."""
        look = self.looks.of_line(points[0])
        places = [(point.get(self.x), point.get(self.y)) for point in points]
        found = [all(map(is_number, place)) for place in places]
        nowhere = math.nan, math.nan
        whole = [place if ok else nowhere for place, ok in zip(places, found, strict=True)]
        if len(points) > 1:
            line = {**look, "marker": None, "fillstyle": None}
            self.axis.plot(*zip(*whole, strict=True), **line)
        drawn = [(p, at) for p, at, ok in zip(points, places, found, strict=True) if ok]
        for point, at in drawn:
            size = self.looks.size(point)
            mark = {key: look[key] for key in ("color", "marker", "fillstyle") if key in look}
            mark |= _edge(look) | {"ms": size, "ls": "", "zorder": 4 - size / 100}
            self.axis.plot(*at, **mark)
            self.marks.append((*at, size))
        if self.x != self.along and len(drawn) > 1:
            self._note_ends(drawn, look["color"])

    def _note_ends(self, drawn, colour):
        (first, second), (last, before) = (drawn[0], drawn[1]), (drawn[-1], drawn[-2])
        for (point, at), (_, from_) in ((first, second), (last, before)):
            text = self.looks.named(self.along, point[self.along])
            self.captions.append({"text": text, "at": at, "from_": from_, "colour": colour})

    def has_real(self):
        """Whether there are both numbers of real text."""
        return all(is_number(self.real.get(name)) for name in (self.x, self.y))

    def name_ends(self):
        """Writes the scale beside both ends of each line, where there is room."""
        place_captions(self.axis, self.captions, self.marks)


def _edge(look):
    """The edge of a mark: white, so that marks which overlap are seen, if the mark is full."""
    if look.get("fillstyle", "full") == "full":
        return {"mec": "white", "mew": 0.6}
    return {"mew": 1.0, "markerfacecoloralt": "white"}


def _example(label, look):
    """An entry of the legend that shows one difference and leaves the rest grey."""
    grey = {"color": "0.35", "ls": "", "ms": SIZE + 1, **_edge(look)}
    if "color" in look:
        grey["ls"] = "-"
    elif "linestyle" in look or "linewidth" in look:
        grey |= {"marker": "", "ls": "-", "lw": 1.6}
    elif "fillstyle" in look:
        grey["marker"] = "o"
    # A style and a width have a long and a short name; only one may be given.
    if "linestyle" in look:
        del grey["ls"]
    if "linewidth" in look:
        grey.pop("lw", None)
    return entry(label, {**grey, **look})
