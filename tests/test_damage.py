"""Damage to any file: every mode gives what it gives without the damage, or one line.

ELF_JAX_FUZZ=N damages every file N times as often, at other places.
"""

import fcntl
import os
import shutil

import pytest

from tests.damage import Place, build, faults, flip, remove, truncate

TIMES = int(os.environ.get("ELF_JAX_FUZZ", "1"))
ALL = (flip, truncate, remove)


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
        if not root.exists():
            scratch = root.with_name("damage-scratch")
            build(scratch)
            scratch.rename(root)
    return root


@pytest.fixture(scope="session")
def place(origin, tmp_path_factory):
    return Place(origin, tmp_path_factory.mktemp("damage") / "copy")


# Each line: a glob, and the modes that read these files.
READERS = [
    ("run/*.json", ("sample", "evaluate", "export", "resume")),
    ("run/SHA256SUMS", ("sample", "evaluate", "resume")),
    ("run/*.safetensors", ("sample", "resume")),
    ("run/tokenizer/*", ("sample", "resume")),
    ("run/metrics.jsonl", ("resume",)),
    ("run/evaluation.jsonl", ("evaluate", "sweep")),
    ("run/samples/*", ("evaluate", "again", "sweep")),
    ("run/scorer/*", ("again",)),
    ("run/export/**/*", ("sample the export",)),
    ("exported/**/*", ("answer by the export",)),
    ("pairs/encoder_stats.json", ("sample pairs", "resume pairs")),
    ("t5/encoder/*", ("sample pairs",)),
    ("prepared/*.json", ("prepare", "sample pairs", "resume pairs")),
    ("prepared/SHA256SUMS", ("prepare", "sample pairs")),
    ("prepared/*.array_record", ("prepare", "sample pairs", "resume pairs")),
    ("prepared/tokenizer/*", ("prepare",)),
    ("half/**/*", ("prepare the rest",)),
]


@pytest.mark.parametrize("pattern, modes", READERS, ids=[pattern for pattern, _ in READERS])
@pytest.mark.parametrize("time", range(TIMES))
def test_every_file(place, pattern, modes, time):
    names = place.files(pattern)
    assert names
    assert faults(place, names, modes, ALL, time) == []
