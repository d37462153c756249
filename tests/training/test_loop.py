"""The loop around the steps: equal logs after interruptions, one training at a time, full disks."""

import errno
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from types import SimpleNamespace

import pytest

from elf_jax.checkpoints import experiment
from elf_jax.checkpoints.trained import load_trained
from elf_jax.core import lock
from elf_jax.core.errors import UserError
from elf_jax.training import loop, trainer
from elf_jax.training.metrics_log import MetricsLog, Window, read_metrics
from tests.command import ROOT
from tests.tiny import tiny_config

pytestmark = pytest.mark.usefixtures("share_programs")

# Lines of the log at steps 4, 5 (saved) and 8; the end is step 10.
KEYS = {"train.duration.steps": 10, "train.log_every": 4, "train.checkpoint_every": 5}


def lines(workdir):
    """The log without the seconds, which differ."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(workdir)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    trainer.train(tiny_config(**KEYS), workdir)
    return workdir


def test_the_lines_of_a_run(straight):
    assert [line["step"] for line in read_metrics(straight)] == [4, 5, 8, 10]


@pytest.mark.parametrize("step", [2, 4, 5, 7])
def test_an_interrupted_run_has_the_same_lines(straight, tmp_path, step):
    trainer.train(tiny_config(**KEYS), tmp_path, until=step)
    assert [line["step"] for line in read_metrics(tmp_path)] == [n for n in (4, 5) if n <= step]
    trainer.train(tiny_config(**KEYS), tmp_path)
    assert lines(tmp_path) == lines(straight)


def test_so_does_one_that_was_stopped_by_a_signal(straight, tmp_path, monkeypatch):
    monkeypatch.setattr(loop._Interruption, "_restore", lambda self: None)
    step, calls = trainer._step, []

    def stopping(*args):
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args)

    before = signal.getsignal(signal.SIGTERM)
    try:
        monkeypatch.setattr(trainer, "_step", stopping)
        assert trainer.train(tiny_config(**KEYS), tmp_path)[1] is False
    finally:
        monkeypatch.undo()
        signal.signal(signal.SIGTERM, before)
    assert [line["step"] for line in read_metrics(tmp_path)] == [4, 5]
    trainer.train(tiny_config(**KEYS), tmp_path)
    assert lines(tmp_path) == lines(straight)


@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_so_does_one_that_was_killed(straight, tmp_path, left):
    """Checkpoint 5 is there, and the log has `left` whole lines and a part of the next."""
    workdir = shutil.copytree(straight, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "10")
    log = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (workdir / "metrics.jsonl").write_text("".join(log[:left]) + log[left][:20])
    trainer.train(tiny_config(**KEYS), workdir)
    # A line before the checkpoint cannot be made again.
    assert lines(workdir) == lines(straight)[1 if left == 0 else 0 :]


def test_the_last_line_is_written_if_only_it_is_missing(straight, tmp_path):
    workdir = shutil.copytree(straight, tmp_path / "run")
    log = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (workdir / "metrics.jsonl").write_text("".join(log[:-1]))
    trainer.train(tiny_config(**KEYS), workdir)
    assert lines(workdir) == lines(straight)


def test_a_window_goes_on_to_the_same_digits():
    whole, part = Window(), Window()
    values = [{"loss": 0.1 * n, "other": 1 / (n + 1)} for n in range(10)]
    for value in values:
        whole.add(value)
    for value in values[:6]:
        part.add(value)
    kept = json.loads(json.dumps({"count": part.count, "sums": part.sums}))
    part = Window(**kept)
    for value in values[6:]:
        part.add(value)
    assert part.means() == whole.means()


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"step": "4"}', '{"loss": 1}', "\x00"])
def test_a_damaged_line_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 2}}\n{line}\n{{"step": 4}}\n')
    with pytest.raises(UserError, match="metrics.jsonl line 2 is damaged"):
        read_metrics(tmp_path)
    with pytest.raises(UserError, match="metrics.jsonl line 2 is damaged"):
        MetricsLog(tmp_path, 4)


def events(workdir):
    """The raw records of a workdir's TensorBoard files, in order."""
    records = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            records.append(data[12 : 12 + size])
            data = data[16 + size :]
    return records


