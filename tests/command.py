"""Runs the command line as a user types it, in a separate process."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
QUICKSTART = f"--config={ROOT}/configs/quickstart.py"


def cli(*argv, cwd=None, devices=1, optimised=False):
    """Runs one command; BASE in an argument is replaced by the path of configs/base.py.

    Args:
      cwd: directory to run in. devices: virtual devices of the process.
      optimised: the compiler optimises as for a user, for results that are compared bit for bit.

    Returns:
      The finished process, with its output as text.
    """
    argv = [argument.replace("BASE", f"{ROOT}/configs/base.py") for argument in argv]
    flags = f"--xla_force_host_platform_device_count={devices}"
    if not optimised:
        flags = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", flags)
    return program(["main.py", *argv], flags, cwd)


# Programs of the tests need the same imports, which take seconds, and Python takes a second to end
# with all these modules. So one process imports everything, forks for every program, and the
# program ends without that. The parent never starts JAX's devices or threads.
_IMPORTS = """
import gc, json, os, sys, threading, traceback
import atexit
import main
import elf_jax.checkpoints.export, elf_jax.evaluation.sweep, elf_jax.generation.answers
import elf_jax.generation.fill, elf_jax.generation.rewrite, elf_jax.hardware.compile_report
import elf_jax.pages.served_server, elf_jax.training.distill, elf_jax.training.encoder
import elf_jax.training.scorer
"""

_PROGRAMS = (
    _IMPORTS
    + """
import runpy
gc.collect()
gc.freeze()
gc.set_threshold(100_000, 20, 100)  # as in tests/conftest.py
answers = os.dup(1)
os.set_inheritable(answers, False)
def begin(argv, variables, cwd, *files):
    child = os.fork()
    if child == 0:
        os.close(answers)
        for number, name in enumerate(("/dev/null", *files)):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
        sys.stdin = open(0)
        os.environ.update(variables)
        os.chdir(cwd)
        sys.argv, code = argv, 0
        try:
            if sys.argv[0] == "main.py":
                main.app.run(main.run, flags_parser=main.parse)
            else:
                runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
        threading._shutdown()  # these two are the first ones that Python does at its end
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return child
for line in sys.stdin:
    children = [begin(*one) for one in json.loads(line)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    os.write(answers, json.dumps(codes).encode() + b"\\n")
"""
)


@functools.cache
def _programs(variables):
    """The process that forks for every program. variables: those of its environment."""
    environ = {**dict(variables), "PYTHONPATH": str(ROOT)}
    command, pipe = [sys.executable, "-c", _PROGRAMS], subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environ, cwd=ROOT)


def program(argv, flags, cwd=None, env=None):
    """Runs a program in a process of its own, which has what it needs imported already.

    Args:
      argv: "main.py" or the name of a module, and its arguments. flags: XLA_FLAGS of the process.
      cwd: directory to run in; None is the one of the project.
      env: further environment variables. What was read when modules were imported stays.

    Returns:
      The finished process, with its output as text.
    """
    return programs(argv, [{"XLA_FLAGS": flags, **(env or {})}], cwd)[0]


def programs(argv, variables, cwd=None):
    """As `program`, for several processes at the same time.

    Args:
      variables: for each process, those of its environment that are other ones than here.

    Returns:
      A list of finished processes.
    """
    changing = ("XLA_FLAGS", "PYTEST_CURRENT_TEST")
    kept = ((name, one) for name, one in os.environ.items() if name not in changing)
    process = _programs(tuple(kept))
    with tempfile.TemporaryDirectory() as place:
        files = [
            (f"{place}/{index}.out", f"{place}/{index}.err") for index in range(len(variables))
        ]
        asked = [
            (argv, own, str(cwd or ROOT), *two) for own, two in zip(variables, files, strict=True)
        ]
        print(json.dumps(asked), file=process.stdin, flush=True)
        codes = json.loads(process.stdout.readline())
        texts = [[Path(one).read_text(encoding="utf-8") for one in two] for two in files]
    return [
        subprocess.CompletedProcess(argv, code, *two)
        for code, two in zip(codes, texts, strict=True)
    ]


class Finished(NamedTuple):
    """A command that has ended: its exit code, what it printed, and the directory it ran in."""

    code: int
    out: str
    err: str
    cwd: Path


_FORKING = (
    _IMPORTS
    + """
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
)


def _in_a_directory(argv, directory, env):
    directory.mkdir()
    done = program(["main.py", *argv], os.environ["XLA_FLAGS"], directory, env)
    return Finished(done.returncode, done.stdout, done.stderr, directory)


def forked(commands, directory, prefix=(), env=None):
    """Runs many commands, each in an empty directory of its own, for the time of one.

    Args:
      commands: list of their arguments, each a list. directory: where they leave their files.
      prefix: a command that runs the process, such as ("setpriv", ...).
      env: further environment variables.

    Returns:
      A `Finished` for each command.
    """
    if not prefix:
        return [
            _in_a_directory(argv, directory / f"{i}.cwd", env) for i, argv in enumerate(commands)
        ]
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
