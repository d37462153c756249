"""The launch scripts, with stand-ins for gcloud, SLURM and Python that write their calls down."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tests.launch_tree import PATIENCE, ROOT, STAND_INS, Tree, readme_examples, start_job, submit

SLICE = ["--name=pod", "--type=v5litepod-16"]
TRAINING = ["--config=configs/base.py", "--workdir=gs://bucket/run"]
# Words that a shell would change. They must pass unchanged through gcloud, ssh and another shell.
HARD = ["--config.data.path=a b*.txt", '--config.data.field=it\'s "$HOME" \\ & `x`']
BRING_UP = ["status", "scp", "install", "start"]


@pytest.fixture
def tree(tmp_path):
    tree = Tree(tmp_path)
    yield tree
    tree.close()


def test_scripts_pass_shellcheck():
    folders = ROOT / "launch", ROOT / "benchmarks"
    scripts = [script for folder in folders for script in folder.glob("*.sh")]
    scripts += [*(ROOT / ".ci").iterdir(), *STAND_INS.iterdir()]
    beside = Path(sys.executable).with_name("shellcheck")  # installed by the extra `test`
    shellcheck = beside if beside.exists() else "shellcheck"
    run = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_train_does_everything_in_order(tree):
    tree.play("NONE WAITING_FOR_RESOURCES PROVISIONING ACTIVE")
    run = tree.launch("tpu_pod.sh", "train", *SLICE, *TRAINING)
    assert run.returncode == 0, run.stderr
    up = ["describe", "create", "describe", "describe", "describe"]
    assert tree.steps() == [*up, *BRING_UP, "log", "describe", "status"]
    create = tree.calls("gcloud")[1]
    assert create[1:6] == ["compute", "tpus", "queued-resources", "create", "pod"]
    assert {"--node-id=pod", "--accelerator-type=v5litepod-16", "--quiet"} <= set(create)
    assert "--runtime-version=v2-alpha-tpuv5-lite" in create and "--spot" not in create
    assert "slice pod: PROVISIONING" in run.stdout
    assert "training ends" in run.stdout and "training is complete" in run.stdout
    pips = [call[-1] for call in tree.calls("python") if call[1:4] == ["-m", "pip", "install"]]
    assert pips == [".[tpu,gcs]"] * 2


def test_flags_of_the_slice(tree):
    flags = ["--spot", "--zone=z", "--project=p", "--create_flag=--network=n", "--delete_after"]
    run = tree.launch("tpu_pod.sh", "train", *SLICE, "--runtime=r", *flags, *TRAINING)
    assert run.returncode == 0, run.stderr
    calls = tree.calls("gcloud")
    assert all({"--zone=z", "--project=p"} <= set(call) for call in calls)
    assert {"--spot", "--network=n", "--runtime-version=r"} <= set(calls[1])
    assert tree.steps()[-1] == "delete"


def test_running_training_is_followed_and_stopped(tree):
    tree.play("ACTIVE", "run")
    first = tree.start("tpu_pod.sh", "train", *SLICE, *TRAINING)
    tree.wait_for_training(2)
    assert "create" not in tree.steps()
    other = tree.launch("tpu_pod.sh", "train", *SLICE, *TRAINING, "--", "--config.seed=1")
    assert other.returncode == 2 and "other arguments" in other.stderr
    (tree.fake / "calls").unlink()
    second = tree.start("tpu_pod.sh", "train", *SLICE, *TRAINING)
    while "log" not in tree.steps():
        time.sleep(0.02)
    assert tree.steps() == ["describe", "status", "start", "log"]
    status = tree.launch("tpu_pod.sh", "status", "--name=pod")
    assert status.stdout.splitlines() == [
        "slice pod: ACTIVE",
        "worker-0 running",
        "worker-1 running",
    ]
    stop = tree.launch("tpu_pod.sh", "stop", "--name=pod")
    assert stop.returncode == 0 and stop.stdout.count("stopped") == 2, stop.stderr
    for process in (first, second):
        run = tree.finish(process)
        assert run.returncode == 0 and "training was stopped" in run.stdout
        assert "stopped at step 7" in run.stdout
    assert len(list(tree.fake.glob("runs.*"))) == 2


def test_preempted_training_starts_again_on_a_new_slice(tree):
    # The machines shut down during training. Training saves a checkpoint and ends with exit code 0,
    # as a complete training does.
    tree.play("NONE ACTIVE SUSPENDING SUSPENDED NONE ACTIVE")
    run = tree.launch("tpu_pod.sh", "train", *SLICE, "--spot", *TRAINING)
    assert run.returncode == 0, run.stderr
    first = ["describe", "create", "describe", *BRING_UP, "log", "describe"]
    again = ["describe", "delete", "describe", "create", "describe"]
    assert tree.steps() == [*first, *again, *BRING_UP, "log", "describe", "status"]
    delete = next(call for call in tree.calls("gcloud") if call[4] == "delete")
    assert {"pod", "--force", "--quiet"} <= set(delete)
    trainings = [call[1:] for call in tree.calls("python") if call[2] == "main.py"]
    assert trainings == [["-u", "main.py", *TRAINING]] * 4


def test_training_that_the_system_interrupts_starts_again(tree):
    tree.play("ACTIVE", "run run 0")
    process = tree.start("tpu_pod.sh", "train", *SLICE, *TRAINING)
    tree.wait_for_training(2)
    for worker in "01":  # a shutdown sends SIGTERM to all processes, also the wrapper
        group = int((tree.fake / worker / "elf-jax-run/wrapper").read_text())
        os.killpg(group, signal.SIGTERM)
    run = tree.finish(process)
    assert run.returncode == 0, run.stderr
    assert "starts again" in run.stdout and "complete" in run.stdout
    assert tree.steps().count("start") == 2 and tree.steps().count("create") == 0


def test_machine_that_was_replaced_is_installed_and_all_start_again(tree):
    tree.play("ACTIVE")
    tree.launch("tpu_pod.sh", "train", *SLICE, *TRAINING)
    shutil.rmtree(tree.fake / "1")
    (tree.fake / "0/elf-jax-run/result").write_text("interrupted\n")
    (tree.fake / "calls").unlink()
    run = tree.launch("tpu_pod.sh", "train", *SLICE, *TRAINING)
    assert run.returncode == 0, run.stderr
    assert tree.steps()[:6] == ["describe", "status", "stop", "scp", "install", "start"]
    assert "worker-0: installed already" in run.stdout and "worker-1: installed\n" in run.stdout
    assert run.stdout.count(": started") == 2


def test_failed_training_ends_with_an_error(tree):
    # Worker 1 fails. Worker 0, whose log is followed, waits for worker 1.
    tree.play("ACTIVE", "run")
    (tree.fake / "training.worker-1").write_text("3\n")
    run = tree.launch("tpu_pod.sh", "train", *SLICE, *TRAINING, ELF_FOLLOW_SECONDS="0.2")
    assert run.returncode == 1
    assert re.search(r"worker-1 failed \(exit code 3\)", run.stderr)
    assert run.stderr.strip().endswith("error: training failed: see logs --worker=N")
    assert tree.steps()[-1] == "stop"


def test_create_that_comes_too_late_waits_for_the_slice(tree):
    tree.play("NONE CREATING ACTIVE", failure="create:ALREADY_EXISTS: pod already exists")
    run = tree.launch("tpu_pod.sh", "up", *SLICE)
    assert run.returncode == 0 and tree.steps() == ["describe", "create", *["describe"] * 2]


@pytest.mark.parametrize(
    "states, failure, message",
    [
        ("NONE", "create:Quota exceeded", "Quota exceeded"),
        ("NONE", "create:ALREADY_EXISTS: a node", "no queued resource"),
        ("NONE FAILED", "", "request for pod failed"),
        ("ACTIVE", "worker.sh install:pip failed on worker 1", "failed on a worker"),
    ],
)
def test_what_goes_wrong_is_told(tree, states, failure, message):
    tree.play(states, failure=failure)
    run = tree.launch("tpu_pod.sh", "train", *SLICE, *TRAINING)
    assert run.returncode == 2 and message in run.stderr.splitlines()[-1]
    assert "start" not in tree.steps()


def test_dead_request_is_replaced_and_delete_deletes(tree):
    tree.play("FAILED NONE ACTIVE NONE")
    tree.launch("tpu_pod.sh", "up", *SLICE)
    assert tree.steps() == ["describe", "delete", "describe", "create", "describe"]
    assert "there is none" in tree.launch("tpu_pod.sh", "delete", "--name=pod").stdout
    tree.play("SUSPENDED")
    assert tree.launch("tpu_pod.sh", "delete", "--name=pod").returncode == 0
    assert tree.steps()[-2:] == ["describe", "delete"]


def test_arguments_arrive_unchanged(tree):
    argv = [*SLICE, *TRAINING, "--", *HARD]
    run = tree.launch("tpu_pod.sh", "train", *argv, LIBTPU_INIT_ARGS="--xla_a=1 --xla_b='2'")
    assert run.returncode == 0, run.stderr
    trainings = [call[3:] for call in tree.calls("python") if call[2] == "main.py"]
    assert trainings == [[*TRAINING, *HARD]] * 2
    assert re.search(r"LIBTPU_INIT_ARGS=--xla_tpu\S+ .* --xla_a=1 --xla_b='2'\n", run.stdout)


def test_shipment_is_the_working_tree(tree):
    git = ["git", "-C", tree.root, "-c", "user.name=n", "-c", "user.email=e"]
    (tree.root / ".gitignore").write_text("runs/\n")
    (tree.root / "gone.py").write_text("")
    (tree.root / "old.py").write_text("")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    (tree.root / "gone.py").unlink()
    (tree.root / "new file.py").write_text("")
    (tree.root / "runs").mkdir()
    (tree.root / "runs/result").write_text("")
    tree.play("ACTIVE")
    assert tree.launch("tpu_pod.sh", "install", "--name=pod").returncode == 0
    names = set(tarfile.open(tree.fake / "0/elf-jax.tar.gz").getnames())
    assert {"main.py", "new file.py", "old.py", ".gitignore", "launch/tpu_worker.sh"} <= names
    assert not any(name.startswith(("gone", "runs", ".git/")) for name in names)

    code = tree.fake / "1/elf-jax"
    (code / "runs").mkdir()
    (code / "runs/checkpoint").write_text("")
    (tree.root / "old.py").unlink()
    run = tree.launch("tpu_pod.sh", "install", "--name=pod")
    assert run.stdout.count("installed already") == 2
    assert not (code / "old.py").exists() and (code / "new file.py").exists()
    assert (code / "runs/checkpoint").exists()


def test_compiler_flags_are_known_to_jax():
    flags = re.findall(
        r"^    (--xla_gpu\S+)$", (ROOT / "launch/slurm.sh").read_text(), re.MULTILINE
    )
    assert flags
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr


def test_slurm_submits_one_process_per_gpu(tree):
    flags = ["--nodes=2", "--gpus_per_node=4", "--partition=p", "--sbatch_flag=--qos=long"]
    wrap, log, call = submit(tree, *flags, *TRAINING, "--", *HARD)
    assert {"--nodes=2", "--ntasks-per-node=4", "--gres=gpu:4", "--partition=p"} <= set(call)
    assert {"--qos=long", "--requeue", "--signal=B:USR1@120", "--open-mode=append"} <= set(call)
    assert start_job(tree, wrap, log).wait(PATIENCE) == 0
    (srun,) = tree.calls("srun")
    assert "--kill-on-bad-exit=1" in srun and "--cpus-per-task=4" in srun
    trainings = [call[3:] for call in tree.calls("python") if call[2] == "main.py"]
    assert trainings == [[*TRAINING, *HARD]]
    assert "--xla_gpu_enable_latency_hiding_scheduler=true" in log.read_text()
    assert not tree.calls("scontrol")


def test_slurm_job_that_is_queued_is_left_alone(tree):
    tree.play(queue="42 PENDING\n")
    run = tree.launch("slurm.sh", *TRAINING)
    assert run.returncode == 0 and "42 PENDING" in run.stdout and not tree.calls("sbatch")
    assert tree.launch("slurm.sh", "stop").returncode == 0
    assert tree.calls("scancel") == [["scancel", "42"]]


@pytest.mark.parametrize("reason", ["time limit", "preemption", "stop"])
def test_slurm_job_saves_and_queues_again_unless_stopped(tree, reason):
    tree.play(training="run", queue="")
    wrap, log, _ = submit(tree, *TRAINING)
    process = start_job(tree, wrap, log)
    tree.wait_for_training(1)
    if reason == "time limit":
        process.send_signal(signal.SIGUSR1)
    elif reason == "preemption":
        os.kill(int((tree.fake / "step").read_text()), signal.SIGTERM)
    else:
        (tree.fake / "queue").write_text("42 RUNNING\n")
        assert tree.launch("slurm.sh", "stop").returncode == 0
    assert process.wait(PATIENCE) == 0
    assert "stopped at step 7" in log.read_text()
    requeued = [] if reason == "stop" else [["scontrol", "requeue", "42"]]
    assert tree.calls("scontrol") == requeued


def test_slurm_job_that_fails_fails(tree):
    tree.play(training="3")
    wrap, log, _ = submit(tree, *TRAINING)
    log.parent.mkdir(exist_ok=True, parents=True)
    log.write_text("stopped at step 7, in an earlier run of this job\n")
    assert start_job(tree, wrap, log).wait(PATIENCE) == 3 and not tree.calls("scontrol")


@pytest.mark.parametrize(
    "script, argv, message",
    [
        ("tpu_pod.sh", [], "no command"),
        ("tpu_pod.sh", ["train", "--nmae=x"], "unknown argument '--nmae=x'"),
        ("tpu_pod.sh", ["train", "stop", *SLICE], "two commands"),
        ("tpu_pod.sh", ["train"], "--name is missing"),
        ("tpu_pod.sh", ["up", "--name="], "--name needs a value"),
        ("tpu_pod.sh", ["up", "--name=My_pod"], "lower-case"),
        ("tpu_pod.sh", ["up", "--name=pod"], "--type is missing"),
        ("tpu_pod.sh", ["up", "--name=pod", "--type=v9-8"], "--runtime=VERSION"),
        ("tpu_pod.sh", ["logs", "--name=pod", "--worker=all"], "number of a worker"),
        ("tpu_pod.sh", ["train", *SLICE], "--config is missing"),
        ("tpu_pod.sh", ["train", *SLICE, "--config=configs/x.py"], "no such file"),
        ("tpu_pod.sh", ["train", *SLICE, TRAINING[0]], "--workdir is missing"),
        ("slurm.sh", ["--node=2"], "unknown argument '--node=2'"),
        ("slurm.sh", ["--nodes=two", *TRAINING], "whole number"),
        ("slurm.sh", TRAINING[:1], "--workdir is missing"),
        ("slurm.sh", ["--config=configs/x.py", "--workdir=w"], "no such file"),
    ],
)
def test_bad_flags_are_one_line(tree, script, argv, message):
    run = tree.launch(script, *argv)
    assert run.returncode == 2 and run.stdout == "" and not tree.calls()
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
    assert message in run.stderr


@pytest.mark.parametrize("script", ["tpu_pod.sh", "slurm.sh"])
def test_help_fits_a_screen(tree, script):
    run = tree.launch(script, "--help")
    lines = run.stdout.splitlines()
    assert run.returncode == 0 and len(lines) <= 40 and max(map(len, lines)) <= 100


def test_local_workdir_is_warned_of(tree):
    run = tree.launch("tpu_pod.sh", "train", *SLICE, TRAINING[0], "--workdir=runs/x", "--dry_run")
    assert run.returncode == 0 and run.stderr.count("\n") == 1 and "warning:" in run.stderr


def test_dry_run_prints_what_the_readme_shows_and_calls_nothing(tree):
    examples = list(readme_examples())
    assert {Path(command[0]).name for command, _ in examples} == {"tpu_pod.sh", "slurm.sh"}
    for (script, *argv), shown in examples:
        assert "--dry_run" in argv
        run = tree.launch(Path(script).name, *argv)
        assert run.returncode == 0, run.stderr
        assert run.stdout.replace(str(tree.root), "/home/me/elf-jax") == shown
    assert not tree.calls()
