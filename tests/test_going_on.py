"""Continuing in a workdir with another config, by the command: which keys may change, and how."""

import json
import os
import shutil
import socket

import pytest

from tests.command import QUICKSTART, cli, programs
from tests.tiny import NAMES, QUICK

KEYS = {
    **QUICK,
    # QUICK has AdamW, because Muon takes long to compile on a mesh. test_muon.py tests Muon.
    "optimizer.warmup.steps": 0,
    "train.duration.steps": 4,
    "train.log_every": 1,
    "train.validate_every": 0,
    "train.checkpoint_every": 4,
}


def arguments(workdir, **keys):
    settings = {**KEYS, **keys}
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    return [QUICKSTART, f"--workdir={workdir}", *flags]


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    return {line["step"]: line["loss"] for line in lines}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workdir with a finished training of four steps, on one device."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    done = cli(*arguments(workdir))
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_a_longer_duration_trains_on_after_the_end(workdir, tmp_path):
    done = cli(*arguments(workdir, **{"train.duration.steps": 6, "train.log_every": 2}))
    assert done.returncode == 0, done.stderr
    assert "resuming from the checkpoint of step 4" in done.stdout
    assert "config.train.duration.steps was 4 and is 6 from here on" in done.stdout
    assert "config.train.log_every was 1 and is 2 from here on" in done.stdout
    # The linear schedule of the quickstart reached zero at step 4. It is stretched, and a message
    # says this.
    assert "the linear schedule now reaches zero at step 6" in done.stdout
    assert sorted(losses(workdir)) == [1, 2, 3, 4, 6]
    assert json.loads((workdir / "config.json").read_text())["train"]["duration"]["steps"] == 6
    # The same command again changes nothing.
    before = (workdir / "metrics.jsonl").read_bytes()
    again = cli(*arguments(workdir, **{"train.duration.steps": 6, "train.log_every": 2}))
    assert again.returncode == 0 and "from here on" not in again.stdout
    assert (workdir / "metrics.jsonl").read_bytes() == before


MORE = {"optimizer.schedule": "constant", "train.duration.steps": 6}


@pytest.fixture(scope="module")
def constant(tmp_path_factory):
    """Four steps on one device at a constant learning rate."""
    workdir = tmp_path_factory.mktemp("constant") / "run"
    done = cli(*arguments(workdir, **{"optimizer.schedule": "constant"}))
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def straight(constant, tmp_path_factory):
    """Losses of the same training, continued to six steps on one device."""
    workdir = shutil.copytree(constant, tmp_path_factory.mktemp("straight") / "run")
    done = cli(*arguments(workdir, **MORE))
    assert done.returncode == 0, done.stderr
    assert "the learning rate stays 0.00187" in done.stdout
    return losses(workdir)


def test_on_another_mesh_with_parameters_split(constant, straight, tmp_path):
    """Parameters and rows are split over two devices. The rows draw the same cards as on one, so
    the losses are those of the training without interruption.
    """
    workdir = shutil.copytree(constant, tmp_path / "run")
    done = cli(*arguments(workdir, **MORE, **{"mesh.data": 1, "mesh.fsdp": 2}), devices=2)
    assert done.returncode == 0, done.stderr
    assert "mesh data 1 x fsdp 2 x tensor 1" in done.stdout
    assert "config.mesh.fsdp was 1 and is 2 from here on" in done.stdout
    found = losses(workdir)
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    for step in range(1, 7):
        assert found[step] == pytest.approx(straight[step], rel=1e-5), step


def test_a_tensor_axis_goes_on_with_the_same_losses(constant, straight, tmp_path):
    """Heads are split over two devices. The rows get the same roles, so the losses are the same."""
    workdir = shutil.copytree(constant, tmp_path / "run")
    keys = {**MORE, "mesh.data": 1, "mesh.tensor": 2}
    done = cli(*arguments(workdir, **keys), devices=2)
    assert done.returncode == 0, done.stderr
    found = losses(workdir)
    for step in range(1, 7):
        assert found[step] == pytest.approx(straight[step], rel=1e-5), step


