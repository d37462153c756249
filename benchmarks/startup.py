"""How long a user waits for the first step of a training, for samples, and for --help.

  python -m benchmarks.startup                              the quickstart, from an empty workdir
  python -m benchmarks.startup --sample=runs/quickstart     also samples from a workdir
  python -m benchmarks.startup --root=DIRECTORY             another version, for a comparison

Each command runs twice: with an empty cache of compiled programs, and with the one that the first
run has filled. Every run is a process of its own, and its time counts from the start of Python.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent

# Runs main.py and tells when its parts begin and end. The parts may overlap.
_TIMED = """
import functools, json, sys, time
began, stop_at_step = float(sys.argv[1]), sys.argv[2] == "train"
sys.argv = ["main.py", *sys.argv[3:]]
parts = []
def note(name, start, end):
    parts.append((name, start - began, end - began))
def timed(module, name, shown):
    function = getattr(module, name, None)
    if function is None:
        return
    @functools.wraps(function)
    def run(*args, **kwargs):
        start = time.time()
        try:
            return function(*args, **kwargs)
        finally:
            note(shown, start, time.time())
    setattr(module, name, run)
def end():
    print("\\n" + json.dumps([parts, time.time() - began]), flush=True)
start = time.time()
note("Python", began, start)
import main
note("the command line", start, time.time())
start = time.time()
import jax
note("import jax", start, time.time())
start = time.time()
if stop_at_step:
    from elf_jax.training import loop, trainer
else:
    import elf_jax.generation.answers, elf_jax.generation.generate
    from elf_jax.checkpoints import trained, weights
note("other imports", start, time.time())
def finished(name, seconds, fun_name="", **more):
    if seconds > 0.2 and name.endswith("_duration"):
        what = name.split("/")[-1].removesuffix("_duration").replace("_", " ")
        note(f"{what} of {fun_name}", time.time() - seconds, time.time())
jax.monitoring.register_event_duration_secs_listener(finished)
class Done(BaseException):
    pass
if stop_at_step:
    for name in ("load_dataset", "build_method", "new_state", "begin"):
        timed(trainer, name, name)
    step = trainer._step
    def first(*args):
        start = time.time()
        jax.block_until_ready(step(*args))
        note("first step", start, time.time())
        raise Done
    trainer._step = first
else:
    timed(trained, "load_tokenizer", "load_tokenizer")
    timed(trained, "build_method", "build_method")
    timed(trained, "load_weights", "load_weights")
try:
    main.app.run(main.run, flags_parser=main.parse)
except Done:
    end()
    import os
    os._exit(0)
except SystemExit:
    end()
"""


def timed(root, mode, argv, cache):
    """(seconds until the end, [(part, its start, its end)]) of a command in another process.

    Args:
      root: directory of main.py. mode: "train" ends after the first step; else "sample".
      argv: of main.py. cache: directory of compiled programs.
    """
    environ = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", _TIMED, str(time.time()), mode, *argv]
    run = subprocess.run(command, env=environ, cwd=root, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stderr)
    parts, seconds = json.loads(run.stdout.strip().splitlines()[-1])
    return seconds, parts


def show(title, seconds, parts, least):
    """Prints the parts of a command that take at least so many seconds."""
    print(f"{title}: {seconds:.1f} s")
    for name, start, end in sorted(parts, key=lambda part: part[1]):
        if end - start >= least:
            print(f"  {start:6.2f} to {end:6.2f}  {end - start:6.2f} s  {name}")


def mistakes(root):
    """Prints how long --help takes, and a wrong flag."""
    for argv in (["--help"], ["--config=configs/quickstart.py", "--stepz=3"]):
        began = time.time()
        subprocess.run([sys.executable, "main.py", *argv], cwd=root, capture_output=True)
        print(f"main.py {' '.join(argv)}: {time.time() - began:.2f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--root", type=pathlib.Path, default=ROOT)
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--sample", help="a workdir to sample 8 texts from")
    parser.add_argument("--least", type=float, default=0.1, help="seconds of a part to show")
    parser.add_argument("--only", choices=("train", "sample", "mistakes"))
    args = parser.parse_args()
    root = args.root.absolute()
    if args.only in (None, "mistakes"):
        mistakes(root)
    with tempfile.TemporaryDirectory() as scratch:
        commands = {}
        if args.only in (None, "train"):
            commands["train"] = [f"--config={args.config}"]
        if args.sample:
            workdir = pathlib.Path(args.sample).absolute()
            commands["sample"] = ["--mode=sample", f"--workdir={workdir}", "--num_samples=8"]
        for mode, argv in commands.items():
            for number, state in enumerate(("empty cache", "full cache")):
                workdir = [f"--workdir={scratch}/run{number}"] if mode == "train" else []
                cache = pathlib.Path(scratch, f"cache-{mode}")
                show(f"{mode}, {state}", *timed(root, mode, argv + workdir, cache), args.least)


if __name__ == "__main__":
    main()
