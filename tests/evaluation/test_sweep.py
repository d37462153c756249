"""Every combination of sampling settings: which there are, their points, the picture, the flags."""

import json
import shutil
from dataclasses import replace

import matplotlib.image
import pytest
from absl.testing import flagsaver

import main
from elf_jax.checkpoints.trained import load_trained
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import TOKENIZER
from elf_jax.data.dataset import load_dataset
from elf_jax.evaluation import evaluate as evaluate_module
from elf_jax.evaluation.evaluate import evaluate
from elf_jax.evaluation.frontier import draw_frontier
from elf_jax.evaluation.sweep import combinations, sweep
from elf_jax.generation import generate
from tests.tiny import save_random_scorer, save_random_weights, tiny_config

LISTS = {
    "sweep.guidance_scales": "1,3",
    "sweep.steps": "1,2",
    "sweep.gammas": "1",
    "sweep.time_grids": "logit_normal",
    "sweep.num_samples": 4,
    "sweep.seeds": 2,
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """(workdir, `Trained`, `Dataset`, result, programs compiled)"""
    config = tiny_config(**LISTS)
    workdir = save_random_weights(config, tmp_path_factory.mktemp("sweep") / "run")
    trained = load_trained(workdir)
    save_random_scorer(workdir / "scorer", trained.tokenizer)
    dataset, traced = load_dataset(config.data, workdir / TOKENIZER), []
    make = generate.make_sampler

    def counted(model, config):
        sampler = make(model, config)

        def run(*inputs):
            traced.append(config.sample.steps)
            return sampler(*inputs)

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "make_sampler", counted)
        result = sweep(trained, dataset, workdir)
    return workdir, trained, dataset, result, traced


def test_points_are_those_of_an_evaluation(swept, monkeypatch):
    workdir, trained, dataset, result, traced = swept
    assert len(result["points"]) == 4
    # Guidance scales share a program; a number of steps has its own.
    assert sorted(traced) == [1, 2]
    stored = json.loads((workdir / "sweep.json").read_text())
    assert stored == json.loads(json.dumps(result)) and stored["real"]["gen_ppl"] > 1
    point = result["points"][-1]
    settings = {"steps": 2, "guidance_scale": 3.0, "gamma": 1.0, "time_grid": "logit_normal"}
    assert settings.items() <= point.items()
    config = trained.config.copy_and_resolve_references()
    config.evaluate.protocols = "p: steps=2, guidance_scale=3, gamma=1, time_grid=logit_normal"
    config.evaluate.update({"num_samples": 4, "seeds": 2})
    monkeypatch.setattr(evaluate_module, "validation_losses", lambda *_: {})
    alone = replace(trained, config=config)
    (summary,) = evaluate(alone, dataset, workdir)["protocols"].values()
    assert summary["gen_ppl"]["mean"] == point["gen_ppl"]
    assert summary["gen_ppl"]["standard_error"] == point["gen_ppl_standard_error"]
    # Two seeds of so small a model may agree at one point, but not at all of them.
    errors = [point["gen_ppl_standard_error"] for point in result["points"]]
    assert any(error > 0 for error in errors), errors
    assert len({point["gen_ppl"] for point in result["points"]}) > 1


def test_it_goes_on_and_draws_again(swept, monkeypatch):
    workdir, trained, dataset, result, _ = swept
    (workdir / "sweep.png").unlink()
    monkeypatch.setattr(samples, "generate", None)
    assert sweep(trained, dataset, workdir)["points"] == result["points"]
    height, width, _ = matplotlib.image.imread(workdir / "sweep.png").shape
    assert height > 300 and width > 500


def test_combinations():
    config = tiny_config(**LISTS)
    config.sweep.time_grids = "logit_normal, uniform"
    assert len({protocol.name for protocol in combinations(config)}) == 8
    config.sample.sampler = "ode"
    config.sweep.gammas = "1,2"  # of no account to an ODE
    assert len(combinations(config)) == 8
    config.sweep.update({"guidance_scales": "", "steps": "", "time_grids": ""})
    (one,) = combinations(config)
    assert one.sample.steps == config.sample.steps and one.sample.guidance_scale == 3.0
    for text, message in {"1,1": "twice", "1.5": "number", "0": "must be 1"}.items():
        config.sweep.steps = text
        with pytest.raises(UserError, match=message):
            combinations(config)


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
    lists = {"cfg_scales": "1.5,2", "guidance_scales": "1", "steps": "2", "gammas": "1"}
    trained.config.sweep.update({**lists, "num_samples": 2})
    dataset = load_dataset(trained.config.data, workdir / TOKENIZER)
    points = sweep(trained, dataset, workdir)["points"]
    assert [point["cfg_scale"] for point in points] == [1.5, 2.0] and "bleu" in points[0]
    assert (workdir / "sweep.png").is_file()


def test_a_point_without_a_number_is_left_out(tmp_path):
    base = {"steps": 2, "gamma": 1.0, "time_grid": "uniform", "cfg_scale": 1.0}
    points = [
        {**base, "guidance_scale": w, "gen_entropy": 1.0, "gen_ppl": ppl}
        for w, ppl in ((1.0, None), (2.0, 5.0))
    ]
    draw_frontier(points, {}, [("gen_entropy", "gen_ppl")], tmp_path / "a.png", "title")
    assert (tmp_path / "a.png").is_file()


def test_flags_take_several_values_for_a_sweep_alone():
    with flagsaver.flagsaver():
        main.flags.FLAGS(["main", "--steps=8, 16", "--gamma=1.5", "--seed=4", "--num_samples=9"])
        assert main._overrides("sweep") == {
            "sweep.steps": "8,16",
            "sweep.gammas": "1.5",
            "sample.seed": 4,
            "sample.num_samples": 9,
            "evaluate.num_samples": 9,
            "sweep.num_samples": 9,
            "evaluate.seeds": 1,
            "sweep.seeds": 1,
            "evaluate.protocols": "flags",
        }
        with pytest.raises(UserError, match="--steps has several"):
            main._overrides("evaluate")
        main.flags.FLAGS(["main", "--steps=8"])
        assert main._overrides("sample")["sample.steps"] == 8
