"""The session for a borrowed GPU, at a tiny size on the CPU: each part has its line, whatever
happens to the others.
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import jax.numpy as jnp
import pytest

from benchmarks.session import goldens, program, results, training

ROOT = Path(__file__).parent.parent


def session(out, *settings):
    """Runs the script with results in `out`, as a user does on a machine with one device."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    command = [ROOT / "benchmarks/gpu_session.sh", f"OUT={out}", f"PYTHON={sys.executable}"]
    return subprocess.run(
        [*command, *settings],
        capture_output=True,
        text=True,
        cwd=out.parent,
        env={**os.environ, "XLA_FLAGS": flags},
    )


def test_every_part_has_its_line(tmp_path):
    out = tmp_path / "out"
    parts = "PARTS=ceilings training-xla quickstart text"
    done = session(out, "SIZE=tiny", parts, "LIMITS=quickstart=1", "TEXT=nowhere.jsonl")
    assert done.returncode == 2, done.stdout + done.stderr  # parts that failed
    lines = done.stdout.splitlines()
    assert any(line.startswith("ceilings ") and "bfloat16 product" in line for line in lines)
    assert any("positions per second" in line and "at most" in line for line in lines)
    assert sum("[ok, " in line for line in lines) == 2
    assert any(line.startswith("quickstart  [stopped after its 1 s") for line in lines)
    fault = next(line for line in lines if line.startswith("text  [failed with exit code 2"))
    assert "nowhere.jsonl" in fault
    table = (out / results.TABLE).read_text()
    for record in results.read(out):
        assert f"| {record['part']} |" in table or "device" in record
    found = {one["figure"]: one for one in results.read(out) if "figure" in one}
    speed = found[training.FIGURE]
    assert speed["attention"] == "xla" and speed["value"] == pytest.approx(
        32 / speed["step_seconds"]
    )
    assert found["memory at most"]["predicted"] > 0


def test_a_part_that_no_longer_fits_is_skipped(tmp_path):
    wheels, name = tmp_path / "wheels", "elf_session_test-1.0"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("elf_session_test.py", "")
        about = f"{name}.dist-info/"
        wheel.writestr(
            about + "METADATA", "Metadata-Version: 2.1\nName: elf-session-test\nVersion: 1.0\n"
        )
        wheel.writestr(
            about + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(about + "RECORD", "")
    out = tmp_path / "out"
    done = session(out, "SIZE=tiny", "TIME=1", "PARTS=ceil*", "WHEELS=wheels")
    assert done.returncode == 0, done.stderr
    assert "ceilings  [skipped: it needs 10 s" in done.stdout
    assert (out / "packages/elf_session_test.py").is_file()
    again = session(out, "SIZE=tiny")
    assert again.returncode == 2 and "has results already" in again.stderr
    assert session(out, "SIEZ=tiny").stderr.startswith("error: unknown argument 'SIEZ=tiny'")


def test_goldens_tell_exact_from_inexact(tmp_path, monkeypatch):
    monkeypatch.setenv("ELF_SESSION", str(tmp_path))
    exact = goldens.Arithmetic(jnp.float32, "highest", "xla")
    low = goldens.Arithmetic(jnp.bfloat16, None, "xla")
    assert goldens.attempt(goldens.EXACT, exact, ["encoder"])
    assert not goldens.attempt(goldens.EXACT, low, ["encoder"])  # it should hold, and does not
    assert goldens.attempt("bfloat16", low, ["encoder"])  # nothing is promised
    assert not goldens.attempt("none", exact._replace(attention="none"), ["forward"])
    values = [one["value"] for one in results.read(tmp_path)]
    assert values[0] < 1 < values[1] and values[3] is None


def test_the_largest_batch_by_the_figures_of_the_smallest(monkeypatch):
    monkeypatch.setattr(program, "capacity", lambda: 100)
    cost = {4: (20, 40)}  # 20 that do not depend on the rows, and 5 for each row
    assert training.rows_that_fit(cost.get, [4, 8, 16, 32]) == [16, 8, 4]
    assert training.rows_that_fit({4: (20, 200)}.get, [4, 8]) == [4]  # it is tried


def test_a_killed_part_keeps_its_figures(tmp_path):
    end = {"part": "b", "status": "stopped after its 9 s", "seconds": 9}
    kept = [{"part": "a", "status": "skipped", "seconds": 0}, end]
    kept.insert(1, {"part": "b", "figure": "rate", "value": 1234.5, "unit": "", "beside": "goal 9"})
    (tmp_path / results.FILE).write_text("".join(json.dumps(one) + "\n" for one in kept))
    first, *rest = results.lines(results.read(tmp_path))
    assert first == "a  [skipped, 0 s]"
    assert rest[0].split() == ["b", "rate", "1,234", "goal", "9"]
    assert rest[1] == "b  [stopped after its 9 s, 9 s]"
    results.write_table(tmp_path)
    assert "| b | rate | 1,234 | goal 9 |  |" in (tmp_path / results.TABLE).read_text()
