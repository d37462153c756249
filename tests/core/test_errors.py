"""Which errors the user can mend, and in which words."""

import errno
import os

import pytest

from elf_jax.core.errors import UserError, explain


def caught(raise_it):
    """The exception that a function raises."""
    try:
        raise_it()
    except Exception as error:
        return error
    raise AssertionError("no error")


def os_error(number, name=None):
    return OSError(number, os.strerror(number), name)


@pytest.mark.parametrize(
    "error, message",
    [
        (os_error(errno.ENOSPC, "a.txt"), "a.txt cannot be used (No space left on device): make"),
        (os_error(errno.ENOSPC), "No space left on device: make room there"),
        (os_error(errno.EACCES, b"a.txt"), "a.txt cannot be used (Permission denied): check"),
        (os_error(errno.ENOENT, "a.txt"), "a.txt cannot be used (No such file or directory): c"),
        (Exception("IoError(Os { code: 28, kind: StorageFull })"), "No space left on device"),
        (ValueError("Error writing x [OS error 13: EACCES]"), "Permission denied"),
        (Exception("No space left on device (os error 28)"), "No space left on device"),
    ],
)
def test_what_the_user_can_mend(error, message):
    assert explain(error).startswith(message)


def test_a_library_wraps_the_error():
    def wrapped(inner, cause):
        try:
            raise inner
        except OSError as error:
            raise RuntimeError("writing failed") from (error if cause else RuntimeError())

    full = os_error(errno.ENOSPC, "a.txt")
    assert "a.txt" in explain(caught(lambda: wrapped(full, True)))
    gone = os_error(errno.ENOENT, "a.txt")
    assert "a.txt" in explain(caught(lambda: wrapped(gone, True)))
    assert explain(caught(lambda: wrapped(full, False))) is None


def test_a_bug_while_an_error_is_handled_stays_a_bug():
    def bug(number):
        try:
            raise os_error(number, "a.txt")
        except OSError:
            return {}["key"]

    assert explain(caught(lambda: bug(errno.ENOENT))) is None
    assert "a.txt" in explain(caught(lambda: bug(errno.ENOSPC)))


@pytest.mark.parametrize(
    "bug", [KeyError("x"), ValueError("28"), os_error(errno.ENOENT), ConnectionError("reset")]
)
def test_a_bug_has_no_explanation(bug):
    assert explain(bug) is None


def test_a_message_is_one_line():
    assert str(UserError("no file at 'a\n  b\r\nc'")) == "no file at 'a b c'"
    assert str(UserError("two  spaces stay")) == "two  spaces stay"
    told = explain(FileNotFoundError(errno.ENOENT, "No such file", "a\nb"))
    assert told.startswith("a b cannot be used")
