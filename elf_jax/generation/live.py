"""Sampling that tells of each state while the compiled loop runs.

The compiled program calls back. It is told whom to call by a ticket, which is an argument of it. So
one program serves several callers at the same time, and nobody sees the states of another one.

    run = live_run(trained)                       # compiles once for each shape
    tokens = run(arguments, see)                  # see(state) is called for every state, in order

`arguments` are those of `Method.sampler`: params, frozen, ids, given, key, scales; or those of
`Method.rewriter`. `see` gets a `Seen` of NumPy arrays. It is called from a thread of the runtime,
and sampling waits for it.
"""

import contextlib
import itertools
import logging
import threading

import jax
import numpy as np

from elf_jax.generation.generate import compiled
from elf_jax.generation.rewrite import rewriter

_log = logging.getLogger("jax._src.debugging")  # it prints the traceback of every error
WAIT = 60.0  # seconds for states that are still on their way when the samples are there
ORDER = 2**31  # tickets are int32


class Stopped(Exception):
    """Raised by `see` to stop the program in the middle. `run` raises it too."""


_log.addFilter(lambda record: not (record.exc_info and record.exc_info[0] is Stopped))


class Listener:
    """One caller, who gets `count` states in order. Another order of arrival is put right.

    Args:
      check: called when the program goes on and there is no state to see; it may raise `Stopped`.
    """

    def __init__(self, see, count, check=lambda: None):
        self.error, self._see, self._count, self._check = None, see, count, check
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

    def feel(self):
        """Hears that the program goes on."""
        try:
            self._check()
        except Stopped as error:
            self.error = error
            raise

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


def _beat(ticket):
    """As `_deliver`, for a program that only goes on."""
    listener = _listeners.get(int(ticket))
    if listener is not None:
        listener.feel()


@contextlib.contextmanager
def _listening(*listener):
    """Yields (a ticket for a run, its `Listener`, with these arguments). At the end all states were
    seen.
    """
    number, listener = next(_tickets) % ORDER, Listener(*listener)
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
    return _jit_with_ticket(
        trained, lambda watch, beat: method.sampler(config.sample, config.data.length, watch)
    )


def jit_live_rewriter(trained):
    """`rewrite.rewriter`, jitted, as `jit_live`."""
    return _jit_with_ticket(trained, lambda watch, beat: rewriter(trained, watch, beat))


def _jit_with_ticket(trained, make):
    """See `jit_live`.

    Args:
      make: function of (watch, another one for states that nobody sees) to a function of the
        arguments without the ticket, which returns (tokens, what `watch` has returned).
    """

    def run(*arguments):
        *arguments, ticket = arguments

        def watch(seen):
            jax.debug.callback(_deliver, ticket, seen)

        def beat(seen):
            jax.debug.callback(_beat, ticket)

        return make(watch, beat)(*arguments)[0]

    return compiled(trained, run)


def live_run(trained, program=None, check=lambda: None):
    """The function run(arguments, see) -> tokens [B, L], see the module. Several threads may use it
    at the same time.

    Args:
      trained: a `TrainedModel`, whose settings count.
      program: what to call in place of a new `jit_live`, with its arguments: for a caller who keeps
        compiled programs, and a `jit_live_rewriter` to rewrite.
      check: called now and then before the first state; it may raise `Stopped`.

    Raises from `run`:
      What `see` has raised, when the samples are made; `Stopped` at once.
    """
    config = trained.config
    program = jit_live(trained) if program is None else program
    states = len(trained.method.costs(config.sample, config.data.length))

    def run(arguments, see):
        place = _listening(see, states, check)
        with _one_program_at_a_time(trained.mesh), place as (ticket, listener):
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
