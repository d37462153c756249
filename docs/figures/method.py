"""Draws docs/method.png: how ELF works, on one page.

    python docs/figures/method.py --output=docs/method.png

All numbers in the picture are those of the config's defaults, and the small latents are mixed by
the formula of the path. Coordinates are pixels of a page that is 900 wide; y points down.
"""

import argparse
import pathlib

import matplotlib

matplotlib.use("Agg")  # no display is needed

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from elf_jax.core import defaults

WIDTH, HEIGHT = 900, 836
DENOISE, DECODE, FROZEN, INK, SOFT = "#0072B2", "#C75B00", "#5F6B75", "#1B1F24", "#57606A"
LIGHT = {DENOISE: "#E3F0F9", DECODE: "#FCEBDD", FROZEN: "#ECEFF2", INK: "#F6F8FA"}
PAIR = "#7DB4DB"  # a lighter blue, for rows without self-conditioning
LATENTS = LinearSegmentedColormap.from_list("latents", ["#20568C", "#F4F4F4", "#B4561B"])
WORDS = ("the", "cat", "sat", "on", "the", "mat")
CHANNELS = 12
PREV = r"$x_\mathrm{prev}$"


class Page:
    """A blank page to draw on."""

    def __init__(self):
        self.figure = plt.figure(figsize=(WIDTH / 90, HEIGHT / 90), dpi=180, facecolor="white")
        self.axis = self.figure.add_axes((0, 0, 1, 1))
        self.axis.set_axis_off()
        self.axis.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))

    def text(self, x, y, words, size=12, colour=INK, ha="center", weight="normal", va=None):
        """Writes words at a place; `size` is in pixels. Single lines have the same baseline."""
        if va is None and "\n" not in words:
            y, va = y - 1.5, "center_baseline"
        style = {"fontsize": 0.8 * size, "color": colour, "weight": weight, "linespacing": 1.35}
        self.axis.text(x, y, words, ha=ha, va=va or "center", **style)

    def box(self, x, y, width, height, colour, words="", size=12, fill=None, weight="bold"):
        """A box with round corners and words in its middle."""
        style = {"boxstyle": "round,pad=0,rounding_size=7", "lw": 1.3, "ec": colour}
        face = LIGHT[colour] if fill is None else fill
        self.axis.add_patch(FancyBboxPatch((x, y), width, height, fc=face, **style))
        self.text(x + width / 2, y + height / 2, words, size, colour, weight=weight)

    def arrow(self, start, end, colour=INK, bend=0.0, dashed=False):
        """An arrow between two places; with `bend` it is an arc."""
        style = {"arrowstyle": "-|>", "mutation_scale": 9, "lw": 1.4, "color": colour}
        style |= {"shrinkA": 0, "shrinkB": 0, "connectionstyle": f"arc3,rad={bend}"}
        if dashed:
            style |= {"ls": (0, (4, 2))}
        self.axis.add_patch(FancyArrowPatch(start, end, **style))

    def line(self, places, colour, dashed=False, width=1.4):
        """A line through places."""
        style = {"ls": (0, (4, 2))} if dashed else {}
        self.axis.plot(*zip(*places, strict=True), color=colour, lw=width, **style)

    def latents(self, values, x, y, width, height):
        """Latents [L, C] as coloured cells, one row for each token."""
        rows, columns = values.shape
        for row, column in np.ndindex(rows, columns):
            at = x + column * width / columns, y + row * height / rows
            face = LATENTS(0.5 + values[row, column] / 5)
            size = width / columns, height / rows
            self.axis.add_patch(Rectangle(at, *size, fc=face, ec="white", lw=0.5))
        self.axis.add_patch(Rectangle((x, y), width, height, fill=False, ec=SOFT, lw=0.9))

    def heading(self, x, y, number, words, more):
        """The heading of a part of the page: a number, its name, and what it says."""
        self.axis.plot(x + 9, y, "o", ms=15, color=INK)
        self.text(x + 9, y, number, 12, "white", weight="bold")
        self.text(x + 26, y, words, 15, weight="bold", ha="left")
        self.text(x + 26, y + 20, more, 11.5, SOFT, ha="left")


def draw(law, sizes):
    """The whole page as a figure.

    Args:
      law: config section `objective`. sizes: config section `model`.
    """
    page = Page()
    for places in (((20, 206), (880, 206)), ((20, 582), (880, 582)), ((302, 596), (302, 822))):
        page.line(places, "#D5DADF", width=1.0)
    z = _path_latents(law.noise_scale)
    _draw_path(page, law, z)
    _draw_network(page, sizes)
    _draw_modes(page, law)
    _draw_training(page, law)
    _draw_sampling(page, law, z)
    return page.figure


