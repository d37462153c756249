"""Writing whole or not at all, through links, and into what must not be replaced."""

import errno
import json
import os
import stat
import threading

import pytest

from elf_jax.core import files
from elf_jax.core.errors import UserError

WRITERS = {
    "write_bytes": lambda path: files.write_bytes(path, b"new\n"),
    "write_text": lambda path: files.write_text(path, "new\n"),
    "open_text": lambda path: _fill(files.open_text(path), lambda file: file.write("new\n")),
    "open_scratch": lambda path: _fill(files.open_scratch(path), lambda file: _put(file)),
}


def _fill(opened, write):
    with opened as target:
        write(target)


def _put(path):
    path.write_text("new\n")


def device(path, minor):
    """A device like /dev/null (3) or /dev/full (7): never the real one, which could be lost."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        os.close(os.open(path, os.O_WRONLY))
    except (PermissionError, AttributeError):
        pytest.skip("no rights to make a device")
    return path


def reading(path):
    """Reads a pipe in a thread. Returns a function that waits for what was read."""
    read = []
    thread = threading.Thread(target=lambda: read.append(path.read_text()), daemon=True)
    thread.start()

    def result():
        thread.join(20)
        return read[0]

    return result


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_link_stays_and_its_target_is_written(write, tmp_path):
    (tmp_path / "far").mkdir()
    target, link, dangling = tmp_path / "far" / "out", tmp_path / "link", tmp_path / "dangling"
    target.write_text("old\n")
    link.symlink_to("step")
    (tmp_path / "step").symlink_to("far/out")
    dangling.symlink_to("later/new")
    for name in (link, dangling):
        write(name)
        assert name.is_symlink() and name.read_text() == "new\n"
    assert (tmp_path / "later" / "new").is_file() and not target.is_symlink()
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["out"]


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_pipe_and_a_device_stay(write, tmp_path):
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    for name in (fifo, link):
        read = reading(fifo)
        write(name)
        assert read() == "new\n" and stat.S_ISFIFO(fifo.stat().st_mode) and link.is_symlink()
    null = device(tmp_path / "null", 3)
    write(null)
    assert stat.S_ISCHR(null.lstat().st_mode)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_device_is_named_and_stays(write, tmp_path):
    full = device(tmp_path / "full", 7)
    with pytest.raises(OSError) as error:
        write(full)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(full))
    assert stat.S_ISCHR(full.lstat().st_mode) and list(tmp_path.iterdir()) == [full]


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_an_open_descriptor_keeps_what_it_has(write, tmp_path):
    out = tmp_path / "out"
    with open(out, "w") as file:
        file.write("old\n")
        file.flush()
        write(f"/dev/fd/{file.fileno()}")
        file.write("after\n")
    assert out.read_text() == "old\nnew\nafter\n"
    with pytest.raises(OSError, match="/dev/fd/1234"):
        write("/dev/fd/1234")


def test_a_pipe_gets_each_line_at_once(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with files.open_text(fifo) as file:
        print("ä", file=file, flush=True)
        assert os.read(reader, 100).decode() == "ä\n"
    os.close(reader)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_directory_is_no_file(write, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(IsADirectoryError):
        write(tmp_path / "out")
    with pytest.raises(OSError) as error:
        write(tmp_path / ("x" * 300))
    assert error.value.errno == errno.ENAMETOOLONG
    assert error.value.filename == str(tmp_path / ("x" * 300))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_directories_replace_directories_only(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    for text in ("one", "two"):  # first the link dangles
        with files.open_directory(link) as scratch:
            (scratch / "file").write_text(text)
        assert link.is_symlink() and (target / "file").read_text() == text
    with pytest.raises(NotADirectoryError), files.open_directory(target / "file"):
        pass
    assert (target / "file").read_text() == "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target"]


def test_an_error_names_the_file_not_its_scratch(tmp_path):
    for opened in (files.open_scratch, files.open_directory):
        with pytest.raises(OSError) as error, opened(tmp_path / "out") as scratch:
            (scratch / "sub" / "file").read_bytes()
        assert error.value.filename == str(tmp_path / "out" / "sub" / "file")
        assert not list(tmp_path.iterdir())


def test_names_that_are_not_utf_8_come_back(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    files.write_json(tmp_path / "a.json", {"path": name})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"path": name}


def test_places_that_are_refused_early(tmp_path):
    (tmp_path / "file").write_text("text")
    files.check_file(tmp_path / "file", "--output")
    files.check_file(tmp_path / "new" / "file", "--output")
    files.check_directory(tmp_path / "new" / "run", "--workdir")
    for check, path, message in (
        (files.check_file, tmp_path, "--output=.* is a directory: name a file"),
        (files.check_file, tmp_path / "file" / "x", "file is a file, and --output needs a dir"),
        (files.check_directory, tmp_path / "file", "file is a file, and --output needs a dir"),
    ):
        with pytest.raises(UserError, match=message):
            check(path, "--output")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
