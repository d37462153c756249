"""Reads files whose lines may be longer than memory: a long line comes in parts."""

from elf_jax.core.errors import UserError
from elf_jax.data.cutting import last_cut
from elf_jax.data.opening import open_bytes

SEARCHED = 1 << 14  # bytes, at most, at the end of a part, in which it is cut


def read_parts(file, size):
    """Yields the lines of a file as bytes, decompressed, each with its line end.

    A line of more than 2 * size bytes comes in parts of at most that many bytes, most of them of
    about `size`. They end at a sentence, a space or at least a character, never within one.

    Args:
      size: bytes; not smaller than a character.

    Raises:
      UserError: the file is empty or cannot be read.
    """
    rest, empty = b"", True
    with open_bytes(file) as opened:
        while data := rest + opened.readline(2 * size - len(rest)):
            is_long = len(data) == 2 * size and not data.endswith(b"\n")
            place = _place(data[:size]) if is_long else len(data)
            yield data[:place]
            rest, empty = data[place:], False
    if empty:
        raise UserError(f"{file} is empty: remove it from the config, or fill it")


def _place(data):
    """The number of bytes before the best place to cut `data`, which is the start of a line."""
    searched = max(len(data) - SEARCHED, 0)
    # Bytes that are no character, such as half a one at either end, become lone surrogates. They
    # are kept with what is before them.
    text = data[searched:].decode("utf-8", "surrogateescape")
    place = last_cut(text)
    return len(data) - len(text[place:].encode("utf-8", "surrogateescape"))