def test_on_more_devices_and_in_two_processes(constant, straight, tmp_path):
    """A training of one process with one device is continued by two processes with two devices
    each, and by one process with four devices. Both give the losses of one device.
    """
    one, two = (shutil.copytree(constant, tmp_path / name) for name in ("one", "two"))
    done = cli(*arguments(one, **MORE), devices=4)
    assert done.returncode == 0, done.stderr
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=2")
    job = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    job["XLA_FLAGS"] = flags
    variables = [{**job, "JAX_PROCESS_ID": str(index)} for index in range(2)]
    done = programs(["main.py", *arguments(two, **MORE)], variables)
    assert [process.returncode for process in done] == [0, 0], done
    assert "4 of 4 cpu device(s)" in done[0].stdout and "device(s)" not in done[1].stdout
    alone, together = losses(one), losses(two)
    assert sorted(alone) == sorted(together) == [1, 2, 3, 4, 5, 6]
    for step, value in alone.items():
        assert together[step] == pytest.approx(value, rel=1e-5), step
        assert straight[step] == pytest.approx(value, rel=1e-5), step


def test_in_more_parts_than_there_are_groups(constant, straight, tmp_path):
    """In sixteen micro-batches of one row, each row draws its role alone. So the losses of the next
    steps are others, with the same expectation (`test_objective.py`), from the same parameters.
    """
    workdir = shutil.copytree(constant, tmp_path / "run")
    config = json.loads((workdir / "config.json").read_text())
    config["train"]["accumulate"] = 16  # by hand, because a workdir keeps its micro-batches
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "SHA256SUMS").unlink(missing_ok=True)
    done = cli(*arguments(workdir, **MORE, **{"train.accumulate": 16}))
    assert done.returncode == 0, done.stderr
    found = losses(workdir)
    assert found[5] != straight[5] and found[5] == pytest.approx(straight[5], rel=0.3)


def test_everything_else_is_refused_by_name(workdir):
    files = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    keys = {"train.duration.steps": 9, "model.depth": 2, "train.batch_size": 32}
    done = cli(*arguments(workdir, **keys))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "model.depth (1 there, 2 now), train.batch_size (16 there, 32 now)" in done.stderr
    assert "duration" not in done.stderr
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == files


def test_data_that_has_moved(workdir, tmp_path):
    moved = shutil.copyfile(NAMES, tmp_path / "moved.jsonl")
    keys = {"data.path": str(moved), "train.duration.steps": 5}
    done = cli(*arguments(workdir, **keys))
    assert done.returncode == 0, done.stderr
    assert f"is {str(moved)!r} from here on" in done.stdout
    moved.write_text("\n".join(moved.read_text().splitlines()[::2]) + "\n")
    done = cli(*arguments(workdir, **{**keys, "train.duration.steps": 6}))
    assert done.returncode == 2 and "the data has changed since" in done.stderr


def test_sampling_needs_no_data_and_evaluation_the_held_out_part(finished, tmp_path):
    """The data of a workdir of unconditional text is missing."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["path"] = str(tmp_path / "gone.jsonl")
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "SHA256SUMS").unlink()  # the advice of the message if one changes the file by hand
    few = [f"--workdir={workdir}", "--num_samples=2", "--steps=2"]
    done = cli("--mode=sample", *few)
    assert done.returncode == 0 and len(done.stdout.splitlines()) >= 2, done.stderr
    done = cli("--mode=evaluate", *few)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "held-out text" in done.stderr and "gone.jsonl" in done.stderr


def test_evaluation_without_the_training_part(tmp_path):
    names = NAMES.read_text().splitlines()
    train, held_out = tmp_path / "train.jsonl", tmp_path / "held_out.jsonl"
    train.write_text("\n".join(names[:400]) + "\n")
    held_out.write_text("\n".join(names[400:]) + "\n")
    keys = {"data.path": str(train), "data.validation_path": str(held_out), "data.packing": "rows"}
    workdir = tmp_path / "run"
    assert cli(*arguments(workdir, **keys, **{"train.duration.steps": 1})).returncode == 0
    evaluate = ["--mode=evaluate", f"--workdir={workdir}", "--num_samples=2", "--steps=2"]
    whole = cli(*evaluate)
    train.unlink()
    part = cli(*evaluate)
    assert whole.returncode == part.returncode == 0, part.stderr
    assert "  valid " in whole.stdout and "  valid " not in part.stdout
    assert "validation_loss" in part.stdout and "no valid, no held_out" in part.stdout
    held_out.write_text("\n".join(names[500:]) + "\n")
    changed = cli(*evaluate)
    assert changed.returncode == 2 and "changed" in changed.stderr
