"""Sampling that tells of each state while the compiled loop runs.

The compiled program calls back. It is told whom to call by a ticket, which is an argument of it. So
one program serves several callers at the same time, and nobody sees the states of another one.

    run = live_run(trained)                       # compiles once for each shape
    tokens = run(arguments, see)                  # see(state) is called for every state, in order

`arguments` are those of `Method.sampler`: params, frozen, ids, given, key, scales. `see` gets a
`Seen` of NumPy arrays. It is called from a thread of the runtime, and sampling waits for it.
"""

import contextlib
import itertools
import logging
import threading

import jax
import numpy as np

from elf_jax.generation.generate import compiled

_log = logging.getLogger("jax._src.debugging")  # it prints the traceback of every error
WAIT = 60.0  # seconds for states that are still on their way when the samples are there
ORDER = 2**31  # tickets are int32


class Stopped(Exception):
    """Raised by `see` to stop the program in the middle. `run` raises it too."""


_log.addFilter(lambda record: not (record.exc_info and record.exc_info[0] is Stopped))


class Listener:
    """One caller, who gets `count` states in order. Another order of arrival is put right."""

    def __init__(self, see, count):
        self.error, self._see, self._count = None, see, count
        self._early, self._next = {}, 0
        self._changed = threading.Condition()

    def hear(self, seen):
        """Takes a state. After an error of `see`, which is kept, it is not called again. Only
        `Stopped` goes on to the runtime.
        """
        with self._changed:
            self._early[int(seen.step)] = seen
            while self._next in self._early:
                state = self._early.pop(self._next)
                self._next += 1
                if self.error is None:
                    try:
                        self._see(state)
                    except BaseException as error:  # it must not stop the program in the middle
                        self.error = error
            self._changed.notify_all()
            if isinstance(self.error, Stopped):
                raise self.error

    def finish(self):
        """Waits until all states were there, and raises the error of `see`, if there was one."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._next == self._count, WAIT):
                raise RuntimeError(f"only {self._next} of {self._count} states arrived")
        if self.error is not None:
            raise self.error


_listeners: dict[int, Listener] = {}
_tickets = itertools.count(1)


def _deliver(ticket, seen):
    """Called by the compiled program. Without a listener nothing happens."""
    listener = _listeners.get(int(ticket))
    if listener is not None:
        listener.hear(jax.tree.map(np.asarray, seen))


@contextlib.contextmanager
def _listening(see, count):
    """Yields (a ticket for a run with so many states, its `Listener`). At the end all states were
    seen.
    """
    number, listener = next(_tickets) % ORDER, Listener(see, count)
    _listeners[number] = listener
    try:
        yield np.int32(number), listener
        listener.finish()
    finally:
        del _listeners[number]


def jit_live(trained):
    """The sampler of a `TrainedModel`, jitted, with a ticket as its last argument.

    It is for `live_run`. Settings with the same `Method.compiled_for` may share it.
    """
    config, method = trained.config, trained.method

    def run(*arguments):
        *arguments, ticket = arguments

        def watch(seen):
            jax.debug.callback(_deliver, ticket, seen)

        sampler = method.sampler(config.sample, config.data.length, watch)
        return sampler(*arguments)[0]

    return compiled(trained, run)


def live_run(trained, program=None):
    """The function run(arguments, see) -> tokens [B, L], see the module. Several threads may use it
    at the same time.

    Args:
      trained: a `TrainedModel`, whose settings count.
      program: what to call in place of a new `jit_live`, with its arguments: for a caller who keeps
        compiled programs.

    Raises from `run`:
      What `see` has raised, when the samples are made; `Stopped` at once.
    """
    config = trained.config
    program = jit_live(trained) if program is None else program
    states = len(trained.method.costs(config.sample, config.data.length))

    def run(arguments, see):
        with _one_program_at_a_time(trained.mesh), _listening(see, states) as (ticket, listener):
            try:
                return jax.block_until_ready(program(*arguments, ticket))
            except jax.errors.JaxRuntimeError:
                if isinstance(listener.error, Stopped):
                    raise listener.error from None
                raise

    return run


_on_several_devices = threading.Lock()


def _one_program_at_a_time(mesh):
    """Two programs that both talk between devices could wait for each other for ever."""
    return _on_several_devices if mesh.size > 1 else contextlib.nullcontext()
