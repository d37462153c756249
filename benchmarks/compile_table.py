"""The compile reports of all shipped configs on several TPU slices, as one table.

    python -m benchmarks.compile_table --output=reports
    python -m benchmarks.compile_table --only=owt:elf_b --topologies=v5p:2x4x4

Needs the TPU compiler (pip install -e '.[tpu]') and no TPU. A report that is in the output
directory already is not made again.
"""

import importlib
import json
import os
import pathlib
import subprocess
import sys

from absl import app, flags

OUTPUT = flags.DEFINE_string("output", "reports", "directory of the JSON reports")
TOPOLOGIES = flags.DEFINE_list("topologies", ["v5e:4x8", "v5p:2x4x4", "v6e:4x8"], "slices")
ONLY = flags.DEFINE_list("only", [], "configs, such as owt:elf_l; none: all")

# Every shipped config with what makes it compile without any data: its mesh and batch stay.
CONFIGS = ["owt:elf_b", "owt:elf_m", "owt:elf_l", "wmt14_de_en", "xsum", "text", "seq2seq"]
# 1280 rows over 16 chips are whole tiles of 16 rows, which are gathered beside other work; shares
# of other sizes are sent as sums of mostly zeros.
SHARDED = {"owt:elf_l": ["--config.mesh.fsdp=16"]}
COLUMNS = {
    "TFLOP": ("flops_per_device", 1e12),
    "HBM GB": ("hbm_bytes_per_device", 1e9),
    "collective GB": ("collective_bytes_per_device", 1e9),
    "needed GiB": ("needed_bytes_per_device", 2**30),
    "roofline s": ("roofline_seconds", 1),
    "step s": ("estimated_step_seconds", 1),
    "Mtokens/s": ("tokens_per_second", 1e6),
    "MFU": ("mfu_bound", 1),
    "compile s": ("compile_seconds", 1),
}


def main(_):
    """Makes the reports that are missing and prints the table in Markdown."""
    print(f"| config | slice | fits | {' | '.join(COLUMNS)} |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    for name in ONLY.value or CONFIGS:
        for topology in TOPOLOGIES.value:
            report = _report(name, topology)
            cells = [
                f"{report[key] / scale:.3g}" if report.get(key) is not None else "-"
                for key, scale in COLUMNS.values()
            ]
            fits = "yes" if report["fits"] else "no"
            print(f"| {name} | {topology} | {fits} | {' | '.join(cells)} |", flush=True)


def _report(name, topology):
    path = pathlib.Path(OUTPUT.value) / f"{name}_{topology}.json".replace(":", "-")
    if not path.is_file():
        module, _, size = name.partition(":")
        importlib.import_module(f"configs.{module}")  # a wrong name fails here, in one line
        command = [sys.executable, "main.py", "--mode=compile", f"--topology={topology}"]
        command += [f"--config=configs/{module}.py{':' + size if size else ''}"]
        command += [f"--output={path}", *SHARDED.get(name, [])]
        done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    app.run(main)
