"""Prepares the units of a corpus on all cores of this machine.

The workers are processes, not threads. A sixth of the work is done in Python, which runs only one
thread at a time (docs/data.md has the measurement), so threads could not use more than six cores.
"""

import concurrent.futures
import itertools
import multiprocessing
import os
import signal
import threading
from concurrent.futures.process import BrokenProcessPool

from elf_jax.core.errors import UserError
from elf_jax.data.prepare_unit import UnitPreparer

POLL = 0.2  # seconds between two updates of the progress

_preparer = None  # the `UnitPreparer` of this process, if it is a worker


def cores():
    """Number of cores that this process may use (`taskset` limits it)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_units(plan, jobs, workers, progress):
    """Prepares units, in any order, with only a few of them in memory.

    Args:
      plan: a `prepare_unit.Plan`. jobs: iterable of (number, unit).
      workers: number of processes. With one worker, or one job, this process does the work.
      progress: called with (documents, tokens), those finished since the last call.

    Yields:
      The entries that `UnitPreparer.run` returns.

    Raises:
      UserError: a document that cannot be read, or a worker that was killed.
    """
    jobs = iter(jobs)
    first = list(itertools.islice(jobs, 2))
    jobs = itertools.chain(first, jobs)
    if workers == 1 or len(first) < 2:
        preparer = UnitPreparer(plan, progress)
        for number, unit in jobs:
            yield preparer.run(number, unit)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy threads of JAX and Grain
    counted, stop = context.Array("q", 2), context.Event()
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=_begin, initargs=(plan, counted, stop)
    ) as executor:
        try:
            yield from _flow(executor, jobs, workers + 1, _Progress(counted, progress))
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, perhaps because memory ran out: run the same command "
                "again to go on from here; with fewer cores (taskset) it needs less memory"
            ) from None
        finally:
            stop.set()
            executor.shutdown(cancel_futures=True)


def _flow(executor, jobs, limit, progress):
    """Submits jobs and yields results, with at most `limit` jobs submitted at a time."""
    pending = set()
    for job in jobs:
        pending.add(executor.submit(_run, *job))
        while len(pending) >= limit:
            done, pending = _wait(pending, progress)
            yield from done
    while pending:
        done, pending = _wait(pending, progress)
        yield from done


def _wait(pending, progress):
    done, pending = concurrent.futures.wait(
        pending, POLL, return_when=concurrent.futures.FIRST_COMPLETED
    )
    progress.show()
    return [future.result() for future in done], pending


class _Progress:
    """Passes on what all workers together have counted since the last time."""

    def __init__(self, counted, progress):
        self.counted, self.progress, self.shown = counted, progress, (0, 0)

    def show(self):
        with self.counted.get_lock():
            now = tuple(self.counted)
        self.progress(now[0] - self.shown[0], now[1] - self.shown[1])
        self.shown = now


def _begin(plan, counted, stop):
    """Makes this process a worker."""
    global _preparer
    # Every worker has a core of its own. Threads of the tokenizer would only compete for it.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process says when to stop
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def progress(documents, tokens):
        with counted.get_lock():
            counted[0] += documents
            counted[1] += tokens

    _preparer = UnitPreparer(plan, progress, stop.is_set)


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _run(number, unit):
    return _preparer.run(number, unit)
