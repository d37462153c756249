"""The notebook: it runs from top to bottom without a TPU, finds its code, and names what exists."""

import base64
import html
import importlib
import json
import pathlib
import re
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest

from elf_jax import commands
from elf_jax.core import defaults
from elf_jax.core.config import flatten
from elf_jax.core.workdir import TRAINING_SAMPLES_TEXT
from notebooks import execute
from tests.tiny import QUICK

ROOT = pathlib.Path(__file__).parent.parent
PICTURES = ("curve", "own-curve")  # ids of the cells that show one


@pytest.fixture(scope="module")
def notebook():
    return execute.read()


@pytest.fixture(scope="module")
def done(notebook, tmp_path_factory):
    """(the notebook after a tiny run, directory of its models)."""
    root = tmp_path_factory.mktemp("notebook")
    steps = {"train.duration.steps": 4, "sample.steps": 2, "train.validate_every": 2}
    evaluation = {"evaluate.after_training": True, "evaluate.num_samples": 4}
    own = {name: value for name, value in QUICK.items() if name.startswith("model.")}
    own |= {"data.length": 16, "data.vocab_size": 300, "encoder.width": 8, "train.batch_size": 16}
    own |= {"train.validation_batches": 1, "optimizer.name": "adamw"}
    settings = {
        "RUNS": str(root / "runs"),
        "QUICKSTART": {**QUICK, "data.length": 24, **steps, **evaluation, "train.samples": 2},
        "OWN": {**own, **steps, "train.samples": 2},
    }
    offline = {"HF_HUB_OFFLINE": "1", "https_proxy": "http://127.0.0.1:9", "TQDM_DISABLE": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in offline.items():
            patch.setenv(name, value)
        executed = execute.execute(notebook, ROOT / "notebooks", settings, timeout=600)
    return executed, root / "runs"


def cells(notebook):
    return {cell.id: cell for cell in notebook.cells}


def printed(cell):
    return "".join(out.text for out in cell.outputs if out.get("name") == "stdout")


def shown(cell, kind):
    """What a cell shows as its value, of a MIME type."""
    return [out.data[kind] for out in cell.outputs if kind in out.get("data", {})]


def test_it_runs_from_top_to_bottom(done):
    executed, runs = done
    by_id = cells(executed)
    assert "8 device(s): cpu" in printed(by_id["devices"])
    text = printed(by_id["quickstart"])
    assert "trained 4 steps in " in text and "\n  distinct " in text
    for name in ("loss curves", "samples of 2 steps"):
        assert f"\n{name}: {runs / 'quickstart'}" in text
    assert printed(by_id["text"]).strip() == (
        (runs / "quickstart" / TRAINING_SAMPLES_TEXT).read_text().strip()
    )
    assert printed(by_id["sample"]).count("\n") >= 8
    for name in PICTURES:
        (picture,) = shown(by_id[name], "image/png")
        assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert re.fullmatch("(latin .*with acute\n){4}", printed(by_id["fill"]), re.DOTALL)
    assert "trained 4 steps in " in printed(by_id["own-train"])
    assert (runs / "own" / "config.json").is_file()


def test_it_shows_how_texts_come_about(done):
    executed, runs = done
    (page,) = shown(cells(executed)["watch"], "text/html")
    assert page.startswith("<div><iframe srcdoc=")
    data = re.search(r'type="application/json"[^>]*>(.*?)</script>', html.unescape(page), re.DOTALL)
    data = json.loads(data[1])
    ends = [one["states"][-1]["at"] for one in data["models"][0]["trajectories"]]
    texts = ["".join(data["pieces"][index] for index in end) for end in ends]
    settings = {"num_samples": 2, "steps": 32, "seed": 1}
    assert texts == [text for _, text in commands.samples(runs / "quickstart", **settings)]


def test_no_cell_warns(done):
    for cell in done[0].cells:
        for out in cell.get("outputs", []):
            assert "Warning" not in out.get("text", ""), cell.id


@pytest.mark.parametrize("place", ["notebooks", "docs", "."])
def test_the_code_is_found_from_a_checkout(notebook, monkeypatch, place):
    monkeypatch.chdir(ROOT / place)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run_cell(notebook, monkeypatch)["CODE"] == ROOT
    assert pathlib.Path.cwd() == ROOT


def test_the_code_is_found_where_it_is_installed(notebook, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    origin = str(ROOT / "elf_jax" / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=origin))
    assert run_cell(notebook, monkeypatch)["CODE"] == ROOT


def test_elsewhere_it_is_cloned_and_installed(notebook, monkeypatch, tmp_path):
    """As on Colab."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="set REPOSITORY in the cell above"):
        run_cell(notebook, monkeypatch)
    calls = []

    def run(command, check):
        assert check
        calls.append(command)
        if command[0] == "git":
            pathlib.Path(command[-1]).mkdir()

    monkeypatch.setattr(subprocess, "run", run)
    found = run_cell(notebook, monkeypatch, REPOSITORY="https://example.org/copy")
    assert found["CODE"] == tmp_path / "elf-jax" == pathlib.Path.cwd()
    clone, install = calls
    assert clone[0] == "git" and clone[-2:] == ["https://example.org/copy", "elf-jax"]
    assert install[:4] == [sys.executable, "-m", "pip", "install"]
    assert re.fullmatch(r"elf-jax(\[tpu\]|\[gpu\])?", install[-1])


def run_cell(notebook, monkeypatch, **settings):
    """The names that the cell that finds the code leaves, after that with the settings."""
    by_id = cells(notebook)
    names = {}
    monkeypatch.setattr(sys, "path", list(sys.path))
    exec(by_id["settings"].source, names)
    names |= settings
    exec(by_id["code"].source, names)
    return names


def test_it_is_valid_and_names_what_exists(notebook):
    """The stored file. Its outputs are small, and of a run that nothing went wrong in."""
    stored = nbformat.read(execute.NOTEBOOK, nbformat.NO_CONVERT)
    nbformat.validate(stored)
    assert set(stored.metadata) <= {"kernelspec", "language_info", "accelerator"}
    assert execute.NOTEBOOK.stat().st_size < 1_000_000
    for cell in stored.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert all(out.output_type != "error" for out in cell.outputs)
    text = "\n".join(cell.source for cell in stored.cells)
    keys = re.findall(r'"([a-z0-9_]+\.[a-z0-9_.]+)": ', text)
    assert keys and set(keys) <= set(flatten(defaults.get_config()))
    paths = re.findall(
        r"(?:configs|elf_jax|launch|docs|notebooks)/[\w./]*\w|main\.py|README\.md", text
    )
    assert paths and all((ROOT / path).exists() for path in paths)
    lines = re.findall(r"python main\.py (.*)", text)
    flags = {flag for line in lines for flag in re.findall(r"--([a-z_]+)=", line)}
    assert flags and flags <= set(re.findall(r"--([a-z_]+)=", (ROOT / "main.py").read_text()))
    functions = set(re.findall(r"commands\.(\w+)\(", text))
    assert functions >= {"load_config", "train", "samples", "fills", "trajectories"}
    assert all(hasattr(commands, name) for name in functions)


def test_the_stored_outputs_are_of_these_cells(notebook):
    """Cells are numbered in order, and have what they show."""
    stored = nbformat.read(execute.NOTEBOOK, 4)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    by_id = cells(stored)
    assert "trained " in printed(by_id["quickstart"])
    assert "sample 0\n" in printed(by_id["text"])
    for name in PICTURES:
        assert len(shown(by_id[name], "image/png")) == 1
    assert len(shown(by_id["watch"], "text/html")) == 1


def test_outputs_are_made_small(done):
    executed = nbformat.from_dict(done[0])
    by_id = cells(executed)
    for text in ("\ra", "\r 1%", "\r100%\n", "end\n"):  # of a progress bar
        out = nbformat.v4.new_output("stream", name="stderr", text=text)
        by_id["devices"].outputs.append(out)
    before = len(shown(by_id["curve"], "image/png")[0])
    execute.shrink(executed)
    assert by_id["devices"].outputs[-1].text == "100%\nend\n"
    small = base64.b64decode(shown(by_id["curve"], "image/png")[0])
    assert small.startswith(b"\x89PNG") and len(small) < before / 2
    assert int.from_bytes(small[16:20], "big") <= execute.WIDTH