def test_tensorboard_forgets_steps_that_come_again(tmp_path):
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    trainer.train(tiny_config(**KEYS), tmp_path, until=7)
    trainer.train(tiny_config(**KEYS), tmp_path)
    parsed = [Event.FromString(record) for record in events(tmp_path)]
    starts = [one.step for one in parsed if one.session_log.status == SessionLog.START]
    assert starts == [8]  # TensorBoard purges what has this step or a later one


def test_tensorboard_forgets_a_run_that_was_killed_before_it_saved(tmp_path):
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    for _ in range(2):
        with MetricsLog(tmp_path, 0) as log:
            log.write({"step": 10, "loss": 1.0})
    assert read_metrics(tmp_path) == [{"step": 10, "loss": 1.0}]
    parsed = [Event.FromString(record) for record in events(tmp_path)]
    starts = [one.step for one in parsed if one.session_log.status == SessionLog.START]
    assert starts == [1]


HOLDING = """
import sys, time
from elf_jax.core import lock
with lock.hold(sys.argv[1], ".training.lock", "{holder}"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_training_is_refused(straight, tmp_path):
    workdir = shutil.copytree(straight, tmp_path / "run")
    command = [sys.executable, "-c", HOLDING, str(workdir)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert first.stdout.readline() == "held\n"
        before = (workdir / "metrics.jsonl").read_bytes()
        config = tiny_config(**{**KEYS, "train.duration.steps": 12})
        with pytest.raises(UserError, match=f"is being trained by process {first.pid} on .*wait"):
            trainer.train(config, workdir)
        assert (workdir / "metrics.jsonl").read_bytes() == before
        assert sorted(os.listdir(workdir / "checkpoints")) == ["10", "5"]
    finally:
        first.kill()
        first.wait()
    trainer.train(config, workdir)
    assert read_metrics(workdir)[-1]["step"] == 12


def test_a_training_that_was_replaced_saves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(lock.Lock, "lost", True, raising=False)
    monkeypatch.setattr(
        lock.Lock,
        "__setattr__",
        lambda self, name, value: None if name == "lost" else object.__setattr__(self, name, value),
    )
    with pytest.raises(UserError, match="another training has taken over"):
        trainer.train(tiny_config(**KEYS), tmp_path)
    assert os.listdir(tmp_path / "checkpoints") == []
    assert read_metrics(tmp_path) == []


def test_too_little_room_is_said_before_the_first_step(tmp_path, monkeypatch):
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr(experiment.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"1e-06 GB free, and 2 checkpoint\(s\) of .*keep_chec"):
        trainer.train(tiny_config(**KEYS), tmp_path)
    assert read_metrics(tmp_path) == []


FULL = [
    OSError(errno.ENOSPC, "No space left on device", "x"),
    ValueError("RESOURCE_EXHAUSTED: Error writing local file: No space left on device"),
]


@pytest.mark.parametrize("error", FULL, ids=["os", "tensorstore"])
def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, error):
    save = experiment.ocp.CheckpointManager.save

    def full(self, step, **kwargs):
        if step == 10:
            raise error
        return save(self, step, **kwargs)

    monkeypatch.setattr(experiment.ocp.CheckpointManager, "save", full)
    with pytest.raises(UserError, match="No space left.*the checkpoint of step 5 is whole: make"):
        trainer.train(tiny_config(**KEYS), tmp_path)
    monkeypatch.undo()
    trainer.train(tiny_config(**KEYS), tmp_path)
    assert read_metrics(tmp_path)[-1]["step"] == 10


def test_a_half_written_checkpoint_is_removed_by_the_next_training_only(straight, tmp_path):
    workdir = shutil.copytree(straight, tmp_path / "run")
    half = workdir / "checkpoints" / "15.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "part").write_bytes(b"0" * 1000)
    load_trained(workdir)
    assert half.is_dir()
    trainer.train(tiny_config(**{**KEYS, "train.duration.steps": 12}), workdir)
    assert sorted(os.listdir(workdir / "checkpoints")) == ["10", "12"]


def test_other_errors_of_a_save_keep_their_traceback(tmp_path, monkeypatch):
    def broken(self, step, **kwargs):
        raise TypeError("a bug")

    monkeypatch.setattr(experiment.ocp.CheckpointManager, "save", broken)
    with pytest.raises(TypeError, match="a bug"):
        trainer.train(tiny_config(**KEYS), tmp_path)
