"""Checksums of files: what is compared, and what is said about damage."""

import subprocess

import pytest

from elf_jax.core import checksums
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import SUMS


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.bin").write_bytes(bytes(range(256)))
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "c.txt").write_text("text")
    checksums.write(tmp_path)
    return tmp_path


def test_the_program_sha256sum_agrees(directory):
    run = subprocess.run(["sha256sum", "-c", SUMS], cwd=directory, capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout == "a.json: OK\nb.bin: OK\n"


def test_what_is_whole_passes(directory):
    checksums.check(directory / "a.json")
    checksums.check_directory(directory)
    (directory / "later.txt").write_text("no checksum")
    checksums.check(directory / "later.txt")
    checksums.check(directory / "inside" / "c.txt")  # its directory has no checksums


def test_a_single_bit_is_found(directory):
    data = bytearray((directory / "b.bin").read_bytes())
    data[100] ^= 1
    (directory / "b.bin").write_bytes(data)
    message = rf"b.bin has changed since it was written .* remove .*{SUMS} if you changed it on"
    with pytest.raises(UserError, match=message):
        checksums.check(directory / "b.bin")
    with pytest.raises(UserError, match=message):
        checksums.check_directory(directory)
    checksums.check_directory(directory, lambda name: name != "b.bin")
    checksums.check(directory / "a.json")
    (directory / SUMS).unlink()
    checksums.check(directory / "b.bin")


def test_a_file_that_is_gone(directory):
    (directory / "a.json").unlink()
    with pytest.raises(UserError, match="a.json is missing, which SHA256SUMS names"):
        checksums.check_directory(directory)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"abc  a.json\n", b"", b"# a comment\n\n"])
def test_checksums_that_cannot_be_read_guard_nothing(directory, data):
    (directory / SUMS).write_bytes(data)
    checksums.check(directory / "a.json")
    checksums.check_directory(directory)


def test_the_checksums_of_another_program(directory):
    """As of sha256sum -b, with a comment, line ends of Windows and a file in a subdirectory."""
    digits = checksums.file_sha256(directory / "a.json")
    lines = ["# made by hand", f"{digits} *a.json", f"{'0' * 64}  inside/none.txt", "unreadable"]
    (directory / SUMS).write_bytes("\r\n".join(lines).encode())
    assert checksums.read(directory) == {"a.json": digits}
    checksums.check_directory(directory)
    (directory / "a.json").write_text("[]")
    with pytest.raises(UserError, match="a.json has changed"):
        checksums.check_directory(directory)


def test_some_files_and_a_whole_tree(directory):
    checksums.write(directory, ["a.json", "none.json"])
    assert list(checksums.read(directory)) == ["a.json"]
    checksums.write_tree(directory)
    assert list(checksums.read(directory)) == ["a.json", "b.bin"]
    assert list(checksums.read(directory / "inside")) == ["c.txt"]
    checksums.forget(directory)
    assert checksums.read(directory) == {}
    checksums.forget(directory)  # there is nothing to forget
