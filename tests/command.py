"""Runs the command line as a user types it, in a separate process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
QUICKSTART = f"--config={ROOT}/configs/quickstart.py"


def cli(*argv, cwd=None, devices=1, optimised=False, env=None):
    """Runs one command; BASE in an argument is replaced by the path of configs/base.py.

    Args:
      cwd: directory to run in. devices: virtual devices of the process.
      optimised: the compiler optimises as for a user, for results that are compared bit for bit.
      env: further environment variables.

    Returns:
      The finished process, with its output as text.
    """
    argv = [argument.replace("BASE", f"{ROOT}/configs/base.py") for argument in argv]
    flags = f"--xla_force_host_platform_device_count={devices}"
    if not optimised:
        flags = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", flags)
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *argv],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "XLA_FLAGS": flags, **(env or {})},
    )


class Finished(NamedTuple):
    """A command that has ended: its exit code, what it printed, and the directory it ran in."""

    code: int
    out: str
    err: str
    cwd: Path


# Imports take seconds, and parsing takes almost no time. So one process imports everything and
# forks for every command line. Python takes a second to end with all these modules, so a command
# ends without that.
_FORKING = """
import json, os, sys, traceback
import main
import elf_jax.checkpoints.export, elf_jax.evaluation.sweep, elf_jax.generation.answers
import elf_jax.generation.fill, elf_jax.generation.rewrite, elf_jax.hardware.compile_report
import elf_jax.pages.served_server, elf_jax.training.distill, elf_jax.training.encoder
import elf_jax.training.scorer
for index, argv in enumerate(json.loads(sys.argv[1])):
    if os.fork() == 0:
        os.mkdir(f"{index}.cwd")
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{index}.{name}", os.O_WRONLY | os.O_CREAT), number)
        os.chdir(f"{index}.cwd")
        sys.argv, code = ["main.py", *argv], 1
        try:
            main.app.run(main.run, flags_parser=main.parse)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


def forked(commands, directory, prefix=(), env=None):
    """Runs many commands, each in an empty directory of its own, for the time of one.

    Args:
      commands: list of their arguments, each a list. directory: where they leave their files.
      prefix: a command that runs the process, such as ("setpriv", ...).
      env: further environment variables.

    Returns:
      A `Finished` for each command.
    """
    argv = [*prefix, sys.executable, "-c", _FORKING, json.dumps(commands)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    run = subprocess.run(argv, cwd=directory, env=env, capture_output=True, text=True)
    codes = [int(code) for code in run.stdout.split()]
    assert len(codes) == len(commands), run.stderr
    return [
        Finished(
            code,
            (directory / f"{index}.out").read_text(encoding="utf-8"),
            (directory / f"{index}.err").read_text(encoding="utf-8"),
            directory / f"{index}.cwd",
        )
        for index, code in enumerate(codes)
    ]
