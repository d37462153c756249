"""How pictures of an evaluation look: colours, marks, the names of the axes, and the legend.

Every model has one colour and one marker in all pictures. The colours are those of Okabe and Ito,
which colour-blind readers can tell apart, without yellow. Nothing is told apart by its colour
alone.
"""

import math

import matplotlib

matplotlib.use("Agg")  # no display is needed

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402

COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
MARKERS = "osD^vPXp"  # one more than colours, so that the eighth model has its own
LINES = ("-", "--", ":", "-.", (0, (7, 1.5)), (0, (1, 3)))
FILLS = ("full", "none", "left", "bottom", "right", "top")
WIDTHS = (1.3, 2.6, 3.9)
REAL_LABEL = "held-out real text"
REAL_COLOUR = "crimson"
DPI = 120

# Names of axes, with the unit in brackets at the end.
LABELS = {
    "valid": "valid (share of the samples)",
    "held_out": "held-out (share of the samples)",
    "distinct": "distinct (share of the samples)",
    "gen_ppl": "Gen. PPL (per token of the scorer)",
    "gen_entropy": "unigram entropy of the scorer's tokens (nats)",
    "gen_seq_rep_4": "rep-4 (share of the 4-grams)",
    "bleu": "BLEU, cased (0 to 100)",
    "rouge_l": "ROUGE-L, F1 (0 to 100)",
    "entropy": "unigram entropy of the model's tokens (nats)",
    "evaluations": "network evaluations (forward passes)",
    "minutes": "training (minutes)",
}


def looks(count):
    """The colour, marker and style of each of `count` models, a list of dicts for `plot`."""
    size = len(COLOURS)
    return [
        {
            "color": COLOURS[index % size],
            "marker": MARKERS[index % len(MARKERS)],
            "ls": LINES[index // size % len(LINES)],
            "ms": 7,
            "mec": "white",
            "mew": 0.6,
            "lw": 1.4,
        }
        for index in range(count)
    ]


def shades(values):
    """{value: colour}: from dark to light for numbers, the colours of models for words."""
    if any(isinstance(value, str) for value in values):
        return {value: COLOURS[i % len(COLOURS)] for i, value in enumerate(values)}
    last = max(len(values) - 1, 1)
    return {value: plt.get_cmap("viridis")(0.8 * i / last) for i, value in enumerate(values)}


def real_star():
    """The look of the mark of real text, a dict for `plot`."""
    return {"color": REAL_COLOUR, "marker": "*", "ms": 15, "ls": "", "mec": "white", "mew": 0.6}


def real_line():
    """The look of a line at a number of real text, a dict for `axhline`."""
    return {"color": REAL_COLOUR, "lw": 1.2, "ls": (0, (6, 3))}


def entry(label, look):
    """An entry of a legend: a line or mark with this look."""
    return Line2D([], [], label=label, **look)


def is_number(value):
    """Whether a value can be drawn: there is one, and it is neither NaN nor infinite."""
    return value is not None and math.isfinite(value)


def legend_below(figure, handles, columns=4):
    """Adds a legend below the panels. The figure grows by its height, and names that are wider than
    the figure are shortened in the middle.
    """
    if not handles:
        return None
    room = 0.96 * figure.get_figwidth() * figure.dpi
    for count in range(min(columns, len(handles)), 0, -1):
        legend = _legend(figure, handles, count)
        width = legend.get_window_extent().width
        if width <= room or count == 1:
            break
        legend.remove()
    while legend.get_window_extent().width > room:
        longest = max(legend.get_texts(), key=lambda text: text.get_window_extent().width)
        shown = longest.get_text().replace("…", "")
        half = len(shown) // 2
        longest.set_text(f"{shown[: half - 1]}…{shown[half + 1 :]}")
    height = legend.get_window_extent().height / figure.dpi
    figure.set_figheight(figure.get_figheight() + height)
    return legend


def _legend(figure, handles, columns):
    place = {"loc": "outside lower center", "ncols": columns}
    return figure.legend(handles=handles, fontsize=9, frameon=False, **place)
