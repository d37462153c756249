"""Locks: one holder at a time, dead holders, holders on other machines and in stores."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import fsspec
import pytest

from elf_jax.core import lock
from elf_jax.core.errors import UserError

WHAT = "held by {holder}: wait"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.1)
    monkeypatch.setattr(lock, "PATIENCE", 0.6)
    monkeypatch.setattr(lock, "SETTLE", 0.2)


@pytest.fixture(params=["disk", "store"])
def place(request, tmp_path):
    """A directory on a disk, and a place in a store."""
    return tmp_path / "run" if request.param == "disk" else f"memory://{tmp_path.name}/run"


def read(place):
    with fsspec.open(f"{place}/lock") as file:
        return json.load(file)


def write(place, **changes):
    content = {"host": "far", "machine": "other boot", "pid": 7, "started": "1", "token": "x"}
    with fsspec.open(f"{place}/lock", "w", auto_mkdir=True) as file:
        json.dump({**content, **changes}, file)


def hold(place):
    return lock.hold(place, "lock", WHAT)


def test_the_second_is_refused_and_the_third_is_not(place):
    with hold(place):
        assert read(place)["pid"] == os.getpid()
        with pytest.raises(UserError, match=f"^held by process {os.getpid()} on .*: wait$"):
            with hold(place):
                pass
    with hold(place) as held:
        assert not held.lost
    with pytest.raises(FileNotFoundError):
        read(place)


def test_a_process_that_was_killed_is_not_in_the_way(place, tmp_path):
    code = f"""
import sys, time
from elf_jax.core import lock
with lock.hold({str(tmp_path)!r}, "lock", "{WHAT}"):
    print("held", flush=True)
    time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {child.pid} on"):
        with hold(tmp_path):
            pass
    child.send_signal(signal.SIGKILL)
    # It is a zombie now, because nobody has asked for its exit status.
    while "Z" not in open(f"/proc/{child.pid}/stat").read().rpartition(")")[2]:
        time.sleep(0.01)
    began = time.monotonic()
    with hold(tmp_path) as held:
        assert not held.lost
    assert time.monotonic() - began < 5
    child.wait()


def test_a_number_that_another_process_has_now(place):
    write(place, machine=lock._machine(), pid=os.getpid(), started="1")
    with hold(place):
        assert read(place)["started"] != "1"


def test_a_dead_holder_on_another_machine(place, capsys):
    write(place)
    with hold(place):
        assert read(place)["pid"] == os.getpid()
    assert "whether process 7 on far still holds" in capsys.readouterr().out


def test_a_living_holder_on_another_machine(place):
    end = threading.Event()

    def live():
        beat = 0
        while not end.wait(0.05):
            beat += 1
            write(place, beat=beat)

    write(place)
    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(UserError, match="held by process 7 on far"):
            with hold(place):
                pass
    finally:
        end.set()
        thread.join()
    assert read(place)["pid"] == 7


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"pid": 3}'])
def test_a_damaged_lock_is_not_in_the_way_for_ever(place, content):
    with fsspec.open(f"{place}/lock", "w", auto_mkdir=True) as file:
        file.write(content)
    with hold(place):
        assert read(place)["pid"] == os.getpid()


def test_a_holder_that_was_asleep_notices_that_it_was_replaced(place):
    with hold(place) as held:
        write(place)
        end = time.monotonic() + 5
        while not held.lost and time.monotonic() < end:
            time.sleep(0.02)
        assert held.lost
    assert read(place)["pid"] == 7  # the lock of the other stays


def test_of_two_at_once_one_has_it(place):
    results = []

    def run():
        try:
            with hold(place) as held:
                time.sleep(1)
                results.append(not held.lost)
        except UserError:
            results.append(False)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, True]


def test_a_directory_that_was_made_for_the_lock_goes_with_it(tmp_path):
    with hold(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").exists()
    with hold(tmp_path / "run"):
        (tmp_path / "run" / "config.json").write_text("{}")
    assert os.listdir(tmp_path / "run") == ["config.json"]
