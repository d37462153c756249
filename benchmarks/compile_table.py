"""The compile reports of all shipped configs on several TPU slices, as one table.

    python -m benchmarks.compile_table --output=reports
    python -m benchmarks.compile_table --only=owt:elf_b --topologies=v5p:2x4x4
    python -m benchmarks.compile_table --only=text --topologies=local -- --config.model.depth=2

It needs the TPU compiler (pip install -e '.[tpu]') and no TPU. The topology "local" means the
devices of this machine. Arguments after `--` are passed to every command. A report that already
exists in the output directory is not made again.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
# The shipped configs in the table, with their own mesh and batch size.
CONFIGS = ["owt:elf_b", "owt:elf_m", "owt:elf_l", "wmt14_de_en", "xsum", "text", "seq2seq"]
# No data is read here, so the sizes that depend on it are named. 1280 rows of a kernel of ELF-L,
# split over 16 chips, are whole tiles of 16 rows. The compiler gathers such parts while it does
# other work. Parts of other sizes are sent as sums of mostly zeros.
_SMALL = ["--config.model.width=384", "--config.data.vocab_size=8192"]
KEYS = {
    "owt:elf_l": ["--config.mesh.fsdp=16"],
    "text": _SMALL,
    "seq2seq": [*_SMALL, "--config.data.source_length=64", "--config.data.length=128"],
}
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


def main():
    """Makes the reports that are missing and prints the table in Markdown."""
    args = _arguments()
    print(f"| config | slice | fits | {' | '.join(COLUMNS)} |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    for name in args.only.split(",") if args.only else CONFIGS:
        for topology in args.topologies.split(","):
            report = _report(name, topology, args)
            cells = [
                f"{report[key] / scale:.3g}" if report.get(key) is not None else "-"
                for key, scale in COLUMNS.values()
            ]
            fits = {True: "yes", False: "no", None: "-"}[report["fits"]]
            print(f"| {name} | {topology} | {fits} | {' | '.join(cells)} |", flush=True)


def _arguments():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--output", default="reports", help="directory of the JSON reports")
    parser.add_argument("--only", default="", help="configs, separated by commas; default: all")
    parser.add_argument("--topologies", default="v5e:4x8,v5p:2x4x4,v6e:4x8", help="slices")
    parser.add_argument("keys", nargs="*", help="of the config, such as --config.model.depth=2")
    return parser.parse_args()


def _report(name, topology, args):
    path = pathlib.Path(args.output) / f"{name}_{topology}.json".replace(":", "-")
    if not path.is_file():
        module, _, size = name.partition(":")
        config = ROOT / "configs" / f"{module}.py"
        if not config.is_file():
            raise SystemExit(f"no config {module!r}: use one of {', '.join(CONFIGS)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(ROOT / "main.py"), "--mode=compile"]
        command += [f"--config={config}{':' + size if size else ''}", f"--output={path}"]
        command += [f"--topology={'' if topology == 'local' else topology}"]
        command += [*KEYS.get(name, []), *args.keys]
        done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
