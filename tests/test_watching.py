"""`--mode=watch` with tiny models: what it shows is what the other modes write."""

import json
import re
import shutil
from pathlib import Path

import pytest

from elf_jax import commands
from elf_jax.checkpoints.rounds import Round, round_workdir, write_distillation
from elf_jax.core import store
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import TOKENIZER, WATCH
from elf_jax.data.tokenizer import decode, load_tokenizer
from elf_jax.generation.pieces import OPEN
from elf_jax.training import trainer
from tests.tiny import save_random_weights, tiny_config

STEPS = 3
TEMPLATE = "latin ___ letter [[1]] with"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A workdir that was trained just enough to write more than one text."""
    keys = {"train.duration.steps": 40, "optimizer.learning_rate": 0.02, "train.samples": 0}
    workdir = tmp_path_factory.mktemp("elf") / "run"
    trainer.train(tiny_config(**keys, **{"train.checkpoint_every": 40}), workdir)
    return workdir


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """A workdir of another method, on the same data, whose texts begin as gaps."""
    config = tiny_config(method="mdlm", **{"sample.sampler": "ancestral"})
    return save_random_weights(config, tmp_path_factory.mktemp("mdlm") / "run")


def data_of(page):
    """The data in a page."""
    found = re.search(r'id="data">(.*?)</script>', Path(page).read_text(encoding="utf-8"), re.S)
    return json.loads(found[1])


def texts_of(data, model=0):
    """[trajectory][state] texts in the data of a page."""
    return [
        [
            "".join(data["pieces"][at] for at in state["at"] if data["pieces"][at] is not None)
            for state in trajectory["states"]
        ]
        for trajectory in data["models"][model]["trajectories"]
    ]


def lines_of(capsys, **asked):
    """What `watch` prints as JSON lines."""
    capsys.readouterr()
    assert commands.watch(format="jsonl", **asked) is None
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def last_texts(lines):
    """The text of the last state of each sample."""
    return list({line["sample"]: line["text"] for line in lines}.values())


def test_the_last_states_are_the_samples(workdir, capsys):
    asked = {"num_samples": 5, "seed": 7, "steps": STEPS}
    commands.sample(workdir, format="jsonl", **asked)
    printed = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    page = commands.watch(workdir, **asked)
    assert page == f"{workdir}/{WATCH}" and capsys.readouterr().out == f"page: {page}\n"
    texts = texts_of(data_of(page))
    assert [len(states) for states in texts] == [STEPS] * 5
    assert [states[-1] for states in texts] == printed
    assert len({text for states in texts for text in states}) > 5  # they change on the way
    lines = lines_of(capsys, workdir=workdir, **asked)
    assert [line["text"] for line in lines] == [text for states in texts for text in states]
    assert [(line["sample"], line["step"]) for line in lines] == [
        (sample, step) for sample in range(5) for step in range(1, STEPS + 1)
    ]
    names = ["sample", "step", "time", "evaluations", "entropy", "changed", "tokens", "text"]
    assert list(lines[0]) == names
    tokenizer = load_tokenizer(workdir / TOKENIZER)
    assert decode(tokenizer, [line["tokens"] for line in lines]) == [line["text"] for line in lines]


def test_two_models_are_told_apart(workdir, masked, capsys):
    asked = {"num_samples": 2, "steps": STEPS}
    lines = lines_of(capsys, workdirs=f"{workdir},{masked}", **asked)
    names = list(dict.fromkeys(line["workdir"] for line in lines))
    assert [Path(name).name for name in names] == ["run", "run"] and len(names) == 2
    for place, name in zip((workdir, masked), names, strict=True):
        states = [line for line in lines if line["workdir"] == name]
        assert last_texts(states) == [text for _, text in commands.samples(place, **asked)]
    opened = [OPEN in line["tokens"] for line in states]
    assert any(opened) and not all(opened)  # masks, of the second model


def test_templates_show_what_is_given(workdir, tmp_path, capsys):
    asked = {"text": TEMPLATE, "num_samples": 2, "seed": 3, "steps": STEPS, "gap": 2}
    filled = [record["text"] for record in commands.fills(workdir, **asked)]
    data = data_of(commands.watch(workdir, output=tmp_path / "page.html", **asked))
    trajectories = data["models"][0]["trajectories"]
    assert [states[-1] for states in texts_of(data)] == filled
    for trajectory in trajectories:
        assert trajectory["template"] == TEMPLATE
        for state in trajectory["states"]:
            pieces = [data["pieces"][state["at"][place]] for place in trajectory["given"]]
            shown = "".join(pieces)
            assert re.sub(r"\s+", "", shown) == "latinletterwith"
    lines = lines_of(capsys, workdir=workdir, **asked)
    assert {line["template"] for line in lines} == {TEMPLATE} and lines[0]["sample"] == 0


def test_a_strength_rewrites_texts(workdir, capsys):
    asked = {"source": ["latin letter a", "greek letter"], "strength": 0.9, "seed": 3, "steps": 2}
    records = list(commands.rewrites(workdir, num_samples=2, **asked))
    lines = lines_of(capsys, workdir=workdir, num_samples=2, **asked)
    last = [(line["source"], line["text"]) for line in lines if line["step"] == 2]
    assert last == [(record["source"], record["text"]) for record in records]
    assert [line["sample"] for line in lines] == [0, 0, 1, 1] * 2 and "template" not in lines[0]
    assert any(source != text for source, text in last)
    watched = commands.trajectories(workdir, **{**asked, "source": asked["source"] * 2 + ["a"]})
    assert [one.source for one in watched.trajectories] == asked["source"] * 2
    assert watched.settings["strength"] == 0.9
    assert "only the first 4 lines are shown" in capsys.readouterr().err


def test_only_the_first_lines_of_a_file_are_shown(workdir, pairs_workdir, capsys):
    note = "note: only the first 4 lines are shown: --num_samples shows more"
    many = [f"latin ___ {number}" for number in range(6)]
    lines = lines_of(capsys, workdir=workdir, source=many, steps=1, num_samples=1)
    assert [line["template"] for line in lines] == many
    shown = commands.trajectories(workdir, source=many[:4], steps=1)
    assert len(shown.trajectories) == 4 and note not in capsys.readouterr().err
    shown = commands.trajectories(pairs_workdir, source=many, steps=1)
    assert [one.source for one in shown.trajectories] == many[:4]
    assert note in capsys.readouterr().err


def test_pairs_show_source_and_reference(pairs_workdir, tmp_path, capsys):
    asked = {"num_samples": 3, "seed": 2, "steps": STEPS}
    told = list(commands.samples(pairs_workdir, **asked))
    data = data_of(commands.watch(pairs_workdir, output=tmp_path / "page.html", **asked))
    trajectories = data["models"][0]["trajectories"]
    assert [
        (one["source"], states[-1])
        for one, states in zip(trajectories, texts_of(data), strict=True)
    ] == told
    assert all(one["reference"] == one["source"][::-1] for one in trajectories)
    sources = ["abc", "", "fed"]
    told = list(commands.samples(pairs_workdir, source=sources, steps=STEPS))
    lines = lines_of(capsys, workdir=pairs_workdir, source=sources, steps=STEPS)
    assert last_texts(lines) == [text for _, text in told]
    assert "reference" not in lines[0] and lines[0]["source"] == "abc"


def test_what_cannot_be_watched_is_said(workdir, masked, pairs_workdir, tmp_path):
    for asked, message in [
        ({"workdir": workdir, "format": "text"}, "--format is 'text'; use one of html, jsonl"),
        ({"workdir": workdir, "text": "a ___", "source": ["b"]}, "not both"),
        ({"workdir": workdir, "gap": 3}, "--gap is for templates"),
        ({"workdir": workdir, "source": tmp_path / "none.txt"}, "no file at"),
        ({"workdir": workdir, "strength": 0.4}, "name a text in --text, or a file"),
        ({"workdir": workdir, "strength": 0.4, "text": "a", "source": ["b"]}, "not both"),
        ({"workdir": workdir, "strength": 1.5, "text": "a"}, "--strength is 1.5; it must be"),
        ({"workdir": workdir, "strength": 0.4, "text": "a", "gap": 2}, "--gap is for templates"),
        ({"workdir": pairs_workdir, "strength": 0.4, "text": "a"}, "takes no single texts"),
        ({"workdir": pairs_workdir, "text": "a ___"}, "takes no templates"),
        (
            {"workdir": pairs_workdir, "candidates": 2},
            "is made, and .* add --candidates=1",
        ),
        ({"workdir": workdir, "output": tmp_path}, "is a directory: name a file"),
        ({"workdir": tmp_path}, "no trained model in"),
        ({}, "--workdir is missing"),
        ({"workdirs": ""}, "--workdirs is missing"),
        ({"workdirs": [workdir, workdir]}, "names .* twice"),
        ({"workdirs": [workdir, masked], "workdir": workdir}, "--workdirs names all models"),
        ({"workdirs": [workdir, pairs_workdir]}, "answers other held-out sources than"),
    ]:
        with pytest.raises(UserError, match=message):
            commands.watch(**asked)
    with pytest.raises(UserError, match="--format is 'html'; use one of text, jsonl"):
        commands.sample(workdir, format="html")
    assert not list(tmp_path.iterdir())


def test_the_page_of_a_workdir_in_a_store_goes_there(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    url = f"file://{tmp_path}/run"
    try:
        assert commands.watch(url, num_samples=1, steps=1) == f"{url}/{WATCH}"
        assert len(texts_of(data_of(tmp_path / "run" / WATCH))) == 1
    finally:
        shutil.rmtree(store.mirror_of(url), ignore_errors=True)


def test_an_export_can_be_watched(workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands.export(workdir, output="model")
    told = [text for _, text in commands.samples(checkpoint="model", num_samples=2)]
    page = commands.watch(checkpoint="model", output="new/page.html")
    data = data_of(page)
    assert page == "new/page.html"
    assert [states[-1] for states in texts_of(data)][:2] == told
    assert len(texts_of(data)) == 4  # where nothing is said
    assert data["models"][0]["settings"]["steps"] == "2"  # of the model's config
    page = commands.watch(workdirs=["model", workdir], num_samples=2)
    data = data_of(page)
    assert page == f"runs/{WATCH}"
    assert [one["name"] for one in data["models"]] == ["model", "run"]
    assert texts_of(data, 0) == texts_of(data, 1) and len(texts_of(data)) == 2


def test_the_student_of_a_distillation_is_chosen_by_its_steps(workdir, masked, tmp_path):
    teacher = {"checkpoint": "x", "kind": "workdir", "weights": "ema", "step": 5}
    rounds = [Round(n, 4 // n, round_workdir(tmp_path, n), 1, "0123") for n in (2, 1)]
    for one, student in zip(rounds, (workdir, masked), strict=True):
        shutil.copytree(student, one.workdir)
    write_distillation(tmp_path, teacher | {"fingerprint": "0123"}, rounds)
    page = commands.watch(tmp_path, steps=1, num_samples=1)
    assert page == f"{tmp_path}/{WATCH}"
    (model,) = data_of(page)["models"]
    assert model["method"] == "mdlm" and model["name"] == str(tmp_path)
