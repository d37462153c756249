"""Errors of the tokenizer libraries, told in one line."""

import contextlib

from elf_jax.core.errors import UserError

NOT_ITS_OWN = (KeyboardInterrupt, SystemExit, MemoryError)  # not from damage or from a text


@contextlib.contextmanager
def told(fault, remedy):
    """Turns every error in the block into a `UserError`.

    The libraries raise exceptions of every type for damaged files, and Exception itself for a text
    that has no tokens. What comes from a panic in Rust (PanicException) is not even an Exception.

    Args:
      fault, remedy: the message is "FAULT (the error): REMEDY".
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, NOT_ITS_OWN):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise UserError(f"{fault} ({reason}): {remedy}") from error


def encoding():
    """`told` for a text that a tokenizer cannot turn into tokens."""
    remedy = "set config.data.tokenizer to one that has a token for unknown characters"
    return told("the tokenizer fails on this text", remedy)
