"""Compiled programs are kept for the next start. What happens to them stops no command."""

import json
import os
import pathlib
import re
import subprocess
import sys
import time
import zlib

import pytest

from elf_jax.core import compile_cache, store

ROOT = pathlib.Path(__file__).parents[2]
# One process imports JAX and forks for every case, before JAX starts its devices.
FORKING = """
import json, os, resource, signal, sys
import jax, jax.numpy as jnp
from elf_jax.core import compile_cache

def case(number, environ, keys, limit, workdir, together):
    os.environ.update(environ)
    for name, value in keys.items():
        jax.config.update(name, value)
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    os.dup2(os.open(f"{number}.err", os.O_WRONLY | os.O_CREAT), 2)
    hits = []
    jax.monitoring.register_event_listener(
        lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None)
    compile_cache.turn_on(workdir)
    value = float(jax.jit(lambda x: jnp.sum(jnp.sin(x) * 3))(jnp.arange(8.0)))
    sys.stderr.flush()
    answer = {"value": value, "hits": len(hits), "directory": jax.config.jax_compilation_cache_dir}
    os.write(pipe, (json.dumps([number, answer]) + "\\n").encode())
    os._exit(0)

read, pipe = os.pipe()
number = 0
for given in json.loads(sys.argv[1]):
    children = []
    for _ in range(given.get("together", 1)):
        child = os.fork()
        if child == 0:
            case(number, given.get("environ", {}), given.get("keys", {}), given.get("limit"),
                 given.get("workdir"), given.get("together"))
        children.append(child)
        number += 1
    assert all(os.waitpid(child, 0)[1] == 0 for child in children), given
    damage = given.get("then")
    if damage:
        exec(damage)
os.close(pipe)
print(os.read(read, 10**6).decode())
"""
# Every file of the first cache gets these bytes at its end, in its middle, or in its place.
DAMAGE = """
import pathlib
files = sorted(pathlib.Path("one").rglob("*-cache"))
for place, file in enumerate(files):
    whole = file.read_bytes()
    file.write_bytes([b"", b"no program", whole[: len(whole) // 2]][place % 3])
"""


