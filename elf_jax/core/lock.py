"""A lock on a directory of this machine, of a shared disk or of a store: one holder at a time.

The lock is a small JSON file that says who holds the directory. The holder writes it again every
few seconds, with another count. A holder on this machine is looked up by its process number. Of any
other holder only the count tells: if it stands still for some time, the holder is dead, and its
lock is not in the way. Clocks are not compared, and no file system has to know about locks.
"""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
import uuid

from elf_jax.core import store
from elf_jax.core.errors import UserError, one_line
from elf_jax.core.files import write_text

BEAT = 10.0  # seconds between two signs of life
PATIENCE = 60.0  # a holder without a sign of life for so many seconds is dead
SETTLE = 1.0  # seconds after which, of two who take a lock at once, the last writer has it


class Lock:
    """A lock that this process holds.

    Attributes:
      lost: whether another process has taken it over, because this one gave no sign of life (it
        was stopped, or its machine slept).
    """

    def __init__(self, place, what):
        self.place, self.what, self.lost = place, what, False
        self.content = {**_who(), "token": uuid.uuid4().hex, "beat": 0}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def take(self):
        """Takes the lock.

        Raises:
          UserError: another process holds it; the message names that process.
        """
        if self.place.read() is not None or not self.place.create(self._text()):
            there = self.place.read()  # again, because another process may just have made it
            if there is not None and _is_alive(self.place, there):
                raise UserError(self.what.format(holder=_in_words(there)))
            self.place.write(self._text())
            time.sleep(SETTLE)
            there = self.place.read() or {}
            if there.get("token") != self.content["token"]:
                raise UserError(self.what.format(holder=_in_words(there)))
        self._thread.start()

    def release(self):
        """Gives the lock back, unless another process has it now."""
        self._end.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # the work is done; a lock that stays is soon dead
            if (self.place.read() or {}).get("token") == self.content["token"]:
                self.place.remove()

    def _live(self):
        while not self._end.wait(BEAT):
            # A full disk or a network that is down for a moment must not end the training.
            with contextlib.suppress(Exception):
                there = self.place.read()
                if there is not None and there.get("token") != self.content["token"]:
                    self.lost = True
                    return
                self.content["beat"] += 1
                self.place.write(self._text())

    def _text(self):
        return json.dumps(self.content) + "\n"


@contextlib.contextmanager
def hold(directory, name, what):
    """Holds a directory for the length of the block; yields the `Lock`.

    Args:
      directory: of this machine, a mirror of a workdir in a store, or a URL.
      name: of the lock's file. It is in the store if the directory is there.
      what: the error if another process holds it, with {holder} where that process is named.

    Raises:
      UserError: another process holds the directory.
    """
    url = store.location(directory) if not store.is_url(directory) else str(directory)
    place = _StoreFile(f"{url}/{name}") if store.is_url(url) else _DiskFile(directory, name)
    lock = Lock(place, what)
    lock.take()
    try:
        yield lock
    finally:
        lock.release()


class _DiskFile:
    """The lock's file on a disk."""

    def __init__(self, directory, name):
        self.path = pathlib.Path(directory) / name
        directories = (self.path.parent, *self.path.parent.parents)
        self.made = [one for one in directories if not one.exists()]
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def read(self):
        """Its content as a dict; None if there is no file. A damaged file is an empty dict."""
        try:
            return _parse(self.path.read_bytes())
        except FileNotFoundError:
            return None

    def create(self, text):
        """Writes the file if there is none; returns whether this process made it."""
        scratch = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}")
        scratch.write_text(text, encoding="utf-8")
        try:
            os.link(scratch, self.path)  # fails if the file exists, also on a shared disk
            return True
        except OSError:  # it exists, or the disk knows no links
            return False
        finally:
            scratch.unlink()

    def write(self, text):
        """Writes the file, whole."""
        write_text(self.path, text)

    def remove(self):
        """Removes the file, and directories that were made for it and are still empty."""
        self.path.unlink(missing_ok=True)
        for directory in self.made:
            directory.rmdir()  # fails, and ends this, if something else is in it


class _StoreFile:
    """The lock's file in a store. Stores have no way to create a file only once that all share."""

    def __init__(self, url):
        self.url = url

    def read(self):
        """See `_DiskFile`."""
        data = store.read(self.url)
        return None if data is None else _parse(data)

    def create(self, text):
        """See `_DiskFile`."""
        del text
        return False

    def write(self, text):
        """See `_DiskFile`."""
        store.write(self.url, text.encode())

    def remove(self):
        """See `_DiskFile`."""
        store.remove(self.url)


def _parse(data):
    """The content of a lock; empty if it is damaged."""
    try:
        there = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(there, dict):
        return {}
    wanted = {"host": str, "machine": str, "pid": int, "token": str}
    return there if all(isinstance(there.get(key), type_) for key, type_ in wanted.items()) else {}


def _who():
    """What names this process: machine, process number, and when it began."""
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _start_of(os.getpid()),
    }


def _machine():
    """Text that two processes share only if they can look each other up by number; "" where the
    system does not tell. It changes when the machine starts anew.
    """
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_of(pid):
    """When a process began, in the system's own units; None if there is no such process. Another
    process may have its number later, but not this time too.
    """
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *rest = status.rpartition(")")[2].split()
    return None if state in "ZX" else rest[18]  # a zombie has ended


def _is_alive(place, there):
    """Whether the holder of a lock lives. It takes up to PATIENCE where only its beat can tell."""
    if "token" not in there:
        return False  # a damaged lock; a holder writes its own whole
    if there.get("machine") and there["machine"] == _machine():
        return there.get("started") is not None and _start_of(there.get("pid")) == there["started"]
    print(
        f"waiting {PATIENCE:.0f} s to see whether {_in_words(there)} still holds the directory",
        flush=True,
    )
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        time.sleep(min(BEAT / 5, PATIENCE / 5))
        now = place.read()
        if now is None:
            return False
        if now != there:
            return True
    return False


def _in_words(there):
    if "pid" not in there:
        return "another process"
    return one_line(f"process {there['pid']} on {there.get('host', 'another machine')}")