def _path_latents(noise_scale):
    """A function t -> latents [L, C] on a path from noise to data; the data are waves."""
    place = np.arange(CHANNELS)
    data = np.stack([2 * np.sin(0.55 * place + 1.1 * row) for row in range(len(WORDS))])
    noise = np.random.default_rng(3).normal(size=data.shape)
    return lambda t: t * data + (1 - t) * noise_scale * noise


def _draw_path(page, law, z):
    page.heading(
        20, 24, "1", "One path", "from noise to data, in the latent space of a frozen encoder"
    )
    width, height, top, step = 88, 90, 63, 120
    for index, t in enumerate((0, 0.25, 0.5, 0.75, 1)):
        x = 24 + step * index
        page.latents(z(t), x, top, width, height)
        name = {0: "t = 0, noise", 1: "t = 1, data"}.get(t, f"t = {t}")
        page.text(x + width / 2, top + height + 13, name, 12)
        if t < 1:
            page.arrow((x + width + 5, top + 45), (x + step - 5, top + 45))
    formula = r"$z_t \;=\; t\,x + (1-t)\,s\,\varepsilon$"
    page.text(24, 189, formula, 14.5, ha="left")
    known = rf"$\varepsilon \sim N(0, I)$,  $s = {law.noise_scale:g}$,  $x$: clean latents, "
    page.text(196, 189, known + "one row for each token", 12, SOFT, ha="left")
    page.arrow((664, top + 45), (598, top + 45))
    page.text(631, top + 32, "$x$", 14)
    page.box(668, top + 18, 112, 54, FROZEN, "frozen encoder\n(such as T5)", 12)
    page.arrow((828, top + 45), (784, top + 45))
    for row, word in enumerate(WORDS):
        page.text(838, top + height * (row + 0.5) / 6, word, 12, ha="left")
    page.text(724, top + height + 13, "only for training, and for given text", 11.5, SOFT)


def _draw_network(page, sizes):
    more = "the mode tokens tell them apart; all weights but those of the heads are shared"
    page.heading(20, 226, "2", "One network, two modes", more)
    cell, gap, left, top = 13, 3, 300, 486
    groups = (
        ("time", r"$t$", sizes.time_tokens, "#8C96A0"),
        ("guidance", r"$w$", sizes.guidance_tokens, "#8C96A0"),
        ("mode", "off, on", sizes.mode_tokens, "#D9A400"),
        ("text positions", r"[$z$, $x_\mathrm{prev}$]", 6, INK),
    )
    x = left
    for name, value, count, colour in groups:
        for _ in range(count):
            page.axis.add_patch(Rectangle((x, top), cell, cell, fc=colour, ec="none"))
            x += cell + gap
        middle = x - gap - (count * (cell + gap) - gap) / 2
        page.arrow((middle, top - 4), (middle, top - 22))
        page.text(middle, top + 24, name, 11.5)
        page.text(middle, top + 41, value, 12.5)
        x += 12
    page.box(296, 402, 338, 60, INK, "Transformer\nevery position sees all others", 13)
    for colour, x, name, below in (
        (DENOISE, 296, "x-prediction head", r"$\hat x$, clean latents"),
        (DECODE, 472, "vocabulary head", "a token for each position"),
    ):
        page.arrow((x + 81, 400), (x + 81, 371), colour)
        page.box(x, 333, 162, 36, colour, name, 12.5)
        page.arrow((x + 81, 331), (x + 81, 311), colour)
        page.text(x + 81, 299, below, 12.5, colour)
    loop = [(312, 299), (284, 299), (284, 552), (586, 552)]
    page.line(loop, DENOISE, dashed=True)
    page.arrow((586, 552), (586, 539), DENOISE)
    words = r"self-conditioning: $\hat x$ comes back as $x_\mathrm{prev}$"
    page.text(292, 565, words, 11.5, DENOISE, ha="left")


def _draw_modes(page, law):
    velocity = r"$\hat v = (\hat x - z_t)\,/\,(1 - t)$"
    denoise = (
        ("mode tokens", "off, × 0"),
        ("time", r"$t$ of the path"),
        ("text input", r"[$z_t$, $x_\mathrm{prev}$]"),
        (r"$x_\mathrm{prev}$", "an estimate, or 0"),
        ("velocity", velocity),
        ("target", r"$v^*$, guided by $w$"),
        ("loss", r"$(\hat v - v^*)^2$"),
    )
    decode = (
        ("mode tokens", "on, × 1"),
        ("time", "always 1"),
        ("text input", r"[$\tilde z$, 0]"),
        (r"$\tilde z$", r"$\lambda x + (1 - \lambda)\,s_d\,\varepsilon$"),
        ("", r"$\lambda$ for each token"),
        ("output", "logits of tokens"),
        ("loss", "cross-entropy"),
    )
    _card(page, 20, DENOISE, "Denoise mode", denoise)
    _card(page, 656, DECODE, "Decode mode", decode)