def ran(cases, directory):
    """[answers of a case, what it wrote to standard error] for each process of each case."""
    quiet = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")
    environ = {k: v for k, v in os.environ.items() if not k.startswith(quiet)}
    command = [sys.executable, "-c", FORKING, json.dumps(cases)]
    environ |= {"PYTHONPATH": str(ROOT), "HOME": str(directory / "home"), "XDG_CACHE_HOME": ""}
    run = subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = dict(json.loads(line) for line in run.stdout.splitlines() if line.strip())
    return [(found[n], (directory / f"{n}.err").read_text()) for n in sorted(found)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_programs_are_kept_and_nothing_is_a_reason_to_fail(tmp_path):
    (tmp_path / "file").write_text("")
    one = {"environ": {"XDG_CACHE_HOME": str(tmp_path / "one")}}
    cases = {
        "new": one,
        "again": one | {"then": DAMAGE},
        "damaged": one,
        "two at once": {"environ": {"XDG_CACHE_HOME": str(tmp_path / "two")}, "together": 2},
        "no room": {"environ": {"XDG_CACHE_HOME": str(tmp_path / "full")}, "limit": 50},
        "no directory": {"environ": {"XDG_CACHE_HOME": str(tmp_path / "file")}},
        "at home": {},
        "off": {"keys": {"jax_enable_compilation_cache": False}},
        "the user's": {"keys": {"jax_compilation_cache_dir": str(tmp_path / "own")}},
    }
    found = ran(list(cases.values()), tmp_path)
    assert {answer["value"] for answer, _ in found} == {found[0][0]["value"]}
    names = ["new", "again", "damaged", "first", "second", *list(cases)[4:]]
    found = dict(zip(names, found, strict=True))
    said = {name: lines for name, (_, lines) in found.items() if lines}
    assert list(said) == ["no directory"]
    assert said["no directory"].startswith("note: compiled programs are not kept (")
    assert said["no directory"].count("\n") == 1 and "Not a directory" in said["no directory"]
    hits = {name: answer["hits"] for name, (answer, _) in found.items()}
    assert hits["again"] > 0 and hits["new"] == hits["damaged"] == hits["off"] == 0
    kept = tmp_path / "one" / "elf-jax" / compile_cache.FOLDER / compile_cache.processor()
    assert found["new"][0]["directory"] == str(kept) and list(kept.glob("*-cache"))
    assert kept.stat().st_mode & 0o077 == 0
    assert list((tmp_path / "home/.cache/elf-jax").rglob("*-cache"))
    assert found["off"][0]["directory"] is None
    assert found["the user's"][0]["directory"] == str(tmp_path / "own")


def test_each_kind_of_processor_has_its_directory():
    old, new = "flags\t\t: fpu sse2 avx", "flags\t\t: avx sse2 fpu\nflags\t\t: avx2 sse2 fpu"
    assert compile_cache.processor(old) != compile_cache.processor(new)
    assert compile_cache.processor(old) == compile_cache.processor("flags : avx fpu  sse2\n" * 4)
    assert compile_cache.processor(old) != compile_cache.processor("Features\t: fp asimd")


def test_where_they_are_kept(tmp_path, monkeypatch):
    assert compile_cache.user_cache({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "elf-jax"
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    # The standard says that a relative path is no path.
    assert compile_cache.user_cache({"XDG_CACHE_HOME": "here"}) == tmp_path / ".cache/elf-jax"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert compile_cache.user_cache({}) == tmp_path / "Library/Caches/elf-jax"
    here = compile_cache.processor()
    assert compile_cache._in_store("gs://bucket/runs/elf/") == f"gs://bucket/runs/compiled/{here}"
    for other in (None, "runs/elf", "gs://bucket", "memory://bucket/run", "file:///runs/elf"):
        assert compile_cache._in_store(other) is None


def aged(path, data, age):
    """Writes a file that was changed and read some seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_the_programs_that_nobody_used_for_the_longest_time_go(tmp_path):
    whole = zlib.compress(bytes(range(256)) * 9)
    files = [
        aged(tmp_path / place / f"{age}-cache", whole, age)
        for place, age in [("here", 5000), ("other", 4000), ("here", 3000), ("other", 2000)]
    ]
    compile_cache.tidy(str(tmp_path / "here"), limit=2 * len(whole))
    assert [file.exists() for file in files] == [False, False, True, True]


def test_files_that_are_not_whole_go_and_are_looked_at_once(tmp_path):
    whole = zlib.compress(bytes(range(256)) * 9)
    names = {
        "whole": whole,
        "cut": whole[:-9],
        "empty": b"",
        "other": b"text",
        "flip": b"x" + whole,
    }
    files = {name: aged(tmp_path / f"{name}-cache", data, 900) for name, data in names.items()}
    being_written = aged(tmp_path / "now-cache", whole[:-9], 1)
    compile_cache.tidy(str(tmp_path))
    assert [name for name, file in files.items() if file.exists()] == ["whole"]
    assert being_written.exists()
    old = aged(tmp_path / "old-cache", b"text", 900)
    compile_cache.tidy(str(tmp_path))
    assert old.exists()


def test_a_store_is_bounded_too():
    import fsspec

    files = fsspec.filesystem("memory")
    for name in ("a", "b", "c"):
        files.pipe_file(f"/bucket/compiled/cpu/{name}", b"x" * 10)
        time.sleep(0.002)
    times = [time for time, size, _ in sorted(store.listing("memory://bucket/compiled"))]
    assert times == sorted(times) and 0 < times[0] < times[-1]
    compile_cache.tidy("memory://bucket/compiled/cpu", limit=20)
    assert [name.rsplit("/", 1)[1] for name in files.find("/bucket")] == ["b", "c"]
    files.rm("/bucket", recursive=True)


LONG = """
import jax, jax.numpy as jnp
from elf_jax.core import compile_cache

def slow(x):
    for _ in range(40):
        x = jnp.sort(jnp.cumsum(jnp.sin(x)))
    return x
def first(x):
    return slow(x + 1)
def second(x):
    return slow(x + 2)
def third(x):
    return slow(x + 3)
compile_cache.announce_long_compilations(600.0)
jax.jit(first)(jnp.arange(50.0))
compile_cache.announce_long_compilations(0.05)
jax.jit(second)(jnp.arange(50.0))
jax.jit(second)(jnp.arange(50.0))
jax.config.update("jax_enable_compilation_cache", False)
jax.jit(third)(jnp.arange(50.0))
"""


def test_a_long_compilation_is_said_once_and_a_short_one_is_not(tmp_path):
    environ = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", LONG], env=environ, capture_output=True, text=True)
    # Where other work slows it down, a small program may be said too.
    said = re.findall(
        r"compiling jit\((first|second|third)\) has taken 0 s and goes on(.*)", run.stderr
    )
    then = ", and the next start will find the program compiled"
    assert said == [("second", then), ("third", "")], run.stderr
