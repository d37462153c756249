"""The pictures of a sweep and of a comparison: nothing overlaps, and every axis has its unit."""

import itertools
import math
import re

import matplotlib.pyplot as plt
import pytest
from matplotlib.transforms import Bbox

from elf_jax.evaluation import axes, captions
from elf_jax.evaluation.comparison_picture import frontiers_figure, quality_figure
from elf_jax.evaluation.frontier import frontier_figure
from elf_jax.evaluation.looks import FILLS, LABELS, LINES, MARKERS, legend_below, looks, shades
from elf_jax.methods.ar.method import AR
from elf_jax.methods.elf.method import ELFMethod

BASE = {
    "time_grid": "logit_normal_quantile",
    "sampler": "sde",
    "gamma_schedule": "constant",
    "steps": 32,
    "cfg_scale": 1.0,
    "gamma": 1.0,
    "guidance_scale": 1.0,
}
REAL = {"gen_entropy": 5.4, "gen_ppl": 14.7}
TEXT = [("gen_entropy", "gen_ppl")]
PAIRS = [("cfg_scale", "bleu"), ("cfg_scale", "rouge_l")]
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0)
FIFTY = {"steps": (8, 16, 32, 64, 128), "gamma": (1.0, 1.5), "guidance_scale": SCALES}
TWO = (1.0, 2.0)
LISTS = {
    "one": {"guidance_scale": (2.0,)},
    "few": {"steps": (16, 32), "guidance_scale": (1.0, 2.0, 4.0)},
    "fifty": FIFTY,
    "the same place": {"steps": (8, 16), "gamma": (1e-9, 2e-9), "guidance_scale": (1.0, 1.001)},
    "many gammas": {**FIFTY, "steps": (16, 64), "gamma": tuple(i / 4 for i in range(9))},
    "all settings": {
        **{"time_grid": ("uniform", "logit_normal"), "gamma_schedule": ("constant", "linear")},
        **{"steps": (16, 64), "cfg_scale": TWO, "gamma": TWO, "guidance_scale": TWO},
    },
}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def swept(lists):
    """Points of a sweep that lie about as those of a model do."""
    points = []
    for values in itertools.product(*lists.values()):
        point = {**BASE, **dict(zip(lists, values, strict=True))}
        steps, w, gamma, c = (point[k] for k in ("steps", "guidance_scale", "gamma", "cfg_scale"))
        entropy = 5.5 - 0.12 * w - 0.15 * gamma + 0.02 * math.log2(steps) - 0.03 * c
        entropy -= 0.1 * (point["time_grid"] == "uniform")
        ppl = (20 + 300 / steps) * math.exp(0.9 * (entropy - 5)) * (1 + gamma / steps)
        scores = {"bleu": 20 + c + math.log2(steps), "rouge_l": 40 - c}
        points.append({**point, **scores, "gen_entropy": entropy, "gen_ppl": ppl})
    return points


def drawn(lists, real=REAL, panels=TEXT):
    return frontier_figure(swept(lists), real, panels, "title", ELFMethod)


def boxes_of(texts):
    return [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]


def texts_of(figure):
    """(text, box) of everything that is written in a figure, as it is when it is saved."""
    figure.draw_without_rendering()
    found = boxes_of([figure._suptitle] if figure._suptitle else [])
    for legend in figure.legends:
        found += boxes_of(legend.get_texts())
    for axis in figure.axes:
        if axis.axison:
            found += boxes_of([*axis.texts, axis.xaxis.label, axis.yaxis.label])
            for side in (axis.xaxis, axis.yaxis):
                found += boxes_of(tick.label1 for tick in side._update_ticks())
    return found


def overlaps(boxes):
    """The pairs of texts that touch."""
    return [
        (one, other)
        for (one, first), (other, second) in itertools.combinations(boxes, 2)
        if first.overlaps(second)
    ]


def outside(figure, boxes):
    frame = figure.bbox
    return [
        text
        for text, box in boxes
        if box.x0 < 0 or box.y0 < 0 or box.x1 > frame.x1 or box.y1 > frame.y1
    ]


def area_of(axis, mark):
    """The square in which the mark of a point is, pixels."""
    x, y = axis.transData.transform(mark.get_xydata()[0])
    half = mark.get_markersize() / 2 * axis.figure.dpi / 72
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def check(figure):
    boxes = texts_of(figure)
    assert not overlaps(boxes) and not outside(figure, boxes)
    for axis in figure.axes:
        if axis.axison:
            for label in (axis.get_xlabel(), axis.get_ylabel()):
                assert re.search(r"\(.+\)$", label), label


