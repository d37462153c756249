"""Compiled programs, each compiled once, for visitors that come at the same time."""

import collections
import threading

import jax

MOST_PROGRAMS = 32  # that are kept; each number of steps and of texts has a program of its own


class _Entry:
    """A place for one program. `lock` is held while it is compiled."""

    def __init__(self):
        self.lock, self.program = threading.Lock(), None


class Programs:
    """A store of compiled programs. The one that was not used for the longest time goes first.

    Several threads may use it. Two programs may be compiled at the same time; one that is being
    compiled for somebody else is waited for.
    """

    def __init__(self, most=MOST_PROGRAMS):
        self._entries, self._lock = collections.OrderedDict(), threading.Lock()
        self._most = most

    def get(self, key, function, arguments, say):
        """The compiled program of a jitted function.

        Args:
          key: of the function, hashable. The shapes of the arguments are added to it.
          function: without arguments, returns the jitted function; only called to compile.
          arguments: a tuple of arrays and trees.
          say: called, without arguments, if the program is not there yet.
        """
        leaves, tree = jax.tree.flatten(arguments)
        shapes = tuple((jax.numpy.shape(leaf), jax.numpy.result_type(leaf)) for leaf in leaves)
        entry = self._entry((key, tree, shapes))
        if entry.program is None:
            say()
            with entry.lock:
                if entry.program is None:
                    entry.program = function().lower(*arguments).compile()
        return entry.program

    def _entry(self, key):
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > self._most:
                self._entries.popitem(last=False)
        return entry
