"""A comparison of models: who may be compared, the numbers, the table, the pictures."""

import json
import shutil
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

import main
from elf_jax import command_line, commands
from elf_jax.checkpoints.weights import params_shapes
from elf_jax.core import defaults, sharding
from elf_jax.core.errors import UserError
from elf_jax.data.tokenizer import load_tokenizer
from elf_jax.evaluation import kept_samples, sampling_time
from elf_jax.evaluation.compare import score_point
from elf_jax.evaluation.comparison_picture import draw_frontiers, draw_quality, panels
from elf_jax.evaluation.comparison_table import comparison_text, markdown, number
from elf_jax.evaluation.looks import COLOURS, looks
from elf_jax.evaluation.model_size import VOCABULARY, parameter_counts
from elf_jax.evaluation.protocols import Protocol
from elf_jax.evaluation.real_entropy import Point, at_entropy, frontier_lines
from elf_jax.evaluation.subjects import check_comparable, find_subjects, short_names
from elf_jax.methods.registry import METHODS, build_method
from elf_jax.training.trainer import train
from tests.tiny import save_random_scorer, save_random_weights, tiny_config

KEYS = {"scorer.path": "", "data.packing": "rows", "train.duration.steps": 2}
FEW = {"steps": [1, 2], "num_samples": 4, "gamma": [1.0, 2.0], "guidance_scale": [1.0]}
FEW |= {"temperature": [0.01, 1.0, 3.0]}
SAMPLERS = {"elf": "sde", "mdlm": "ancestral", "ar": "sample"}


A, B, C = (
    Point(x, y, {"temperature": t}) for x, y, t in ((4, 20, 0.8), (5, 80, 1.0), (6, 90, 1.2))
)


