"""Every benchmark runs at a tiny size, and --help prints its description."""

import os
import runpy
import sys

import pytest

from tests.command import ROOT, program

TINY = [
    "--config.model.depth=1",
    "--config.model.width=16",
    "--config.model.heads=2",
    "--config.model.unroll=1",
    "--config.encoder.width=8",
    "--config.train.batch_size=4",
    "--config.sample.batch_size=4",
    "--config.sample.steps=2",
]
QUICKSTART = f"--config={ROOT}/configs/quickstart.py"
MODEL = ["--repeats=1", "--vocab_size=50", *TINY]
# Module -> (arguments, text that its output must contain).
BENCHMARKS = {
    "train_step": (MODEL, "mixed within the batch"),
    "micro_batches": ([QUICKSTART, *MODEL, "--parts=1,2"], "2 micro-batches"),
    "length_buckets": (
        [
            f"--config={ROOT}/configs/seq2seq.py",
            f"--config.data.path={ROOT}/tests/names.jsonl",
            "--config.data.source_field=text",
            "--config.data.field=text",
            "--config.data.vocab_size=300",
            "--config.train.batch_size=16",
            *(one for one in TINY if "batch_size" not in one),
            "--repeats=1",
            "--steps=1:1,2:2",
        ],
        "2 bucket(s), 2 micro-batch(es): ",
    ),
    "sampling": (MODEL, "one scan"),
    "optimizer": (MODEL, "optax, one after another"),
    "checkpoint_sums": (MODEL, "checksums of the arrays"),
    "startup": (["--only=mistakes"], "main.py --help: "),
    "input_pipeline": (
        ["--megabytes=0.2", "--rounds=1", "--copies=2", "--length=16", "--batch_size=8"],
        "training batches from shards",
    ),
    "compile_table": (
        ["--only=quickstart", "--topologies=local", "--", *TINY],
        "| quickstart | local |",
    ),
}


def run(module, *arguments, cwd):
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    return program([f"benchmarks.{module}", *arguments], flags, cwd)


def test_all_are_here():
    modules = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert modules - {"__init__", "common", "plain"} == set(BENCHMARKS)


@pytest.mark.parametrize("module", BENCHMARKS)
def test_it_runs_at_a_tiny_size(module, tmp_path):
    arguments, words = BENCHMARKS[module]
    if BENCHMARKS[module][0] is MODEL:
        arguments = [QUICKSTART, *arguments]
    done = run(module, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert words in done.stdout


@pytest.mark.parametrize("module", BENCHMARKS)
def test_help(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"benchmarks.{module}", run_name="__main__")
    text = capsys.readouterr().out
    assert not ended.value.code and ("python -m benchmarks" in text or "--megabytes" in text)
