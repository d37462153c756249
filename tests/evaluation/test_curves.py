"""Learning curves: the scores of all checkpoints of a workdir, over the time of training."""

import dataclasses
import json
import shutil

import matplotlib.image
import pytest

from elf_jax import commands
from elf_jax.core.errors import UserError
from elf_jax.evaluation import curves as curves_module
from elf_jax.evaluation import kept_samples
from elf_jax.evaluation.comparison_picture import MINUTES, quality_figure
from elf_jax.training.trainer import train
from tests.tiny import save_random_weights, tiny_config

STEPS = [2, 4, 6]
KEYS = {"scorer.path": "", "data.packing": "rows", "compare.num_samples": 4}
KEPT = {"train.checkpoint_every": 2, "train.keep_checkpoints": 3, "optimizer.warmup.steps": 0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A directory with the workdirs elf, which keeps three checkpoints, and ar, and their curves in
    `first`.
    """
    root = tmp_path_factory.mktemp("curves")
    train(tiny_config(**KEYS, **KEPT), root / "elf")
    save_random_weights(
        tiny_config(**KEYS, **{"method": "ar", "sample.sampler": "sample"}), root / "ar"
    )
    curves(root, "first")
    return root


def curves(root, output, names=("elf", "ar"), **settings):
    workdirs = [str(root / name) for name in names]
    settings = {"num_samples": 4, "seed": 0, **settings}
    return commands.curves(workdirs, output=str(root / output), **settings)


def test_every_checkpoint_is_a_point(runs):
    result = json.loads((runs / "first" / "curves.json").read_text())
    elf, ar = result["models"]
    assert [point["step"] for point in elf["points"]] == STEPS and len(ar["points"]) == 1
    seconds = [point["train_seconds"] for point in elf["points"]]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    assert [point["minutes"] for point in elf["points"]] == [one / 60 for one in seconds]
    assert all(point["scores"]["distinct"]["seeds"] == 1 for point in elf["points"])
    text = (runs / "first" / "curves.md").read_text()
    assert "rows seen" in text and " 96 |" in text  # 6 steps of 16 rows
    assert "sampler=sde" in text and "4 texts a seed, one seed" in text
    height, width, _ = matplotlib.image.imread(runs / "first" / "curves.png").shape
    assert height > 400 and width > 1200


def test_a_point_has_the_weights_of_its_step(runs):
    alone = runs / "alone"
    shutil.copytree(runs / "elf", alone)
    for step in STEPS[1:]:
        shutil.rmtree(alone / "checkpoints" / str(step))
    shutil.rmtree(alone / "samples")
    (alone / "evaluation.jsonl").unlink()
    made = [curves(runs, name, [name])["models"][0]["points"] for name in ("elf", "alone")]
    assert len(made[1]) == 1
    whole, first = (
        [(runs / name / "samples" / point["samples"][0]).read_text() for point in points]
        for name, points in zip(("elf", "alone"), made, strict=True)
    )
    assert first == whole[:1] and len(set(whole)) == 3


def test_no_checkpoint_is_scored_twice(runs, monkeypatch):
    before = json.loads((runs / "first" / "curves.json").read_text())
    monkeypatch.setattr(kept_samples, "generate", None)
    again = curves(runs, "second")
    assert json.loads(json.dumps(again["models"])) == before["models"]


def test_a_damaged_checkpoint_is_named(runs):
    damaged = runs / "damaged"
    shutil.copytree(runs / "elf", damaged)
    shutil.rmtree(damaged / "checkpoints" / "4" / "state")
    with pytest.raises(UserError) as error:
        curves(runs, "third", ["damaged"])
    assert "checkpoints/4 is damaged" in str(error.value)
    assert "remove that directory to use that of step 2" in str(error.value)


def test_an_export_is_one_point(runs):
    commands.export(str(runs / "elf"), output=str(runs / "export"))
    (model,) = curves(runs, "fourth", ["export"])["models"]
    (point,) = model["points"]
    assert point["step"] == 6 and point["train_seconds"] > 0


def test_a_model_without_a_time_of_training_is_refused(runs, monkeypatch):
    real = curves_module.load_trained

    def unknown(*args):
        return dataclasses.replace(real(*args), progress={"train_seconds": None})

    monkeypatch.setattr(curves_module, "load_trained", unknown)
    with pytest.raises(UserError, match="ar does not tell how long it was trained.*leave it out"):
        curves(runs, "fifth", ["ar"])


def test_more_checkpoints_can_be_kept_from_now_on(runs):
    more = tiny_config(**KEYS, **KEPT, **{"train.duration.steps": 8})
    more.train.keep_checkpoints = 5
    copy = runs / "more"
    shutil.copytree(runs / "elf", copy)
    train(more, copy)
    assert sorted(int(path.name) for path in (copy / "checkpoints").iterdir()) == [*STEPS, 8]


def test_the_axis_is_the_time_of_training():
    points = [
        {"minutes": minutes, "evaluations": 5, "scores": {"bleu": {"mean": bleu}}}
        for minutes, bleu in ((10.0, 4.0), (60.0, 20.0))
    ]
    figure = quality_figure([{"name": "a", "method": "elf", "points": points}], {}, MINUTES)
    axis = figure.axes[0]
    assert axis.get_xlabel() == "training (minutes)" and axis.get_xlim()[0] == 0
    line = axis.lines[0]
    assert list(line.get_xdata()) == [10, 60] and list(line.get_ydata()) == [4, 20]
