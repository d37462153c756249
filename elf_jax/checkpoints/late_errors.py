"""Keeps threads of Orbax and TensorStore from printing errors that the program reports itself.

They read and write many arrays at once. When one fails, its error reaches `Checkpoints`, which says
in one line what is wrong. But threads of Orbax print the same error as tracebacks, and each of the
other arrays prints another one, because it finishes after the event loop has ended.
"""

import functools
import logging
import sys


@functools.cache
def hush():
    """Drops these messages, and only these, from now on."""
    logging.getLogger("absl").addFilter(_is_news)
    before = sys.unraisablehook

    def hook(late):
        error = late.exc_value
        if not (isinstance(error, RuntimeError) and "Event loop is closed" in str(error)):
            before(late)

    sys.unraisablehook = hook


def _is_news(record):
    """Whether a message is not one of Orbax about an error that it raises too."""
    return not (record.exc_info and "orbax" in record.pathname)
