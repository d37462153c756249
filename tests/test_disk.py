"""What the disk and the terminal refuse: one line and exit code 2, and nothing is harmed."""

import os
import shutil
import stat
import subprocess
import sys

import pytest

from elf_jax.core.config import read_config, write_config
from elf_jax.core.workdir import SUMS
from tests.command import QUICKSTART, ROOT, forked
from tests.tiny import NAMES, QUICK, save_random_weights, tiny_config, write_book

CAPABILITIES = "-dac_override,-dac_read_search"
# Rights do not bind root, unless it drops these capabilities.
AS_USER = ("setpriv", f"--bounding-set={CAPABILITIES}", f"--inh-caps={CAPABILITIES}")
MODES = ("train", "sample", "evaluate", "sweep", "export", "pretrain_encoder", "train_scorer")


@pytest.fixture(scope="module")
def text_workdir(tmp_path_factory):
    """A workdir of a model of text with random weights."""
    return save_random_weights(tiny_config(), tmp_path_factory.mktemp("text") / "run")


@pytest.fixture(scope="module")
def place(tmp_path_factory, text_workdir, pairs_workdir):
    """A directory with what cannot be used."""
    place = tmp_path_factory.mktemp("place")
    write_book(place / "book.txt")
    write_book(place / "secret.txt")
    (place / "secret.py").write_text("get_config = None")
    (place / "secret").mkdir()
    (place / "locked").mkdir()
    shutil.copytree(text_workdir, place / "run")
    shutil.copytree(text_workdir, place / "secret-run")
    shutil.copytree(pairs_workdir, place / "pairs")
    locked = [*(place / "run").rglob("*"), place / "run", place / "locked"]
    for path in locked:
        path.chmod(0o555 if path.is_dir() else 0o444)
    for path in ("secret.txt", "secret.py", "secret", "secret-run/config.json"):
        (place / path).chmod(0)
    yield place
    for path in locked:
        path.chmod(0o755)
    (place / "secret").chmod(0o755)


OWN = ["--config.data.kind=text", "--config.data.path={place}/book.txt"]
TRAIN = [QUICKSTART, *OWN, "--config.train.duration.steps=1"]
LONG = "x" * 300
# Command lines, and text that the message must contain.
REFUSED = [
    *(
        ([f"--mode={mode}", QUICKSTART, "--workdir={place}/book.txt"], "book.txt' is a file: name")
        for mode in MODES
    ),
    *(
        ([f"--mode={mode}", *TRAIN, "--workdir={place}/locked/run"], "locked cannot be written to")
        for mode in ("train", "pretrain_encoder", "train_scorer")
    ),
    ([*TRAIN, "--workdir={place}/book.txt/run"], "book.txt is a file, and --workdir needs a"),
    ([*TRAIN, f"--workdir={{place}}/{LONG}"], "(File name too long): use a shorter path"),
    ([*TRAIN, "--workdir={place}/secret/run"], "(Permission denied): check the rights"),
    (["--mode=sample", f"--workdir={LONG}"], "(File name too long): use a shorter path"),
    (["--mode=evaluate", "--workdir={place}/run"], "run cannot be written to, because of"),
    (["--mode=export", "--workdir={place}/run"], "run cannot be written to, because of"),
    (["--mode=sample", "--workdir={place}/secret-run"], "config.json cannot be "),
    (["--mode=sample", "--checkpoint={place}/secret/model"], "(Permission denied)"),
    (["--mode=sample", "--workdir={place}/pairs", "--source={place}/secret.txt"], "secret.txt"),
    (
        ["--mode=sample", "--workdir={place}/run", "--output={place}"],
        " is a directory: name a file",
    ),
    (
        ["--mode=sample", "--workdir={place}/run", "--output={place}/locked/out"],
        "locked cannot be ",
    ),
    (
        ["--mode=sample", "--workdir={place}/run", "--output={place}/book.txt/out"],
        "needs a directo",
    ),
    (["--mode=fill", "--workdir={place}/run", "--text=a", "--output={place}"], "is a directory"),
    (["--mode=rewrite", "--workdir={place}/secret-run", "--text=a"], "config.json cannot be "),
    (["--mode=compare", "--workdirs={place}/secret-run", "--output=new"], "config.json cannot be "),
    (["--mode=compare", "--workdirs={place}/run", "--output={place}/book.txt"], "book.txt' is a f"),
    (["--mode=distill", "--workdir={place}/book.txt/few", "--teacher={place}/run"], "is a file"),
    (["--mode=distill", "--workdir={place}/locked/few", "--teacher={place}/run"], "be written to"),
    (["--mode=distill", "--workdir=new", "--teacher={place}/secret/m"], "(Permission denied)"),
    (["--mode=compile", QUICKSTART, "--output={place}"], " is a directory: name a file"),
    (
        ["--mode=evaluate", "--workdir={place}/pairs", "--num_samples=1", QUICKSTART],
        "diff",
    ),
    (["--config={place}/secret.py"], "secret.py cannot be used (Permission denied): check the"),
    (["--config={place}/secret/my.py"], "secret/my.py cannot be used (Permission denied)"),
    (["--config={place}"], "(Is a directory): name a file"),
    (
        [QUICKSTART, "--config.data.kind=text", "--config.data.path={place}/secret.txt"],
        "no permission to read it",
    ),
    ([QUICKSTART, "--config.evaluate.output="], "config.evaluate.output is empty"),
    (
        [*TRAIN, "--config.evaluate.output={place}", "--workdir=new"],
        " is a directory: name a file",
    ),
    (["--mode=prepare", *TRAIN, "--config.data.prepared={place}/book.txt"], "book.txt"),
]


