"""The loss curves: panels with units, few points and many, and what is drawn of them."""

import json
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from elf_jax.core.workdir import CURVE, METRICS
from elf_jax.methods.ar.method import AR
from elf_jax.methods.cdcd.method import CDCD
from elf_jax.methods.distilled.method import DistilledELF
from elf_jax.methods.duo.method import Duo
from elf_jax.methods.elf import method as elf
from elf_jax.methods.flm.method import FLM
from elf_jax.methods.mdlm.method import MDLM, LLaDA
from elf_jax.methods.registry import METHODS
from elf_jax.training import curve, encoder, scorer
from elf_jax.training.curve import draw_curve, moving_mean

CURVES = {"loss": "loss (nats per token)", "accuracy": "accuracy (share of the tokens)"}


@pytest.fixture
def figure(tmp_path, monkeypatch):
    """Draws lines of a log; returns the figure."""
    kept = []
    monkeypatch.setattr(curve.plt, "close", kept.append)

    def draw(lines, curves=CURVES):
        (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
        picture = draw_curve(tmp_path, curves, "held out")
        assert picture == tmp_path / CURVE and picture.read_bytes().startswith(b"\x89PNG")
        return kept[-1]

    yield draw
    monkeypatch.undo()
    plt.close("all")


def line(step, validated=False):
    values = {"loss": 3 + 97 / step, "accuracy": 0.5, "learning_rate": 0.1 / step}
    held_out = {"validation_loss": 3.5, "validation_accuracy": 0.4}
    return {"step": step, "seconds": 1.0, **values, **(held_out if validated else {})}


def labels(axis):
    return [one.get_text() for one in axis.get_legend().get_texts()] if axis.get_legend() else []


def test_panels_have_titles_units_and_the_learning_rate(figure):
    axes = figure([line(step, step % 4 == 0) for step in range(1, 13)]).axes
    names = [(axis.get_title(), axis.get_ylabel(), axis.get_xlabel()) for axis in axes]
    assert names == [
        ("loss", "nats per token", "training step"),
        ("accuracy", "share of the tokens", "training step"),
        ("learning rate", "learning rate", "training step"),
    ]
    assert labels(axes[0]) == ["training", "held out"] and labels(axes[2]) == []
    raw, held_out = axes[0].lines
    assert list(raw.get_xdata()) == list(range(1, 13)) and raw.get_ydata()[0] == 100
    assert list(held_out.get_xdata()) == [4, 8, 12] and set(held_out.get_ydata()) == {3.5}
    assert list(axes[2].lines[0].get_ydata()) == [0.1 / step for step in range(1, 13)]


def test_a_single_point_is_seen(figure):
    drawn = figure([line(1, True)])
    for axis in drawn.axes:
        assert all(one.get_marker() == "o" and len(one.get_xdata()) == 1 for one in axis.lines)
        low, high = axis.get_xlim()
        assert low == 0 and high > 1
        ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert ticks == [0, 1]  # whole steps, each once


def test_many_points_stay_visible_behind_their_mean(figure):
    rng = np.random.default_rng(0)
    lines = [line(step, step % 500 == 0) for step in range(1, 5001)]
    for one in lines:
        one["loss"] += rng.normal(0, 0.5)
    axis = figure(lines).axes[0]
    assert labels(axis) == ["training", "training, moving mean", "held out"]
    raw, mean, held_out = axis.lines
    assert list(raw.get_ydata()) == [one["loss"] for one in lines] and raw.get_alpha() < 0.5
    assert np.std(np.diff(mean.get_ydata())) < np.std(np.diff(raw.get_ydata())) / 20
    assert len(held_out.get_xdata()) == 10
    # The first losses are far above all others, and do not press them onto a line.
    low, high = axis.get_ylim()
    assert low < 3 < high < 20 < raw.get_ydata()[0]
    assert list(axis.lines[0].get_xdata())[-1] == 5000


def test_a_metric_that_the_log_does_not_have_leaves_its_panel_empty(figure):
    axes = figure([{"step": 3, "loss": 1.0}]).axes
    assert [len(axis.lines) for axis in axes] == [1, 0, 0]
    assert [len(axis.lines) for axis in figure([]).axes] == [0, 0, 0]


def test_a_value_that_is_not_finite(figure):
    lines = [line(step) for step in range(1, 301)]
    lines[5]["validation_loss"] = float("nan")
    assert len(figure(lines).axes[0].lines) == 3


def test_moving_mean():
    values = np.array([1.0, 2.0, 6.0, 4.0])
    np.testing.assert_allclose(moving_mean(values, 3), [1.5, 3.0, 4.0, 5.0])
    np.testing.assert_allclose(moving_mean(values, 1), values)


OF_METHODS = (AR, MDLM, LLaDA, Duo, CDCD, FLM)
OTHERS = {
    "elf": elf.CURVES | elf.TOKEN_CURVE,
    "distillation": DistilledELF.curves.fget(SimpleNamespace(error="velocity")),
    "encoder": encoder.CURVES,
    "scorer": scorer.CURVES,
}
ALL = {method.name: method.curves for method in OF_METHODS} | OTHERS


@pytest.mark.parametrize("name", sorted({*METHODS, *OTHERS}))
def test_every_training_has_units(figure, name):
    curves = ALL[name]
    axes = figure([{"step": 2, **dict.fromkeys(curves, 1.0), "learning_rate": 0.1}], curves).axes
    assert len(axes) == len(curves) + 1
    for axis in axes[:-1]:
        assert axis.get_ylabel() and axis.get_ylabel() != axis.get_title()
        assert "(" not in axis.get_title() and len(axis.lines) == 1
