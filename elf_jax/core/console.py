"""How a program speaks on the terminal and ends: what it prints is UTF-8, and an error is one line.

Exit code 2 says that the user must mend something. If the reader of the output has gone, as in
`python main.py ... | head`, the program ends quietly, as others do that get the signal SIGPIPE.
"""

import contextlib
import io
import os
import select
import sys

from tqdm import tqdm

from elf_jax.core.errors import STANDARD_OUTPUT, UserError, explain
from elf_jax.core.special_files import NamedFile

READER_GONE = 141  # exit code: 128 + the number of SIGPIPE


def open_output():
    """Makes standard output UTF-8, as all text that is read is, and lets its errors name it.

    What a notebook or a test has put in its place stays.
    """
    out = sys.stdout
    if out is None or out is not sys.__stdout__:
        return
    # File names may have bytes that are not UTF-8: they come out as they are.
    text = {"encoding": "utf-8", "errors": "surrogateescape"}
    raw = getattr(out.buffer, "raw", out.buffer)
    if type(raw) is not io.FileIO:  # a console of Windows
        out.reconfigure(**text)
        return
    file = NamedFile(out.fileno(), STANDARD_OUTPUT, closefd=False)
    sys.stdout = io.TextIOWrapper(
        file if out.write_through else file.buffered(),
        line_buffering=out.line_buffering,
        write_through=out.write_through,
        **text,
    )


@contextlib.contextmanager
def errors_as_one_line():
    """Ends the program with one line if the block raises what the user must mend. A bug keeps its
    traceback.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except UserError as error:
        fail(error)
    except Exception as error:
        if _reader_gone(error):
            end(READER_GONE)
        message = explain(error)
        if message is None:
            raise
        fail(message)


def fail(error):
    """Prints one line to standard error and exits with code 2."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()  # the message begins a line of its own
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    end(2)


def end(code):
    """Exits. What was printed and cannot be written is dropped: Python would complain about it."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _reader_gone(error):
    """Whether an error says that nobody reads standard output, or standard error, any more."""
    if not isinstance(error, BrokenPipeError):
        return False
    if error.filename is not None or not hasattr(select, "poll"):  # Windows has none
        return error.filename == STANDARD_OUTPUT
    poll = select.poll()
    poll.register(2, 0)  # progress bars are written there
    return any(event & select.POLLERR for _, event in poll.poll(0))
