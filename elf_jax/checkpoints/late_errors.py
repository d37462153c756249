"""Keeps threads of Orbax and TensorStore from printing errors that the program reports itself.

They read and write many arrays at once. When one fails, its error reaches `Checkpoints`, which says
in one line what is wrong. But threads of Orbax print the same error as tracebacks, and each of the
other arrays prints another one: it finishes after the event loop has ended, or it fails too and
nobody waits for it any more.
"""

import functools
import inspect
import logging
import sys


@functools.cache
def hush():
    """Drops these messages, and only these, from now on."""
    logging.getLogger("absl").addFilter(_is_news)
    before = sys.unraisablehook

    def hook(late):
        if not _is_late(late):
            before(late)

    sys.unraisablehook = hook


def _is_late(late):
    """Whether an error that nobody waits for comes after another one of the same checkpoint."""
    error, source = late.exc_value, late.object
    if inspect.iscoroutine(source) and _is_of_orbax(source.cr_code.co_filename):
        return True
    return isinstance(error, RuntimeError) and "Event loop is closed" in str(error)


def _is_of_orbax(file):
    return "orbax" in file


def _is_news(record):
    """Whether a message is not one of Orbax about an error that it raises too."""
    return not (record.exc_info and _is_of_orbax(record.pathname))
