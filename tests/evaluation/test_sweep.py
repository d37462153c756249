"""A sweep over combinations of sampling settings: its points, its picture, its flags."""

import json
import shutil
from dataclasses import replace

import matplotlib.image
import pytest
from absl import flags
from absl.testing import flagsaver

import main
from elf_jax import command_line, commands
from elf_jax.checkpoints.trained import load_trained
from elf_jax.commands import scoring
from elf_jax.core import config as config_module
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import RECORDS, TOKENIZER
from elf_jax.data.dataset import load_dataset
from elf_jax.evaluation import evaluate as evaluate_module
from elf_jax.evaluation import kept_samples
from elf_jax.evaluation.evaluate import evaluate
from elf_jax.evaluation.frontier import draw_frontier
from elf_jax.evaluation.protocols import protocols_of
from elf_jax.evaluation.sweep import sweep
from elf_jax.methods.ar.method import AR
from elf_jax.methods.elf.method import ELFMethod
from tests.methods.tracing import traced_samplers
from tests.tiny import save_random_scorer, save_random_weights, tiny_config

pytestmark = pytest.mark.usefixtures("share_programs")

LISTS = {
    "sweep.guidance_scale": (1.0, 3.0),
    "sweep.steps": (1, 2),
    "sweep.gamma": (1.0,),
    "sweep.time_grid": ("logit_normal",),
    "sweep.num_samples": 4,
    "sweep.seeds": 2,
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """(workdir, `TrainedModel`, `Dataset`, result, setting `steps` of each compiled sampler)"""
    config = tiny_config(**LISTS)
    workdir = save_random_weights(config, tmp_path_factory.mktemp("sweep") / "run")
    trained = load_trained(workdir)
    save_random_scorer(workdir / "scorer", trained.tokenizer)
    dataset = load_dataset(config.data, workdir / TOKENIZER)
    with traced_samplers() as traced:
        result = sweep(trained, dataset, workdir)
    return workdir, trained, dataset, result, [settings.steps for settings in traced]


def test_points_are_those_of_an_evaluation(swept, monkeypatch):
    workdir, trained, dataset, result, traced = swept
    assert len(result["points"]) == 4
    # All guidance scales share a program. Each number of steps needs its own.
    assert sorted(traced) == [1, 2]
    stored = json.loads((workdir / "sweep.json").read_text())
    assert stored == json.loads(json.dumps(result)) and stored["real"]["gen_ppl"] > 1
    point = result["points"][-1]
    settings = {"steps": 2, "guidance_scale": 3.0, "gamma": 1.0, "time_grid": "logit_normal"}
    assert settings.items() <= point.items()
    config = trained.config.copy_and_resolve_references()
    config_module.update(config, {"evaluate.protocols": {"p": settings}})
    config.evaluate.update({"num_samples": 4, "seeds": 2})
    monkeypatch.setattr(evaluate_module, "held_out_losses_of", lambda *_: {})
    alone = replace(trained, config=config)
    (summary,) = evaluate(alone, dataset, workdir)["protocols"].values()
    assert summary["gen_ppl"]["mean"] == point["gen_ppl"]
    assert summary["gen_ppl"]["standard_error"] == point["gen_ppl_standard_error"]
    # For such a small model, two seeds may give the same value at one point, but not at all points.
    errors = [point["gen_ppl_standard_error"] for point in result["points"]]
    assert any(error > 0 for error in errors), errors
    assert len({point["gen_ppl"] for point in result["points"]}) > 1


def test_it_goes_on_and_draws_again(swept, monkeypatch):
    workdir, trained, dataset, result, _ = swept
    (workdir / "sweep.png").unlink()
    monkeypatch.setattr(kept_samples, "generate", None)
    assert sweep(trained, dataset, workdir)["points"] == result["points"]
    height, width, _ = matplotlib.image.imread(workdir / "sweep.png").shape
    assert height > 300 and width > 500


def test_no_sweep_without_something_to_draw(swept, tmp_path):
    _, trained, dataset, *_ = swept
    config = trained.config.copy_and_resolve_references()
    config.scorer.path = ""
    bare = replace(trained, config=config)
    with pytest.raises(UserError, match="train_scorer"):
        sweep(bare, dataset, tmp_path)


def test_pairs_are_drawn_over_their_guidance(pairs_workdir, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(pairs_workdir, workdir)
    trained = load_trained(workdir)
    lists = {"cfg_scale": (1.5, 2), "guidance_scale": (1,), "steps": (2,), "gamma": (1,)}
    lists = {f"sweep.{name}": values for name, values in lists.items()}
    config_module.update(trained.config, {**lists, "sweep.num_samples": 2})
    dataset = load_dataset(trained.config.data, workdir / TOKENIZER)
    points = sweep(trained, dataset, workdir)["points"]
    assert [point["cfg_scale"] for point in points] == [1.5, 2.0] and "bleu" in points[0]
    assert (workdir / "sweep.png").is_file()
    # Samples chosen among several are other samples, and their records say so.
    config_module.update(trained.config, {"sample.candidates": 2, "sweep.cfg_scale": (2.0,)})
    (chosen,) = sweep(trained, dataset, workdir)["points"]
    assert chosen["candidates"] == 2 and "candidates" not in points[1]
    records = [json.loads(line) for line in (workdir / RECORDS).read_text().splitlines()]
    assert {record.get("candidates") for record in records if record["metric"] == "bleu"} == {
        None,
        2,
    }


def test_a_point_without_a_number_is_left_out(tmp_path):
    base = {"sampler": "sde", "steps": 2, "gamma": 1.0, "time_grid": "uniform", "cfg_scale": 1.0}
    base["gamma_schedule"] = "constant"
    points = [
        {**base, "guidance_scale": w, "gen_entropy": 1.0, "gen_ppl": ppl}
        for w, ppl in ((1.0, None), (2.0, 5.0))
    ]
    draw_frontier(points, {}, [("gen_entropy", "gen_ppl")], tmp_path / "a.png", "title", ELFMethod)
    assert (tmp_path / "a.png").is_file()


def test_a_single_line_has_a_colour(tmp_path):
    """AR has no steps, so no setting gives its line a colour."""
    base = {"sampler": "sample", "beams": 1, "length_penalty": 0.0, "top_p": 1.0}
    points = [{**base, "temperature": t, "gen_entropy": t, "gen_ppl": 9.0 * t} for t in (0.8, 1.0)]
    draw_frontier(points, {}, [("gen_entropy", "gen_ppl")], tmp_path / "a.png", "title", AR)
    assert (tmp_path / "a.png").is_file()


def asked(*argv):
    """The command of the mode, and the arguments that these flags give it."""
    with flagsaver.flagsaver():
        flags.FLAGS.unparse_flags()
        flags.FLAGS(["main.py", *argv])
        return command_line.command_of(["main.py"], main.MODES)


def test_flags_take_several_values_for_a_sweep_alone():
    several = "--workdir=x", "--steps=8, 16", "--gamma=1.5", "--seed=4", "--num_samples=9"
    values = {"workdir": "x", "steps": [8, 16], "gamma": [1.5], "seed": 4, "num_samples": 9}
    assert asked("--mode=sweep", *several) == (commands.sweep, values)
    with pytest.raises(UserError, match="--steps has several"):
        asked("--mode=evaluate", *several)
    one = asked("--mode=sample", "--workdir=x", "--steps=8")
    assert one == (commands.sample, {"workdir": "x", "steps": 8})


@pytest.fixture
def scored(monkeypatch):
    """A list that collects the configs that commands would score. Nothing is scored."""
    configs = []

    def score(run, workdir, config, checkpoint, scorer, keys):
        config = tiny_config(**{"evaluate.seeds": 3, "sweep.seeds": 3, "sweep.time_grid": ()})
        config_module.update(config, keys)
        configs.append(config)

    monkeypatch.setattr(scoring, "_score", score)
    return configs


def test_settings_of_a_sweep_become_its_lists(scored):
    commands.sweep("x", steps=[8, 16], gamma=[1.5], guidance_scale=2, seed=4, num_samples=9)
    sweep = {"steps": (8, 16), "gamma": (1.5,), "guidance_scale": (2.0,), "seeds": 1}
    assert {**sweep, "num_samples": 9}.items() <= scored[0].sweep.to_dict().items()
    assert scored[0].sample.seed == 4 and scored[0].evaluate.seeds == 3


def test_settings_of_an_evaluation_become_a_protocol(scored):
    commands.evaluate("x", steps=8, num_samples=9)
    commands.evaluate("x", seed=4)
    commands.evaluate("x", top_p=0.9)
    (flags_alone,), (as_before,), (of_another_method,) = map(protocols_of, scored)
    assert of_another_method.name == "flags" and of_another_method.sample.top_p == 0.9
    assert flags_alone.name == "flags" and flags_alone.sample.steps == 8
    assert as_before.name == "sample" and as_before.sample.seed == 4
    counts = [(one.evaluate.num_samples, one.evaluate.seeds) for one in scored]
    assert counts == [(9, 3), (5, 1), (5, 3)]