def test_what_cannot_be_used_is_one_line(place, tmp_path):
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("rights do not bind root, and it cannot drop them here")
    before = {path: path.lstat().st_ino for path in place.rglob("*")}
    argv = [[one.replace("{place}", str(place)) for one in argv] for argv, _ in REFUSED]
    ran = forked(argv, tmp_path, AS_USER if os.geteuid() == 0 else ())
    for (argv, message), run in zip(REFUSED, ran, strict=True):
        lines = [line for line in run.err.splitlines() if not line.startswith("warning: ")]
        assert run.code == 2 and len(lines) == 1, (argv, run.err)
        assert lines[0].startswith("error: ") and message in lines[0], (argv, lines)
        assert not list(run.cwd.iterdir()), argv
    assert before == {path: path.lstat().st_ino for path in place.rglob("*")}


def shell(command, env=None, **places):
    """Runs a command line of bash in which MAIN is `python main.py`; {name} is replaced."""
    command = command.format(**places).replace("MAIN", f"{sys.executable} {ROOT}/main.py")
    run = ["bash", "-c", f"set -o pipefail; {command}"]
    return subprocess.run(run, capture_output=True, text=True, env={**os.environ, **(env or {})})


def errors(run):
    """The lines on standard error that are no warnings."""
    return [line for line in run.stderr.splitlines() if not line.startswith("warning: ")]


def test_a_reader_that_ends_early_is_no_error(pairs_workdir, tmp_path):
    (tmp_path / "in.txt").write_text("abc\n" * 100)
    sample = "MAIN --mode=sample --workdir={run} --source={tmp}/in.txt"
    run = shell(f"{sample} | head -n 1", run=pairs_workdir, tmp=tmp_path)
    assert (run.returncode, errors(run), run.stdout.count("\n")) == (141, [], 1)
    assert shell("MAIN --help | true").returncode in (0, 141)


def test_standard_output_that_is_full_or_closed(text_workdir, tmp_path):
    sample = "MAIN --mode=sample --workdir={run}"
    for command, message in (
        (f"{sample} > /dev/full", "standard output cannot be written (No space left on device)"),
        ("MAIN --help > /dev/full", "standard output cannot be written (No space left on device)"),
        (f"{sample} >&-", "standard output is closed: name a file in --output"),
    ):
        run = shell(command, run=text_workdir)
        assert run.returncode == 2 and len(errors(run)) == 1 and message in errors(run)[0], command
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)  # a shell opened it, not this program
    run = shell(f"{sample} --output={{tmp}}/out >&-", run=text_workdir, tmp=tmp_path)
    assert run.returncode == 0 and (tmp_path / "out").is_file(), run.stderr


def test_samples_are_utf_8_in_every_locale(text_workdir, tmp_path):
    (tmp_path / "ä").mkdir()
    command = "MAIN --mode=export --workdir={run} --output={out}"
    run = shell(command, {"PYTHONIOENCODING": "ascii"}, run=text_workdir, out=tmp_path / "ä" / "m")
    assert run.returncode == 0 and run.stdout == f"exported {tmp_path}/ä/m\n", run.stderr


def test_samples_into_a_pipe_and_a_link(pairs_workdir, tmp_path):
    (tmp_path / "in.txt").write_text("abc\nfed\n")
    (tmp_path / "link").symlink_to("far.txt")
    os.mkfifo(tmp_path / "fifo")
    sample = "MAIN --mode=sample --workdir={run} --source={tmp}/in.txt"
    places = {"run": pairs_workdir, "tmp": tmp_path}
    plain = shell(f"{sample} --output=/dev/stdout", **places)
    assert plain.stdout.count("\n") == 2
    piped = shell(f"{sample} --output={{tmp}}/fifo & cat {{tmp}}/fifo; wait $!", **places)
    assert piped.stdout == plain.stdout and stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    shell(f"{sample} --output={{tmp}}/link", **places)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "far.txt").read_text() == plain.stdout


HOME = [f"--config.{key}={value}" for key, value in QUICK.items() if key != "data.path"]
HOME += ["--config.data.path= ~/names.jsonl", "--config.train.duration.steps=1"]


def test_the_home_directory(tmp_path):
    """Also: a workdir whose config has the plain text, as earlier versions wrote it, goes on."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(NAMES, home)
    shutil.copy(f"{ROOT}/configs/quickstart.py", home / "my.py")
    train = ["--config=~/my.py", *HOME, "--config.mesh.data=1", "--workdir=~/run"]
    sample = ["--mode=sample", "--num_samples=1", "--steps=1"]
    commands = [
        train,
        train,
        [*sample, "--workdir=~/run", "--output=~/out.txt"],
        ["--mode=export", "--workdir=~/run", "--output=~/model"],
        [*sample, "--checkpoint=~/model", "--output=~/a~b.txt"],
    ]
    ran = forked(commands, tmp_path, env={"HOME": str(home)})
    for argv, run in zip(commands, ran, strict=True):
        assert run.code == 0 and not list(run.cwd.iterdir()), (argv, run.err)
    assert {"run", "out.txt", "model", "a~b.txt"} < {path.name for path in home.iterdir()}
    config = read_config(home / "run")
    assert config.data.path.strip() == f"{home}/names.jsonl" and "resuming" in ran[1].out
    config.data.path = " ~/names.jsonl"
    (home / "run" / SUMS).unlink()  # a workdir of an earlier version has no checksums
    write_config(home / "run", config)
    (tmp_path / "again").mkdir()
    (again,) = forked([train], tmp_path / "again", env={"HOME": str(home)})
    assert again.code == 0 and "is now" not in again.out, again.err
