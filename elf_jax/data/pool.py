"""Units of work over the cores of this machine.

The workers are processes, not threads: the tokenizer lets threads run side by side, but what is
done around it, a sixth of the work, does not (measured in docs/data.md): threads would end at six.
"""

import concurrent.futures
import itertools
import multiprocessing
import os
import signal
import threading
from concurrent.futures.process import BrokenProcessPool

from elf_jax.core.errors import UserError
from elf_jax.data.work import Worker

POLL = 0.2  # seconds between two looks at the progress

_worker = None  # of this process, if it is one of the workers


def cores():
    """How many cores this process may use (`taskset` limits it)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_units(plan, jobs, workers, update):
    """Carries out units of work, in no particular order, with few of them in memory.

    Args:
      plan: `work.Plan`. jobs: iterable of (number, unit).
      workers: number of processes; 1, or less than two jobs, work in this one.
      update: called with (documents, tokens) as they get done.

    Yields:
      The records of `Worker.run`.

    Raises:
      UserError: of a document that cannot be read, or a worker that was killed.
    """
    jobs = iter(jobs)
    first = list(itertools.islice(jobs, 2))
    jobs = itertools.chain(first, jobs)
    if workers == 1 or len(first) < 2:
        worker = Worker(plan, update)
        for number, unit in jobs:
            yield worker.run(number, unit)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy JAX's and Grain's threads
    progress, stop = context.Array("q", 2), context.Event()
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=_begin, initargs=(plan, progress, stop)
    ) as executor:
        try:
            yield from _flow(executor, jobs, workers + 1, _Progress(progress, update))
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, perhaps for want of memory: the same command goes on "
                "where it stopped, and with fewer cores (taskset) it needs less"
            ) from None
        finally:
            stop.set()
            executor.shutdown(cancel_futures=True)


def _flow(executor, jobs, limit, progress):
    """At most `limit` units are in memory here or on their way."""
    pending = set()
    for job in jobs:
        pending.add(executor.submit(_work, *job))
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
    """What the workers have counted together, passed on as it grows."""

    def __init__(self, counted, update):
        self.counted, self.update, self.shown = counted, update, (0, 0)

    def show(self):
        with self.counted.get_lock():
            now = tuple(self.counted)
        self.update(now[0] - self.shown[0], now[1] - self.shown[1])
        self.shown = now


def _begin(plan, progress, stop):
    """Makes this process a worker."""
    global _worker
    # Every worker has a core to itself: the tokenizer's own threads would only be in the way.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def report(documents, tokens):
        with progress.get_lock():
            progress[0] += documents
            progress[1] += tokens

    _worker = Worker(plan, report, stop.is_set)


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(number, unit):
    return _worker.run(number, unit)
