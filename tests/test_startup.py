"""--help and mistakes in flags are answered before anything heavy is imported."""

import json
import os
import subprocess
import sys

from tests.command import QUICKSTART, ROOT

# The process imports what main.py imports, and forks for every command line.
FORKING = """
import json, os, sys
import main

read, pipe = os.pipe()
heavy = ("jax", "flax", "numpy", "transformers", "tokenizers", "orbax", "optax", "matplotlib")
for number, argv in enumerate(json.loads(sys.argv[1])):
    if os.fork() == 0:
        sys.argv, code = ["main.py", *argv], None
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(f"{number}.err", os.O_WRONLY | os.O_CREAT), 2)
        try:
            main.app.run(main.run, flags_parser=main.parse)
        except SystemExit as end:
            code = end.code
        found = [name for name in heavy if name in sys.modules]
        os.write(pipe, (json.dumps([argv, code, found]) + "\\n").encode())
        os._exit(0)
    os.wait()
os.close(pipe)
print(os.read(read, 10**6).decode())
"""

QUICK = [
    ([], 2),
    (["--help"], 0),
    (["--mode=dream"], 2),
    (["--stpes=3"], 2),
    (["--mode=sample", "--steps=many"], 2),
    (["--mode=sample"], 2),
    (["--config=configs/none.py"], 2),
    ([QUICKSTART, "--config.train.batchsize=3"], 2),
    ([QUICKSTART, "--config.train.batch_size=many"], 2),
    ([f"{QUICKSTART}:mdml"], 2),
    ([QUICKSTART, "--topology=v5p:2x2x1"], 2),
    ([QUICKSTART, "--config.sample.sampler=heun"], 2),
    ([f"--config={ROOT}/configs/base.py", "--config.data.kind=jsonI"], 2),
    ([f"--config={ROOT}/configs/text.py", "--config.data.kind=jsonI"], 2),
    (["--mode=evaluate", "--config.train.batch_size=3"], 2),
]


def test_mistakes_are_told_without_the_libraries(tmp_path):
    command = [sys.executable, "-c", FORKING, json.dumps([argv for argv, _ in QUICK])]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    del environ["JAX_PLATFORMS"]  # whether there is an accelerator is found out without JAX
    run = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    found = [json.loads(line) for line in run.stdout.splitlines() if line]
    assert [(argv, code) for argv, code, _ in found] == [(argv, code) for argv, code in QUICK]
    for number, (argv, code, heavy) in enumerate(found):
        error = (tmp_path / f"{number}.err").read_text()
        assert error.count("\n") == (code == 2), (argv, error)
        assert not heavy, argv
