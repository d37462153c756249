"""One piece of work for one visitor, in a thread of its own.

The page looks at the newest update of the work. The visitor may leave: then the work is cancelled,
and nobody else waits for it. Only some pieces of work are done at the same time; the others wait
for their turn.
"""

import contextlib
import sys
import threading
import traceback

from elf_jax.core.errors import UserError, explain
from elf_jax.generation.live import Stopped

INTERVAL = 0.1  # seconds between two looks at the work


class Run:
    """Work that tells how far it is.

    Attributes:
      result: what the work has returned; None before, or after an error.
      refusal: one sentence for the visitor if the work has failed; "" if not.

    Args:
      work: function (run), which calls `run.tell` and returns the result.
    """

    def __init__(self, work):
        self.result, self.refusal = None, ""
        self._work, self._update = work, None
        self._changed, self._cancelled = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True)

    def tell(self, update):
        """Replaces the update that the page sees next. Any thread may call it.

        Raises:
          Stopped: the visitor has left.
        """
        self.check()
        self._update = update
        self._changed.set()

    @property
    def is_going_on(self):
        """Whether the thread runs."""
        return self._thread.is_alive()

    def check(self):
        """Raises Stopped if the visitor has left."""
        if self._cancelled.is_set():
            raise Stopped

    def updates(self):
        """Starts the work, and yields its newest update whenever there is one. Ends with the work.

        If the reader stops before, the work is cancelled.
        """
        self._thread.start()
        try:
            while self._thread.is_alive() and not self._cancelled.is_set():
                if self._changed.wait(INTERVAL):
                    self._changed.clear()
                    yield self._update
                    self._thread.join(INTERVAL)
        finally:
            self._cancelled.set()

    def cancel(self, seconds):
        """Cancels the work, and waits at most so many seconds for its end. Returns whether it has
        ended.
        """
        self._cancelled.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _go(self):
        try:
            self.result = self._work(self)
        except UserError as error:
            self.refusal = str(error)
        except Exception as error:
            if not self._cancelled.is_set():
                self.refusal = _sentence(error)


class Turns:
    """So many pieces of work are done at the same time."""

    def __init__(self, count):
        self._free = threading.Semaphore(count)

    @contextlib.contextmanager
    def take(self, run, say):
        """Waits for a turn, which ends with the block.

        Args:
          run: the `Run` that waits. say: called, without arguments, if it has to wait.

        Raises:
          Stopped: the visitor has left.
        """
        if not self._free.acquire(blocking=False):
            say()
            while not self._free.acquire(timeout=INTERVAL):
                run.check()
        try:
            yield
        finally:
            self._free.release()


def _sentence(error):
    """What a visitor reads about an error that is not the visitor's fault."""
    if "RESOURCE_EXHAUSTED" in str(error) or isinstance(error, MemoryError):
        return "this is more than the memory holds: ask for fewer texts"
    traceback.print_exception(error, file=sys.stderr)
    return explain(error) or "the model failed: its terminal shows why"