def config_of(method, **keys):
    return tiny_config(**{**KEYS, "method": method, "sample.sampler": SAMPLERS[method], **keys})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A directory with the workdirs elf, mdlm and ar, and the comparison of them in `first`."""
    root = tmp_path_factory.mktemp("compare")
    train(config_of("mdlm"), root / "mdlm")
    for method in ("elf", "ar"):
        save_random_weights(config_of(method), root / method)
    compare(root, "first")
    return root


def compare(root, output, names=("elf", "mdlm", "ar"), **settings):
    workdirs = [str(root / name) for name in names]
    return commands.compare(workdirs, output=str(root / output), **{**FEW, **settings})


def test_a_comparison_without_a_scorer(runs):
    result = json.loads((runs / "first" / "comparison.json").read_text())
    elf, mdlm, ar = result["models"]
    assert [model["name"] for model in result["models"]] == ["elf", "mdlm", "ar"]
    assert [model["method"] for model in result["models"]] == ["elf", "mdlm", "ar"]
    assert [point["steps"] for point in elf["points"]] == [1, 2]
    assert [point["evaluations"] for point in elf["points"]] == [2, 3]
    (only,) = ar["points"]  # a step for each of its 8 positions, whatever is asked for
    assert only["steps"] is None and only["evaluations"] == 8
    for name in ("valid", "held_out", "distinct", "entropy"):
        assert only["scores"][name]["seeds"] == 3 and name in elf["points"][0]["scores"]
    assert elf["likelihood"]["nats_per_token"] is None
    assert mdlm["likelihood"]["nats_per_token"] > 1 and not mdlm["likelihood"]["is_exact"]
    assert ar["likelihood"]["is_exact"] and ar["likelihood"]["rows"] == 16
    # Two steps of 16 rows; the rows have 8 positions, some of them padding.
    assert mdlm["rows_seen"] == 32 and 32 < mdlm["tokens_seen"] < 32 * 8
    assert mdlm["train_seconds"] > 0 and "cpu" in mdlm["train_devices"][0]
    assert elf["train_devices"] == []  # made by hand
    speed = only["speed"]
    assert speed["seconds_per_1000"] > 0 and speed["batch_size"] == 4 and "cpu" in speed["device"]
    assert not any(model["frontier"] or model["at_real_entropy"] for model in result["models"])
    text = (runs / "first" / "comparison.md").read_text()
    assert "≤ " in text and "(exact)" in text and "Gen. PPL at" not in text
    height, width, _ = matplotlib.image.imread(runs / "first" / "comparison.png").shape
    assert height > 400 and width > 1200  # three panels
    assert not (runs / "first" / "frontier.png").exists()


def test_each_candidate_costs_its_evaluations():
    config = tiny_config(**{"sample.candidates": 3, "sample.steps": 2})
    method = build_method(config, 32, sharding.make_mesh(config.mesh))[0]
    made = SimpleNamespace(file="samples.jsonl")
    run = SimpleNamespace(
        trained=SimpleNamespace(method=method, config=config),
        count=1,
        score=lambda protocol, seed: ({"bleu": 1.0}, {}, made),
    )
    point = score_point(run, Protocol("sample", config.sample), 1)
    assert point["evaluations"] == 3 * (2 + 1) and point["settings"]["candidates"] == 3


def test_nothing_is_made_twice(runs, monkeypatch):
    before = json.loads((runs / "first" / "comparison.json").read_text())
    monkeypatch.setattr(kept_samples, "generate", None)
    monkeypatch.setattr(sampling_time, "stream", None)
    monkeypatch.setattr("elf_jax.evaluation.evaluate.held_out_losses_of", None)
    again = compare(runs, "second", ["elf", "mdlm"])
    assert json.loads(json.dumps(again["models"])) == before["models"][:2]


def test_a_comparison_with_a_scorer(runs, tmp_path):
    """One workdir has the scorer, and all are scored by it."""
    for name in ("mdlm", "ar"):
        shutil.copytree(runs / name, tmp_path / name)
    save_random_scorer(tmp_path / "ar" / "scorer", load_tokenizer(runs / "ar" / "tokenizer"))
    config = defaults.get_config()
    config.compare.update({"frontier_steps": 2, "seeds": 1})
    result = compare(tmp_path, "out", ("mdlm", "ar"), config=config)
    for model in result["models"]:
        temperatures = [point["settings"]["temperature"] for point in model["frontier"]]
        assert temperatures == [0.01, 1.0, 3.0]
        assert {point["steps"] for point in model["frontier"]} == {model["frontier"][0]["steps"]}
        entropies = [point["scores"]["gen_entropy"]["mean"] for point in model["frontier"]]
        found = model["at_real_entropy"]
        assert found["lowest_entropy"] == min(entropies)
        reached = min(entropies) <= result["real"]["gen_entropy"] <= max(entropies)
        assert (found["gen_ppl"] is not None) == reached
    assert result["models"][0]["frontier"][0]["steps"] == 2
    assert "gen_seq_rep_4" in result["models"][0]["points"][0]["scores"]
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "Gen. PPL at the entropy of real text" in text and "scorer: " in text
    assert (tmp_path / "out" / "frontier.png").is_file()


def test_an_export_can_be_compared(runs, tmp_path):
    export = commands.export(str(runs / "mdlm"), output=str(tmp_path / "exported"))
    before = sorted(export.rglob("*"))
    workdirs = f"{export}, {runs / 'ar'}"
    result = commands.compare(workdirs, output=str(tmp_path / "out"), **{**FEW, "steps": [1]})
    exported, _ = result["models"]
    assert exported["name"] == "exported" and exported["points"][0]["scores"]["distinct"]["mean"]
    assert exported["rows_seen"] == 32
    assert sorted(export.rglob("*")) == before  # its numbers are kept beside the comparison
    assert (tmp_path / "out" / "exports" / "exported" / "evaluation.jsonl").is_file()


def refused(match, workdirs, **settings):
    with pytest.raises(UserError, match=match) as error:
        commands.compare(workdirs, output="nowhere/at/all", **settings)
    assert "\n" not in str(error.value)


def test_what_is_refused(runs, tmp_path):
    elf = str(runs / "elf")
    refused("--workdirs is missing", None)
    refused("--workdirs is missing", " , ")
    refused("names .*elf twice", [elf, f"{elf}/"])
    refused("no trained model in", [elf, str(tmp_path / "none")])
    refused("elf: config.compare.num_samples is 0", [elf], num_samples=0)
    refused("elf: config.sample.sampler is 'beam'", [elf], sampler="beam")
    refused("config.compare.steps is 0", [elf], steps=[0])
    refused("lists a value twice", [elf], steps=[2, 2])
    shutil.copytree(runs / "elf", tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "checkpoints")
    refused("no checkpoint in .*bare", [elf, str(tmp_path / "bare")])


def test_other_data_and_tokenizers_are_refused(runs, tmp_path):
    elf = str(runs / "elf")
    other = {"data.validation_fraction": 0.2, "data.pad": "pad"}
    save_random_weights(config_of("mdlm", **other), tmp_path / "other")
    both = [elf, str(tmp_path / "other")]
    refused("config.data.pad .'eos' in elf, 'pad' in other., .*the data .*held-out data", both)
    save_random_weights(config_of("mdlm", **{"data.vocab_size": 280}), tmp_path / "small")
    refused("differ in the tokenizer", [elf, str(tmp_path / "small")])


def test_other_scorers_are_refused(runs, tmp_path):
    for seed, name in enumerate(("elf", "ar")):
        shutil.copytree(runs / name, tmp_path / name)
        tokenizer = load_tokenizer(runs / name / "tokenizer")
        save_random_scorer(tmp_path / name / "scorer", tokenizer, length=12 + seed)
    refused(
        "the scorer .*or name one in --scorer", [str(tmp_path / name) for name in ("elf", "ar")]
    )
    asked = str(tmp_path / "ar" / "scorer")
    settings = defaults.get_config().compare
    workdirs = [str(tmp_path / "elf"), str(tmp_path / "ar")]
    subjects = find_subjects(workdirs, settings, {}, asked, tmp_path)
    assert [subject.scorer for subject in subjects] == [asked, asked]


def test_held_out_rows_are_the_same_for_all(runs, tmp_path):
    """Losses of a workdir with another batch size are over the rows of the first workdir."""
    save_random_weights(config_of("ar", **{"train.batch_size": 8}), tmp_path / "ar")
    settings = defaults.get_config().compare
    workdirs = [str(runs / "elf"), str(tmp_path / "ar")]
    first, second = find_subjects(workdirs, settings, {"sample.seed": 7}, None, tmp_path)
    assert second.batch_size == 8 and second.config.train.batch_size == 16
    assert first.config.sample.seed == second.config.sample.seed == 7


def test_the_table_says_what_is_not_reached(runs):
    result = json.loads((runs / "first" / "comparison.json").read_text())
    found = at_entropy([[A, B]], 4.5), at_entropy([[A, B]], 7)
    result["real"] |= {"gen_entropy": 4.5, "gen_ppl": 10.0}
    for model, one in zip(result["models"], [*found, None], strict=True):
        model["at_real_entropy"] = one
    text = comparison_text(result)
    part = " ".join(text.split("## Gen. PPL at")[1].split())
    assert "40.00 | T 0.8 to 1" in part and "not reached | -" in part and "4.000 to 5.000" in part


def test_what_is_not_known_is_not_compared():
    check_comparable({"a": {"x": 1, "y": None}, "b": {"y": 2}, "c": {"x": 1, "y": 2}})
    with pytest.raises(UserError, match="they differ in y .2 in b, 3 in c"):
        check_comparable({"a": {"x": 1, "y": None}, "b": {"y": 2}, "c": {"x": 1, "y": 3}})


def test_names_are_short_and_differ():
    assert short_names(["runs/a", "runs/b"]) == ["a", "b"]
    assert short_names(["one/run", "two/run", "b"]) == ["one/run", "two/run", "b"]


def test_gen_ppl_at_an_entropy():
    # Halfway between 4 and 5 nats, and log 40 is halfway between log 20 and log 80.
    found = at_entropy([[A, B, C]], 4.5)
    assert found["gen_ppl"] == pytest.approx(40)
    assert found["between"] == [A.settings, B.settings]
    assert at_entropy([[A, B, C]], 5)["gen_ppl"] == 80
    assert at_entropy([[A, B, C]], 4.25)["gen_ppl"] == pytest.approx(20 * 4**0.25)
    # Several lines: the lowest counts. The order along a line may go back and forth.
    low = [Point(6, 30, {}), Point(4, 30, {})]
    assert at_entropy([[A, B], low], 4.5)["gen_ppl"] == pytest.approx(30)
    assert at_entropy([[B, A, Point(5, 20, {})]], 4.5)["gen_ppl"] == pytest.approx(20)


@pytest.mark.parametrize("entropy", [3.9, 6.1])
def test_an_entropy_that_is_not_reached(entropy):
    found = at_entropy([[A, B, C]], entropy)
    assert found == {
        "gen_ppl": None,
        "between": [],
        "lowest_entropy": 4,
        "highest_entropy": 6,
    }
    assert at_entropy([], 4)["lowest_entropy"] is None


def test_lines_of_a_frontier():
    grid = [Point(w + g, w * g, {"w": w, "g": g, "c": 1}) for w in (1, 2, 3) for g in (7, 5)]
    lines = frontier_lines(grid)
    along_w = [[(p.settings["w"], p.settings["g"]) for p in line] for line in lines[:2]]
    assert along_w == [[(1, 7), (2, 7), (3, 7)], [(1, 5), (2, 5), (3, 5)]]
    along_g = [[(p.settings["w"], p.settings["g"]) for p in line] for line in lines[2:]]
    assert along_g == [[(w, 5), (w, 7)] for w in (1, 2, 3)]
    assert frontier_lines([B, A]) == [[A, B]]  # in the order of the temperature
    assert frontier_lines([A]) == [[A]]


def test_a_point_without_a_setting_is_not_on_the_line_along_it():
    without = [Point(3, 30, {"g": g}) for g in (1, 2)]
    sure = [Point(2, 10, {"g": g, "tau": tau}) for tau in (0.5, 0.1) for g in (1, 2)]
    lines = frontier_lines(without + sure)
    taus = [[one.settings.get("tau") for one in line] for line in lines]
    assert taus == [[None] * 2, [0.5] * 2, [0.1] * 2, [None], [None], [0.1, 0.5], [0.1, 0.5]]
    assert lines[0] == without  # along g


def test_parameters_without_embeddings():
    table, kernel = np.zeros((5, 2)), np.zeros((2, 3))
    params = {
        "token_table": table,
        "a": {"kernel": kernel},
        "unembed": {"kernel": np.zeros((2, 4))},
    }
    assert parameter_counts(params) == (10 + 6 + 8, 6)


@pytest.mark.parametrize("name", METHODS)
def test_the_vocabulary_is_in_the_parameters_that_are_left_out(name):
    """By name, and by the size of their axes: 333 is no other size of these networks."""
    config = tiny_config(method=name)
    method, _ = build_method(config, 333, sharding.make_mesh(config.mesh))
    shapes = params_shapes(method, 8)
    everything, inside = parameter_counts(shapes)
    flat = {
        "/".join(str(part.key) for part in path): leaf
        for path, leaf in sharding.jax.tree_util.tree_leaves_with_path(shapes)
    }
    large = {path for path, leaf in flat.items() if {333, 334} & set(leaf.shape)}
    assert large == {path for path in flat if VOCABULARY.search(path)} and large
    assert everything - inside == sum(flat[path].size for path in large)


def scores(**means):
    return {name: {"mean": m, "standard_error": 0.01, "seeds": 3} for name, m in means.items()}


def entry(index, evaluations, **means):
    return {
        "name": f"run{index}",
        "method": "m",
        "points": [{"evaluations": one, "scores": scores(**means)} for one in evaluations],
        "frontier": [
            {"settings": {"temperature": t}, "scores": scores(gen_entropy=3 + t, gen_ppl=9 + t)}
            for t in (0.8, 1.0)
        ],
    }


@pytest.mark.parametrize("count", [1, 9])
def test_pictures_with_one_model_and_with_many(count, tmp_path):
    means = {"valid": 0.2, "distinct": 0.5, "gen_ppl": 20.0, "gen_entropy": 4.0}
    models = [entry(0, [1024], **means)]
    models += [entry(i, [8, 16, 32], **means) for i in range(1, count)]
    models[0]["points"][0]["scores"]["gen_ppl"]["mean"] = None  # all samples were empty
    draw_quality(models, {"gen_ppl": 10.0}, tmp_path / "a.png")
    draw_frontiers(models, {"gen_ppl": 10.0, "gen_entropy": 4.0}, tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        assert matplotlib.image.imread(tmp_path / name).size > 10_000


def test_seven_models_look_different():
    assert len({look["color"] for look in looks(7)}) == len({look["marker"] for look in looks(7)})
    assert len(COLOURS) == 7
    assert len({(look["color"], look["marker"], look["ls"]) for look in looks(21)}) == 21


def test_panels_are_those_of_the_task():
    names = {"valid", "held_out", "distinct", "entropy", "empty"}
    assert panels(names) == [["valid", "held_out", "distinct"]]
    scored = {"gen_ppl", "gen_entropy", "gen_seq_rep_4"}
    assert panels(names | scored)[1] == ["gen_ppl", "gen_entropy", "gen_seq_rep_4"]
    assert panels({"rouge_l", "distinct"}) == [["rouge_l"]]
    assert panels({"entropy", "distinct"}) == [["entropy", "distinct"]]


def test_a_table_in_markdown():
    table = markdown(["a|b", "n"], [["x", "1"], ["yy", "1,234"]], words=1)
    assert table.splitlines() == [
        "| a\\|b |     n |",
        "|------|------:|",
        "| x    |     1 |",
        "| yy   | 1,234 |",
    ]
    assert [number(value) for value in (0.12345, 12.345, 123.45, 12345.6, None)] == [
        "0.123",
        "12.35",
        "123.5",
        "12,346",
        "-",
    ]


def asked(*argv):
    with flagsaver.flagsaver():
        flags.FLAGS.unparse_flags()
        flags.FLAGS(["main.py", *argv])
        return command_line.command_of(["main.py"], main.MODES)


def test_flags():
    given = "--workdirs=a,b", "--steps=8,16", "--temperature=0.9", "--output=c", "--cfg_scale=2"
    values = {"workdirs": "a,b", "steps": [8, 16], "temperature": [0.9], "output": "c"}
    assert asked("--mode=compare", *given) == (commands.compare, {**values, "cfg_scale": 2.0})
    with pytest.raises(UserError, match="--cfg_scale has several values, which only --mode=sweep"):
        asked("--mode=compare", "--workdirs=a,b", "--cfg_scale=1,2")
    with pytest.raises(UserError, match="--workdirs is for --mode=compare"):
        asked("--mode=sweep", "--workdir=a", "--workdirs=a,b")