@pytest.mark.parametrize("case", LISTS)
def test_no_texts_of_a_sweep_overlap(case):
    figure = drawn(LISTS[case])
    check(figure)
    (axis,) = figure.axes
    written = [text for text in axis.texts if "=" in text.get_text()]
    marks = [line for line in axis.lines if len(line.get_xdata()) == 1]
    assert len(marks) == len(swept(LISTS[case])) + 1  # real text too
    assert len(written) >= {"one": 0, "few": 4, "fifty": 16}.get(case, 2)
    for text, box in boxes_of(written):
        assert not any(box.overlaps(area_of(axis, mark)) for mark in marks), text


def test_overlap_is_found_where_there_is_some(monkeypatch):
    """The check of these tests can fail: without the search for a place, texts touch."""
    monkeypatch.setattr(captions.Bbox, "overlaps", lambda *_: False)
    figure = drawn(LISTS["many gammas"])
    monkeypatch.undo()
    assert overlaps(texts_of(figure))


@pytest.mark.parametrize("x", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("y", [0.0, 0.5, 1.0])
def test_captions_stay_inside_the_frame(x, y):
    figure, axis = plt.subplots()
    axis.plot([0.5, x], [0.5, y])
    axis.set(xlim=(-0.001, 1.001), ylim=(-0.001, 1.001))
    outward = {"text": "w = 1", "at": (x, y), "from_": (0.5, 0.5), "colour": "black"}
    (text,) = captions.place_captions(axis, [outward], [(x, y, 8)])
    box, frame = text.get_window_extent(), axis.bbox
    assert frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
    crowd = [{**outward, "from_": None}] * 20
    assert 1 <= len(captions.place_captions(axis, crowd, [(x, y, 8)])) < 9


def test_missing_numbers_are_gaps():
    points = swept(FIFTY)
    for index, value in enumerate((None, math.nan, math.inf)):
        points[index]["gen_ppl"] = value
    points[7]["gen_entropy"] = math.nan
    del points[12]["gen_ppl"]
    figure = frontier_figure(points, REAL, TEXT, "title", ELFMethod)
    check(figure)
    marks = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert len(marks) == 50 - 5 + 1
    low, high = figure.axes[0].get_ylim()
    assert 10 < low < high < 100


def test_nothing_to_draw_is_said():
    points = [{**point, "gen_ppl": None} for point in swept(FIFTY)]
    figure = frontier_figure(points, {}, TEXT, "title", ELFMethod)
    check(figure)
    assert [text.get_text() for text in figure.axes[0].texts] == ["no point has both numbers"]


@pytest.mark.parametrize("scales", [(2.0,), (1.0, 1.5, 2.0, 3.0)])
def test_pairs_have_two_panels(scales):
    figure = drawn({"steps": (16, 64), "cfg_scale": scales}, {}, PAIRS)
    check(figure)
    assert len(figure.axes) == 2 and not any(axis.texts for axis in figure.axes)


def test_a_method_without_steps():
    base = {"sampler": "sample", "beams": 1, "length_penalty": 0.0, "top_p": 1.0}
    values = [0.7, 0.8, 0.9, 1.0]
    points = [{**base, "temperature": t, "gen_entropy": 4 + t, "gen_ppl": 30 * t} for t in values]
    figure = frontier_figure(points, REAL, TEXT, "title", AR)
    check(figure)
    assert {text.get_text() for text in figure.axes[0].texts} == {"T = 0.7", "T = 1"}


def test_real_text_is_marked():
    names = [text.get_text() for text in drawn(FIFTY).legends[0].get_texts()]
    assert "held-out real text" in names
    names = [text.get_text() for text in drawn(FIFTY, {}).legends[0].get_texts()]
    assert "held-out real text" not in names


NEED_COLOURS = ("many gammas", "all settings")


@pytest.mark.parametrize("case", ["few", "fifty", *NEED_COLOURS])
def test_lines_of_a_sweep_look_different(case):
    """Also without colours, except where there are more settings or values than styles."""
    size = len(LISTS[case]["guidance_scale"])
    found = drawn(LISTS[case], {}).axes[0].lines
    lines = [line for line in found if len(line.get_xdata()) > 1]
    marks = [line for line in found if len(line.get_xdata()) == 1][::size]
    both = {
        (line.get_linestyle(), line.get_linewidth(), mark.get_marker(), mark.get_fillstyle())
        + ((str(mark.get_color()),) if case in NEED_COLOURS else ())
        for line, mark in zip(lines, marks, strict=True)
    }
    assert len(both) == len(swept(LISTS[case])) // size


def test_the_same_settings_are_in_the_title():
    figure = drawn(LISTS["one"])
    title = figure._suptitle.get_text().replace("\xa0", " ").replace("\n", " ")
    assert title.startswith("title grid: logit_normal_quantile")
    assert "32 steps" in title and "w = 2" in title
    assert "w = 2" not in drawn(LISTS["few"])._suptitle.get_text().replace("\xa0", " ")


def test_a_long_title_is_not_over_the_legend():
    long = {key: (1.23456,) for key in ("guidance_scale", "gamma", "cfg_scale")}
    figure = drawn({**long, "steps": (1024,)})
    assert len(figure._suptitle.get_text().splitlines()) == 3
    assert figure._suptitle.get_window_extent().x1 < figure.axes[0].bbox.x1


def scores(**means):
    return {name: {"mean": m, "standard_error": 0.02 * m, "seeds": 3} for name, m in means.items()}


def model(index, evaluations, name="", first=True):
    """An entry of a model in comparison.json, as far as pictures read it."""
    points = []
    for one in evaluations:
        means = {"valid": 0.1 * index, "held_out": 0.01, "distinct": 1.0, "gen_seq_rep_4": 0.0}
        means |= {"gen_ppl": 300 / one + 20 * index + 9, "gen_entropy": 4 + 0.1 * index}
        points.append({"evaluations": one, "scores": scores(**means)})
    if first is not True:
        points[0]["scores"]["gen_ppl"]["mean"] = first
    frontier = [
        {"settings": {"temperature": t}, "scores": scores(gen_entropy=3 + t, gen_ppl=9 + t)}
        for t in (0.8, 0.9, 1.0)
    ]
    name = name or f"run{index}"
    return {"name": name, "method": "mdlm", "points": points, "frontier": frontier}


LONG = "runs/an_experiment_of_the_spring_with_a_long_name/and_a_second_part_that_is_long_too"
MODELS = {
    "one point": [model(1, [1024])],
    "one": [model(1, [8, 16, 32])],
    "eight": [model(i, [8 + i % 2, 16 + i % 2, 33, 65]) for i in range(8)],
    "fifty points": [model(1, range(2, 52))],
    "large numbers": [model(1, [1024, 1280, 65_536, 1_000_000]), model(2, [1025, 1281])],
    "long names": [model(i, [8, 16, 32], f"{LONG}_{i}") for i in range(5)],
    "longer names": [model(i, [8, 16, 32], f"{LONG * 3}_{i}") for i in range(3)],
    "not a number": [model(1, [8, 16, 32], first=math.nan), model(2, [8, 16], first=None)],
    "no points": [model(1, []), model(2, [8, 16])],
    "none has points": [model(1, [])],
}


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("draw", [quality_figure, frontiers_figure])
def test_no_texts_of_a_comparison_overlap(case, draw):
    models = MODELS[case]
    figure = draw(models, {"gen_ppl": 14.0, "gen_entropy": 4.4})
    check(figure)
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "held-out real text" in named or case == "none has points"
    assert len([one for one in named if "mdlm" in one]) == len(models)


def test_a_picture_grows_with_its_legend():
    few, many = (quality_figure(MODELS[case], {}) for case in ("one", "long names"))
    assert many.get_figheight() > few.get_figheight() + 0.5
    heights = []
    for figure in (few, many):
        figure.draw_without_rendering()
        heights.append(figure.axes[0].get_position().height * figure.get_figheight())
    assert abs(heights[0] - heights[1]) < 0.2


def test_a_missing_score_is_a_gap():
    lines = quality_figure(MODELS["not a number"], {}).axes[3].lines
    assert [math.isnan(value) for value in lines[0].get_ydata()] == [True, False, False]


def test_models_can_be_told_apart_without_colours():
    assert len({(look["marker"], look["ls"]) for look in looks(8)}) == 8
    assert len(set(MARKERS)) == len(MARKERS) and len(set(LINES)) == len(LINES)
    assert len(set(FILLS)) == len(FILLS)
    assert "*" not in MARKERS  # real text


def test_shades_are_ordered():
    def lightness(colour):
        return sum(share * part for share, part in zip((0.3, 0.59, 0.11), colour, strict=False))

    found = [lightness(colour) for colour in shades([8, 16, 32, 64]).values()]
    assert found == sorted(found) and found[-1] < 0.75  # seen on white
    assert len(set(shades(["uniform", "logit_normal"]).values())) == 2


@pytest.mark.parametrize("low, high", [(10, 11), (1, 100), (14, 72), (0.5, 1e7), (127.1, 127.2)])
def test_ticks_of_a_logarithmic_axis(low, high):
    ticks = axes.log_ticks(low, high)
    assert 2 <= len(ticks) <= 10
    assert all(low <= tick <= high for tick in ticks)
    assert len({axes.plain(tick) for tick in ticks}) == len(ticks)


def test_numbers_of_ticks():
    values = [0, 1500.0, 0.25, 127.125, 1e7, 3e-6, 20]
    assert [axes.plain(value) for value in values] == [
        *("0", "1,500", "0.25", "127.125", "1e+07", "3e-06", "20")
    ]


def test_every_metric_that_is_drawn_has_a_unit():
    assert all(label.endswith(")") for label in LABELS.values())


def test_no_legend_without_entries():
    assert legend_below(plt.figure(layout="constrained"), []) is None
