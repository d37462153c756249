"""Damage to any file: every mode gives what it gives without the damage, or one line.

ELF_JAX_FUZZ=N damages every file N times as often, at other places.
"""

import fcntl
import json
import os
import random
import shutil

import orbax.checkpoint as ocp
import pytest

from tests.command import cli
from tests.damage import Place, Told, build, faults, flip, remove, truncate

TIMES = int(os.environ.get("ELF_JAX_FUZZ", "1"))
ALL = (flip, truncate, remove)


# What TensorStore still reads when a checkpoint turns out to be damaged.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="session")
def origin(tmp_path_factory, worker_id):
    """The tree of `damage.build`, which the processes of a test run share."""
    if worker_id == "master":
        root = tmp_path_factory.mktemp("damage") / "origin"
        build(root)
        return root
    root = tmp_path_factory.getbasetemp().parent / "damage"
    with open(f"{root}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = root.with_name("damage.done")
        if not done.exists():
            shutil.rmtree(root, ignore_errors=True)  # of a process that failed
            build(root)  # in place, since a distillation keeps the path of its teacher
            done.touch()
    return root


@pytest.fixture(scope="session")
def place(origin, tmp_path_factory):
    return Place(origin, tmp_path_factory.mktemp("damage") / "copy")


# Each line: a glob, and the modes that read these files.
READERS = [
    ("run/config.json", ("sample", "evaluate", "export", "resume")),
    ("run/dataset.json", ("evaluate", "export", "resume")),
    ("run/start.json", ("resume",)),
    ("run/SHA256SUMS", ("sample", "evaluate", "resume")),
    ("run/encoder.safetensors", ("sample", "resume")),
    ("run/tokenizer/*", ("sample", "resume")),
    ("run/metrics.jsonl", ("resume",)),
    ("run/training_samples.jsonl", ("resume",)),
    ("run/evaluation.jsonl", ("evaluate", "sweep")),
    ("run/evaluation.json", ("export",)),
    ("run/samples/sample-*", ("again",)),
    ("run/samples/*-w2-*", ("sweep",)),
    ("run/scorer/*", ("again",)),
    ("run/export/**/*", ("sample the export",)),
    ("exported/encoder*", ("answer by the export",)),
    ("exported/encoder/*", ("answer by the export",)),
    ("few/distillation.json", ("sample the student", "distill the rest")),
    ("few/SHA256SUMS", ("sample the student",)),
    ("few/rounds/2/start.json", ("sample the student",)),
    ("pairs/encoder_stats.json", ("sample pairs",)),
    ("t5/encoder/*", ("sample pairs",)),
    ("prepared/*.json", ("prepare", "sample pairs")),
    ("prepared/SHA256SUMS", ("prepare", "sample pairs")),
    ("prepared/train*", ("prepare", "resume pairs")),
    ("prepared/validation*", ("prepare", "sample pairs")),
    ("prepared/tokenizer/*", ("prepare",)),
    ("half/**/*", ("prepare the rest",)),
]
# Files that no mode reads: they are damaged all at once.
UNREAD = (
    "base/**/*",
    "run/checkpoints/1/**/*",
    "run/scorer-training/**/*",
    "run/tensorboard/*",
    "run/*.png",
    "run/samples.txt",
    "run/training_samples.txt",
    "run/sweep.json",
    "t5/encoder-pretraining/**/*",
    "pairs/tensorboard/*",
    "pairs/*.png",
)
SUBSETS = 4  # of the files of a checkpoint, for the processes of a test run


@pytest.mark.parametrize("pattern, modes", READERS, ids=[pattern for pattern, _ in READERS])
@pytest.mark.parametrize("time", range(TIMES))
def test_each_file(place, pattern, modes, time):
    names = place.files(pattern)
    assert names
    assert faults(place, names, modes, ALL, time) == []


@pytest.mark.parametrize("subset", range(SUBSETS))
@pytest.mark.parametrize("time", range(TIMES))
def test_each_file_of_a_checkpoint(place, subset, time):
    names = place.files("run/checkpoints/2/**/*")[subset::SUBSETS]
    lines = []
    for number, name in enumerate(names, time):
        for kind, damage in enumerate(ALL, number):
            mode = "export" if kind % 3 else "resume"  # which takes longer
            lines += faults(place, [name], (mode,), (damage,), time)
    assert lines == []


def test_files_that_nothing_reads(place):
    names = [name for pattern in UNREAD for name in place.files(pattern)]
    assert len(names) > 50
    changes = {name: flip(place.read(name), random.Random(name)) for name in names}
    for mode in ("sample", "evaluate", "resume"):
        assert place.fault(mode, changes) is None
        assert not isinstance(place.found, Told), place.found


def test_no_file_is_forgotten(origin):
    patterns = [*(pattern for pattern, _ in READERS), *UNREAD, "run/checkpoints/2/**/*"]
    # The other point of the sweep; workdirs and an export with the same kinds of files as above.
    patterns += ["run/samples/*-w1-*", "pairs/**/*", "pairs.jsonl", "exported/**/*"]
    patterns += ["few/rounds/**/*"]
    known = {path for pattern in patterns for path in origin.glob(pattern)}
    left = [path for path in origin.rglob("*") if path.is_file() and path not in known]
    assert left == []


def test_damage_without_checksums_is_seen_here(place):
    """These tests can fail: a value that nothing guards gives another result."""
    table, sums = place.read("run/encoder.safetensors"), "run/SHA256SUMS"
    changed = table[:-1] + bytes([table[-1] ^ 0x40])  # the exponent of the last number
    fault = place.fault("export", {"run/encoder.safetensors": changed, sums: None})
    assert fault.startswith("another result")
    assert place.fault("export", {"run/encoder.safetensors": changed}) is None
    assert "encoder.safetensors has changed since it was written" in place.found


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_another_value_in_a_checkpoint(origin, tmp_path):
    """The same for a checkpoint, whose state is saved again with another number in it."""
    place = Place(origin, tmp_path / "copy")
    assert place.fault("export", {}) is None
    checkpoint = place.root / "run" / "checkpoints" / "2"
    with ocp.PyTreeCheckpointer() as checkpointer:
        state = checkpointer.restore(checkpoint / "state")
        bias = state["ema"]["x_out"]["bias"]
        state["ema"]["x_out"]["bias"] = bias.at[0].set(1 + bias[0])
        checkpointer.save(checkpoint / "state", state, force=True)
    assert place.fault("export", {}) is None
    assert "(array ema/x_out/bias does not have its checksum)" in place.found
    # Checksums that are gone are damage too. Only a checkpoint of version 0.2 has none.
    shutil.rmtree(checkpoint / "checksums")
    assert place.fault("export", {}) is None
    assert "checkpoints/2 is damaged" in place.found
    about = checkpoint / "_CHECKPOINT_METADATA"
    content = json.loads(about.read_text())
    del content["item_handlers"]["checksums"]
    about.write_text(json.dumps(content))
    assert place.fault("export", {}).startswith("another result")


LINES = {  # file: (its new content or None, mode, what the line says)
    "run/checkpoints/2/state/manifest.ocdbt": (b"x", "sample", "checkpoints/2 is damaged"),
    "run/checkpoints/2/state/d": (None, "sample", "checkpoints/2 is damaged"),
    "run/metrics.jsonl": (b"{\n", "train", "metrics.jsonl line 1 is damaged"),
    "run/config.json": (b"{", "evaluate", "config.json has changed since it was written"),
}


@pytest.mark.parametrize("name", LINES)
def test_the_command_line_says_one_line(origin, tmp_path, name):
    content, mode, message = LINES[name]
    shutil.copytree(origin, tmp_path / "tree")
    path = tmp_path / "tree" / name
    shutil.rmtree(path) if path.is_dir() else path.write_bytes(content)
    argv = ["--workdir=run", f"--mode={mode}"]
    if mode == "train":
        (tmp_path / "config.py").write_text(AGAIN)
        argv.append(f"--config={tmp_path}/config.py")
    run = cli(*argv, cwd=tmp_path / "tree")
    assert run.returncode == 2 and "Traceback" not in run.stderr
    last = run.stderr.splitlines()[-1]
    assert last.startswith("error: ") and message in last
    others = run.stderr.replace("\r", "\n").splitlines()[:-1]
    assert all("step/s" in line or "?" in line or not line for line in others), run.stderr


# The config of the workdir, with one more step.
AGAIN = """
from elf_jax.core.config import read_config
def get_config():
    config = read_config("run")
    config.train.duration.steps = 3
    return config
"""
