"""The split into training and validation: a fixed hash of the text decides.

A text is on the same side in every run and on every machine. Of a pair the source decides, so that
no source is on both sides. A document of plain text is cut into blocks, and each block is on one
side.
"""

import hashlib
import itertools
import re

from elf_jax.data.cutting import cut

TRAIN, VALIDATION = "train", "validation"  # the two sides; the second is held out
BLOCK = 1000  # characters, at least, in every block of a document but the last


def split_example(settings, example):
    """Cuts an example into parts that are each on one side.

    Neighbouring blocks on the same side are joined again. So an EOS stands at the end of a document
    or where a block was taken out, never between two paragraphs that belong together.

    Args:
      settings: config section `data`. example: an `examples.Example`.

    Yields:
      (whether the part is held out, the part as an `Example`), in the order of the text.
    """

    def held_out(piece):
        key = piece.text if piece.source is None else piece.source
        return is_held_out(key.encode(), settings.validation_fraction)

    for out, pieces in itertools.groupby(_pieces(settings, example), held_out):
        pieces = list(pieces)
        joined = "".join(piece.text for piece in pieces)
        yield out, pieces[0] if len(pieces) == 1 else example._replace(text=joined)


def is_held_out(key, fraction):
    """Whether the bytes `key`, of a text or of token ids, belong to the held-out `fraction`."""
    digest = hashlib.sha256(key).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def _pieces(settings, example):
    """The smallest pieces that are on one side: blocks of plain text, otherwise the example."""
    if settings.kind != "text" or settings.packing == "rows":  # then the example is a block already
        return [example]
    blocks = split_blocks(example.text, settings.longest_block)
    return [example._replace(text=block) for block in blocks]


def split_blocks(text, longest):
    """Cuts a document into blocks of at least BLOCK characters (the last one may be shorter).

    Blocks end at blank lines; in a document without blank lines they end at line ends. A block that
    would have more than `longest` characters, such as a whole corpus in one line, is cut at the
    best ends that are in it, see `cutting.cut`. All blocks joined are the document.

    Args:
      text: the document. longest: characters, config.data.longest_block; 0: no block is cut.

    Returns:
      List of strings.
    """
    pieces = re.split(r"(?<=\n\n)(?=[^\n])", text)
    if len(pieces) == 1:
        pieces = text.splitlines(keepends=True)
    blocks, current, size = [], [], 0
    for piece in pieces:
        current.append(piece)
        size += len(piece)
        if size >= BLOCK:
            blocks += _bounded("".join(current), longest)
            current, size = [], 0
    if current:
        blocks.append("".join(current))
    return blocks


def _bounded(block, longest):
    return cut(block, BLOCK, longest) if 0 < longest < len(block) else [block]
