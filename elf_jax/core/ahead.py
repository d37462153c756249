"""A program that is compiled while other things are made.

The compiler works outside of Python. So the first state of a training is made while its step is
compiled, and weights are read while the sampler is.
"""

import contextlib
import threading

from elf_jax.core import processes

IN_BACKGROUND = True  # False: programs are compiled by their first call


def compiled_ahead(function, *arguments):
    """Begins to compile a jitted function for arguments like these.

    Args:
      function: jitted. arguments: arrays, or ShapeDtypeStructs with shardings.

    Returns:
      The same function. Its first call waits for the compilation. What fails in the compilation
      fails in that call. In a job of several processes it is `function` itself, because all of them
      must compile their programs in one order.
    """
    if processes.count() > 1 or not IN_BACKGROUND:
        return function

    def compile():
        with contextlib.suppress(Exception):  # the first call compiles again, and raises it
            function.lower(*arguments).compile()

    thread = threading.Thread(target=compile)
    thread.start()

    def run(*args):
        thread.join()
        return function(*args)

    return run
