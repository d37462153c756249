"""Jobs of several processes: how they are recognised, and two processes give the result of one."""

import fnmatch
import importlib.metadata
import json
import os
import pathlib
import socket
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from elf_jax.core import processes, sharding
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import METRICS, TRAINING_SAMPLES
from tests.command import programs
from tests.core import processes_run

ROOT = pathlib.Path(__file__).parents[2]


def run_two(workdir):
    """Runs both processes of a job, with four virtual devices each, at a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")
    job = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    job["XLA_FLAGS"] = flags
    variables = [{**job, "JAX_PROCESS_ID": str(index)} for index in range(2)]
    return programs(["tests.core.processes_run", str(workdir)], variables)


def test_two_processes_equal_one(tmp_path):
    """They train, save, stop, resume and sample. Losses agree within 1e-5; samples are equal."""
    for process in run_two(tmp_path / "two"):
        assert process.returncode == 0, process.stderr[-3000:]
    (tmp_path / "one").mkdir()
    processes_run.run(processes_run.config(), tmp_path / "one", tmp_path / "one" / "samples.json")
    logs = [
        [json.loads(line) for line in (tmp_path / name / METRICS).read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert [record["step"] for record in logs[1]] == [2, 3, 4, 6]
    for one, two in zip(*logs, strict=True):
        for key in one.keys() - {"seconds"}:
            assert two[key] == pytest.approx(one[key], rel=1e-5, abs=1e-6), key
    samples = [
        json.loads((tmp_path / name).read_text())
        for name in ("one/samples.json", "two/samples_0.json", "two/samples_1.json")
    ]
    assert len(samples[0]) == 11 and samples[0] == samples[1] == samples[2]
    on_the_way = [(tmp_path / name / TRAINING_SAMPLES).read_bytes() for name in ("one", "two")]
    assert len(on_the_way[0].splitlines()) == 3 and on_the_way[0] == on_the_way[1]


@pytest.fixture
def started(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args: calls.append(args))
    return calls


def start(environ, has_tpu=False, endpoints=""):
    return processes.initialize(environ, lambda: has_tpu, lambda: endpoints)


@pytest.mark.parametrize(
    "environ, has_tpu, endpoints",
    [
        ({"SLURM_STEP_NUM_TASKS": "16", "SLURM_PROCID": "3"}, False, ""),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, False, ""),
        ({"TPU_WORKER_HOSTNAMES": "host-0,host-1"}, False, ""),
        ({"MEGASCALE_NUM_SLICES": "2"}, False, ""),
        ({}, True, "unknown:unknown:10.0.0.1,unknown:unknown:10.0.0.2"),
    ],
)
def test_clusters_start_by_themselves(environ, has_tpu, endpoints, started):
    assert start(environ, has_tpu, endpoints) and started == [()]


@pytest.mark.parametrize(
    "environ, has_tpu, endpoints",
    [
        ({}, False, "a,b"),  # no TPU: the answer of the metadata server is not used
        ({}, True, "unknown:unknown:10.0.0.1"),  # one TPU host
        ({}, True, ""),  # a TPU without a metadata server, as in a notebook
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, True, "a,b"),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}, False, ""),  # an allocation without srun
        ({"SLURM_STEP_NUM_TASKS": "1"}, False, ""),
        ({"JAX_PLATFORMS": "cpu"}, True, "a,b"),
    ],
)
def test_one_process_is_left_alone(environ, has_tpu, endpoints, started):
    assert not start(environ, has_tpu, endpoints) and not started


def test_variables_of_our_own(started):
    job = dict(zip(processes.EXPLICIT, ("host:1234", "4", "3"), strict=True))
    assert start(job) and started == [("host:1234", 4, 3)]
    with pytest.raises(UserError, match="but not JAX_PROCESS_ID: set all three or none"):
        start({name: job[name] for name in processes.EXPLICIT[:2]})
    with pytest.raises(UserError, match="must be numbers"):
        start({**job, "JAX_PROCESS_ID": "first"})


def test_rows_that_all_processes_have_are_shared_out():
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 4, 1), ("data", "fsdp", "tensor"))
    rows = np.arange(24).reshape(8, 3)
    shared = sharding.share_rows({"rows": rows}, mesh)["rows"]
    np.testing.assert_array_equal(shared, rows)
    assert shared.addressable_shards[0].data.shape == (1, 3)


@pytest.fixture
def platforms(monkeypatch):
    """A stand-in for `jax.config`, with no platform chosen at first."""
    told = SimpleNamespace(jax_platforms=None)
    told.update = lambda name, value: setattr(told, name, value)
    monkeypatch.setattr(jax, "config", told)
    return told


def devices(monkeypatch, *there, plugin=None):
    """Makes the code see a machine with these device files and this plugin for JAX."""

    def find(pattern):
        return [name for name in there if fnmatch.fnmatch(name, pattern)]

    monkeypatch.setattr(processes.glob, "glob", find)
    points = [importlib.metadata.EntryPoint("one", plugin, "jax_plugins")] if plugin else []
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(processes.importlib.metadata, "entry_points", lambda group: points)


@pytest.mark.parametrize(
    "there", [(), ("/dev/vfio/vfio",), ("/dev/accel",), ("/dev/vfio/vfio", "/dev/accel")]
)
def test_without_a_tpu_the_tpu_library_is_left_alone(there, platforms, monkeypatch):
    devices(monkeypatch, *there)
    processes.skip_missing_tpu({})
    assert platforms.jax_platforms == "cpu"


@pytest.mark.parametrize("there", ["/dev/accel0", "/dev/vfio/0", "/dev/nvidia0", "/dev/dxg"])
def test_where_there_is_an_accelerator_jax_chooses(there, platforms, monkeypatch):
    devices(monkeypatch, there)
    processes.skip_missing_tpu({})
    assert platforms.jax_platforms is None


def test_a_choice_of_platforms_is_left_alone(platforms, monkeypatch):
    devices(monkeypatch)
    for chosen in ("tpu,cpu", "", "cuda"):
        platforms.jax_platforms = chosen
        processes.skip_missing_tpu({})
        assert platforms.jax_platforms == chosen
    platforms.jax_platforms = None
    processes.skip_missing_tpu({"PJRT_NAMES_AND_LIBRARY_PATHS": "mine:/lib/mine.so"})
    assert platforms.jax_platforms is None
    devices(monkeypatch, plugin="jax_plugins.mine")
    processes.skip_missing_tpu({})
    assert platforms.jax_platforms is None


def test_the_cuda_plugin_alone_is_no_gpu(platforms, monkeypatch):
    """It is also installed to compile for GPUs that are not there."""
    devices(monkeypatch, plugin="jax_plugins.xla_cuda13")
    processes.skip_missing_tpu({})
    assert platforms.jax_platforms == "cpu"


@pytest.mark.skipif(processes.has_accelerator(), reason="there is an accelerator here")
def test_commands_are_quiet_without_a_tpu(tmp_path):
    """If the TPU library is installed and no platform is chosen, only our own error is printed."""
    pytest.importorskip("libtpu")
    code = "from elf_jax import commands; import jax; jax.devices(); commands.evaluate('none')"
    environ = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True)
    lines = run.stderr.splitlines()
    assert lines[0].startswith("Traceback") and "no trained model in 'none'" in lines[-1]
    main = [sys.executable, "main.py", "--mode=evaluate", "--workdir=none"]
    run = subprocess.run(main, env=environ, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.count("\n") == 1, run.stderr