def _card(page, x, colour, title, rows):
    page.box(x, 282, 224 if x > 450 else 248, 262, colour)
    page.text(x + 14, 303, title, 14.5, colour, ha="left", weight="bold")
    for index, (name, value) in enumerate(rows):
        y = 336 + 31 * index
        page.text(x + 14, y, name, 11.5, SOFT, ha="left")
        page.text(x + 98, y, value, 12.5, ha="left")


def _draw_training(page, law):
    page.heading(20, 604, "3", "Training", "both modes in every batch")
    q, p = law.decode_fraction, law.self_cond_fraction
    parts = (
        ((1 - q) * p, DENOISE, "denoise,\nwith an estimate\nas " + PREV),
        ((1 - q) * (1 - p), PAIR, f"denoise,\n{PREV} = 0"),
        (q, DECODE, "decode"),
    )
    x, width, top = 24, 250, 648
    for share, colour, words in parts:
        size = share * width
        page.axis.add_patch(Rectangle((x, top), size, 34, fc=colour, ec="white", lw=1.5))
        ink = INK if colour == PAIR else "white"
        page.text(x + size / 2, top + 17, f"{share:.0%}", 13, ink, weight="bold")
        page.text(x + size / 2, top + 42, words, 11.5, INK, va="top")
        x += size
    loss = rf"loss = {1 - q:g} denoise + {q:g} decode"
    page.text(24, 760, loss, 13, ha="left", weight="bold")
    more = (
        "Each row draws its own guidance scale $w$,",
        r"and its own $t$ or $\lambda$. The estimate comes",
        "from a first pass without gradient.",
    )
    page.text(24, 796, "\n".join(more), 11.5, SOFT, ha="left")


def _draw_sampling(page, law, z):
    page.heading(322, 604, "4", "Sampling", "steps from noise to data, and one decode at the end")
    top, height, middle = 672, 54, 699
    page.latents(z(0), 326, top, 62, height)
    page.text(357, top + height + 12, r"$s\,\varepsilon$", 12.5)
    steps = ((408, "1"), (478, "2"), (580, "$N$"))
    for x, name in steps:
        page.box(x, top + 4, 46, 46, DENOISE, name, 14)
        page.arrow((x + 23, top + 76), (x + 23, top + 54), SOFT)
        page.text(x + 23, top + 86, r"$t,\ w$", 12, SOFT)
    for start, end in ((390, 406), (456, 476), (526, 542), (562, 578), (628, 644), (710, 726)):
        page.arrow((start, middle), (end, middle))
    page.text(552, middle, r"$\cdots$", 17)
    for start, end in ((433, 499), (503, 545), (559, 601)):
        page.arrow((start, top + 2), (end, top + 2), DENOISE, bend=-0.55, dashed=True)
    page.text(518, top - 29, r"$\hat x$ is the next $x_\mathrm{prev}$", 11.5, DENOISE)
    page.latents(z(1), 646, top, 62, height)
    page.text(677, top + height + 12, r"$t = 1$", 12.5)
    page.box(728, top + 4, 62, 46, DECODE, "decode", 12.5)
    page.arrow((759, top + 76), (759, top + 54), SOFT)
    page.text(759, top + 86, r"$w$", 12, SOFT)
    page.arrow((794, middle), (810, middle))
    page.text(816, middle, "the cat\nsat on\nthe mat", 12.5, ha="left")
    for left, right, colour, words in (
        (408, 568, DENOISE, "a scan over $N - 1$ steps,\nODE or SDE"),
        (580, 626, DENOISE, "the last\nstep, ODE"),
        (728, 790, DECODE, "one pass\non [$z$, 0]"),
    ):
        y = top + 104
        page.line([(left, y - 5), (left, y), (right, y), (right, y - 5)], colour)
        page.text((left + right) / 2, y + 8, words, 11.5, colour, va="top")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    place = pathlib.Path(__file__).parent.parent / "method.png"
    parser.add_argument("--output", default=place, help="a .png, .svg or .pdf file")
    output = parser.parse_args().output
    config = defaults.get_config()
    draw(config.objective, config.model).savefig(output, facecolor="white")
    print(output)


if __name__ == "__main__":
    main()
