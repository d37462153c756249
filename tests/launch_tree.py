"""Shared by the tests of the launch scripts: a small checkout, and stand-ins for commands."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
STAND_INS = ROOT / "tests/stand_ins"
PATIENCE = 120  # seconds, enough for a busy machine


class Tree:
    """A small checkout with the launch scripts, and the directory of the stand-ins' state."""

    def __init__(self, path):
        self.path, self.root, self.fake = path, path / "tree", path / "fake"
        shutil.copytree(ROOT / "launch", self.root / "launch")
        for name in ("configs/base.py", "main.py", "setup.py", "requirements.txt"):
            (self.root / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        self.processes = []
        self.fake.mkdir()
        self.play()

    def play(self, states="NONE ACTIVE", training="0", queue="", failure=""):
        """Sets how the stand-ins behave.

        Args:
          states: states of the slice, one after another.
          training: exit code of each training; `run`: it runs until it is stopped.
          queue: output of squeue. failure: "WORDS:MESSAGE"; one call with these words fails.
        """
        for name, text in (("states", states), ("training", training)):
            (self.fake / name).write_text("".join(f"{word}\n" for word in text.split()))
        (self.fake / "queue").write_text(queue)
        if failure:
            (self.fake / "failure").write_text(f"{failure}\n")

    def start(self, script, *argv, shell=False, output=subprocess.PIPE, **environment):
        """Starts a process of a launch script, or of a shell command."""
        environment = {
            "PATH": f"{STAND_INS}:{os.environ['PATH']}",
            "HOME": str(self.path),
            "FAKE": str(self.fake),
            "ELF_POLL_SECONDS": "0.02",
            "ELF_WORKER_POLL_SECONDS": "0.02",
        } | environment
        process = subprocess.Popen(
            script if shell else ["bash", self.root / "launch" / script, *argv],
            shell=shell,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=self.path,
            start_new_session=True,  # so that `close` can end it with its children
        )
        self.processes.append(process)
        return process

    def launch(self, script, *argv, **environment):
        return self.finish(self.start(script, *argv, **environment))

    @staticmethod
    def finish(process):
        out, err = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def calls(self, *names):
        """The calls of these commands so far, each a list of words. Without names: all calls."""
        if not (self.fake / "calls").exists():
            return []
        calls = (self.fake / "calls").read_text().split("\x1e")[:-1]
        calls = [call.split("\x1f")[1:] for call in calls]
        return [call for call in calls if not names or call[0] in names]

    def steps(self):
        """The calls of gcloud, one word each: its verb, or the word that the workers got."""
        steps = []
        for call in self.calls("gcloud"):
            command = next((word for word in call if word.startswith("--command=")), "")
            steps.append((re.findall(r"tpu_worker\.sh (\w+)", command) or [call[4]])[-1])
        return steps

    def wait_for_training(self, count):
        deadline = time.monotonic() + PATIENCE
        while len(list(self.fake.glob("runs.*"))) < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def close(self):
        """Ends all processes that still run."""
        (self.fake / "over").touch()  # ends the stand-in of training
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def submit(tree, *argv):
    """Submits a job. Returns (the command that sbatch would run, its output file, the call)."""
    run = tree.launch("slurm.sh", *argv)
    assert run.returncode == 0, run.stderr
    (call,) = tree.calls("sbatch")
    flags = dict(word.split("=", 1) for word in call[1:] if "=" in word)
    return flags["--wrap"], Path(flags["--output"]), call


def start_job(tree, wrap, log):
    """Runs a submitted job as SLURM does: with /bin/sh, output is appended to the log."""
    command = f"cd {tree.root} && {wrap}"
    return tree.start(command, shell=True, output=log.open("a"), SLURM_JOB_ID="42")


def readme_examples():
    """Command and output of every console block in launch/README.md."""
    text = (ROOT / "launch/README.md").read_text()
    for block in re.findall(r"```console\n\$ (.*?)```", text, re.DOTALL):
        lines = block.replace("\\\n", "").splitlines()
        yield shlex.split(lines[0]), "\n".join(lines[1:]) + "\n"
