"""The figures of the docs that a script draws."""

import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

from elf_jax.core import defaults

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "docs" / "figures" / "method.py"
PARTS = {"path": (0, 200), "network": (210, 575), "below": (590, 830)}  # pixels from the top


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("method_figure", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def texts_of(figure):
    """(text, box) of all words. A box is a little higher than the letters in it."""
    figure.draw_without_rendering()
    return [
        (text.get_text(), text.get_window_extent().padded(0, -3))
        for text in figure.axes[0].texts
        if text.get_text()
    ]


def test_the_script_draws_every_part_of_the_method(tmp_path):
    output = tmp_path / "method.png"
    command = [sys.executable, str(SCRIPT), f"--output={output}"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.stdout == f"{output}\n", run.stderr
    image = matplotlib.image.imread(output)[..., :3]
    assert image.shape[:2] == (1672, 1800)
    for name, (top, bottom) in PARTS.items():
        part = image[2 * top : 2 * bottom]
        assert (part.min(axis=-1) < 0.6).mean() > 0.02, name  # there is ink
        assert (part.max(axis=-1) - part.min(axis=-1) > 0.2).mean() > 0.01, name  # and colour
    edge = image[:4].min(), image[-4:].min(), image[:, :4].min(), image[:, -4:].min()
    assert min(edge) > 0.99  # a white margin, which the dark theme needs


def test_no_words_touch_or_leave_the_page(script):
    config = defaults.get_config()
    figure = script.draw(config.objective, config.model)
    boxes = texts_of(figure)
    touching = [
        (one, other)
        for (one, first), (other, second) in itertools.combinations(boxes, 2)
        if first.overlaps(second)
    ]
    assert not touching
    scale = figure.dpi / 90
    for words, box in boxes:
        assert 10 * scale < box.x0 and box.x1 < 890 * scale, words
        assert 0 < box.y0 and box.y1 < figure.bbox.y1, words


def test_its_numbers_are_those_of_the_config(script):
    config = defaults.get_config()
    config.objective.update({"noise_scale": 3.0, "decode_fraction": 0.5})
    config.model.mode_tokens = 2
    before = script.draw(defaults.get_config().objective, defaults.get_config().model)
    after = script.draw(config.objective, config.model)
    words = " ".join(text for text, _ in texts_of(after))
    assert "s = 3" in words and "loss = 0.5 denoise + 0.5 decode" in words
    assert "25%" in words and "40%" not in words
    cells = [len(figure.axes[0].patches) for figure in (before, after)]
    assert cells[0] - cells[1] == 2


def test_the_docs_show_it_and_say_how_it_is_made():
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert "](method.png)" in text and "python docs/figures/method.py" in text
    assert (ROOT / "docs" / "method.png").stat().st_size > 50_000
