"""The command line: modes, flags, config keys, and one line with exit code 2 for every mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import main
from elf_jax import command_line
from tests.command import cli, forked
from tests.tiny import write_book

ROOT = Path(main.__file__).parent
TINY = [
    "--config.data.vocab_size=300",
    "--config.encoder.width=8",
    "--config.model.depth=1",
    "--config.model.width=16",
    "--config.model.heads=2",
    "--config.train.batch_size=16",
    "--config.train.duration.steps=4",
    "--config.train.validation_batches=1",
    "--config.mesh.data=1",
    "--config.sample.steps=2",
    "--config.evaluate.num_samples=6",
]
QUICKSTART = f"--config={ROOT}/configs/quickstart.py"


def typed(*argv, cwd=None):
    """Runs one command as a user types it. Returns the finished process, with output as text."""
    command = [sys.executable, str(ROOT / "main.py"), *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.fixture(scope="module")
def book_run(tmp_path_factory):
    """A workdir trained by the quickstart's command on the user's own text."""
    root = tmp_path_factory.mktemp("book")
    book = write_book(root / "book.txt")
    own = ["--config.data.kind=text", f"--config.data.path={book}"]
    run = typed(QUICKSTART, *TINY, *own, f"--workdir={root}/run")
    assert run.returncode == 0, run.stderr
    return root / "run"


def test_training_on_own_text_leaves_results(book_run):
    numbers = json.loads((book_run / "quickstart.json").read_text())
    assert numbers["steps"] == 4 and numbers["distinct"] > 0
    assert "valid" not in numbers  # rows of a stream are not whole texts
    report = json.loads((book_run / "dataset.json").read_text())
    assert report["fill"] == 1.0


def test_sampling_takes_its_settings_from_flags(book_run):
    args = ["--mode=sample", f"--workdir={book_run}", "--num_samples=3", "--seed=5"]
    first = typed(*args)
    assert first.returncode == 0 and first.stdout, first.stderr
    assert cli(*args).stdout == first.stdout
    assert cli(*args, "--seed=6", "--sampler=ode", "--time_grid=uniform").stdout != first.stdout
    bad = typed(*args, "--sampler=heun")
    said = "error: config.sample.sampler is 'heun', which elf does not have: use one of sde, ode\n"
    assert bad.returncode == 2 and bad.stderr == said


def test_evaluation_prints_and_stores(book_run):
    run = cli("--mode=evaluate", f"--workdir={book_run}", "--num_samples=4", "--gamma=0.5")
    assert run.returncode == 0 and "entropy_real" in run.stdout, run.stderr
    stored = json.loads((book_run / "quickstart.json").read_text())["provenance"]
    assert stored["num_samples"] == 4 and stored["gamma"] == 0.5


def test_another_config_in_the_workdir(book_run):
    run = cli(QUICKSTART, f"--workdir={book_run}")
    assert run.returncode == 2 and "model.depth" in run.stderr and run.stderr.count("\n") == 1


# Command lines with a mistake, and text that the message must contain.
MISTAKES = [
    ([], "--config is missing"),
    (["--mode=dream"], "use one of train, sample, evaluate"),
    (["--mode=sample"], "--workdir is missing"),
    (["--mode=sample", "--workdir="], "--workdir is missing"),
    (["--mode=sample", QUICKSTART, "--workdir=", "--checkpoint="], "in 'runs/quickstart'"),
    (["--mode=sample", "--workdir=/nowhere"], "no trained model in '/nowhere'"),
    (["--config=configs/none.py"], "none.py"),
    ([f"{QUICKSTART}:mdml"], "quickstart.py:mdml gives no config (no method 'mdml': use one of"),
    ([QUICKSTART, "--config.train.batchsize=3"], "did you mean 'train.batch_size'?"),
    ([QUICKSTART, "--config.train.batch_size=many"], "many"),
    ([QUICKSTART, "--config.train.batch_size=1.5"], "1.5"),
    ([QUICKSTART, "--config.optimizer.learning_rate=fast"], "fast"),
    ([QUICKSTART, "--stpes=3"], "stpes"),
    ([QUICKSTART, "--steps=many"], "many"),
    ([QUICKSTART, "stray"], "'stray'"),
    ([QUICKSTART, "--config.data.lenght=3"], "'data.lenght': did you mean 'data.length'?"),
    ([QUICKSTART, "--topology=v5p:2x2x1"], "--topology is for --mode=compile: leave it out"),
    (
        [QUICKSTART, "--steps=3"],
        "--mode=sample and evaluate and sweep and compare and curves and fill and rewrite",
    ),
    (["--mode=sample", "--workdir=x", "--steps=3,4"], "--steps has several values"),
    (["--mode=evaluate", "--config.evaluate.protocols.a.steps=3"], "without --config: name a"),
    (["--mode=evaluate", "--config.train.batch_size=3"], "train.batch_size is given without --con"),
    ([QUICKSTART, "--config.evaluate.protocols.a.stepz=3"], "did you mean 'evaluate.protocols.a"),
    ([QUICKSTART, "--config.evaluate.protocols.a.steps=x"], "must be of type int, not 'x'"),
    ([QUICKSTART, "--config.data.kind=jsonI"], "did you mean 'jsonl'?"),
    ([QUICKSTART, "--config.seed=-1"], "config.seed is -1; a seed is a number from 0 to 429496729"),
    ([QUICKSTART, f"--config.seed={2**70}"], f"config.seed is {2**70}; a seed is a number from 0"),
    (
        [QUICKSTART, f"--config.sample.seed={2**32 - 1}", "--config.sweep.seeds=2"],
        "has 4294967296 as",
    ),
    (["--mode=fill", "--workdir=x", "--text=\udcff ___"], "--text is not UTF-8: use a terminal"),
    (["--mode=sample", "--workdir=x", "--output=a/b/out.txt"], "no trained model in 'x'"),
    (["--mode=sample", "--workdir=x", "--format=html"], "is 'html'; use one of text, jsonl"),
    (["--mode=watch", "--workdir=x", "--format=text"], "is 'text'; use one of html, jsonl"),
    (["--mode=watch", "--workdirs=x,x"], "--workdirs names x twice"),
    (["--mode=watch", "--workdir=x", "--workdirs=y"], "leave out --workdir, --checkpoint"),
    (["--mode=watch", "--workdir=x", "--steps=3,4"], "--steps has several values"),
    (["--mode=serve", "--port=0"], "--workdir is missing"),
    (["--mode=serve", "--workdir=x", "--port=0"], "no trained model in 'x'"),
    (["--mode=serve", "--workdir=x", "--port=99999"], "--port is 99999; it must be from 0"),
    (["--mode=sample", "--workdir=x", "--port=3"], "--port is for --mode=serve: leave it out"),
]


def test_mistakes_are_one_line_and_exit_code_2(tmp_path):
    ran = forked([argv for argv, _ in MISTAKES], tmp_path)
    for (argv, message), run in zip(MISTAKES, ran, strict=True):
        assert run.code == 2, (argv, run.err)
        assert message in run.err and run.err.startswith("error: "), (argv, run.err)
        assert run.err.count("\n") == 1, (argv, run.err)
        assert not list(run.cwd.iterdir()), argv


def test_a_text_from_a_terminal_without_utf_8():
    """In an ASCII locale, Python keeps the bytes of an argument in this way."""
    for text in ("größe ___", "plain", "\U0001f600"):
        kept = text.encode().decode("ascii", errors="surrogateescape")
        assert command_line._in_utf8(kept) == command_line._in_utf8(text) == text


def test_help_fits_a_screen(tmp_path):
    run = typed("--help", cwd=tmp_path)
    assert run.returncode == 0 and len(run.stdout.splitlines()) <= 40
    for word in ("--mode", "sample", "evaluate", "--workdir", "book.txt"):
        assert word in run.stdout
