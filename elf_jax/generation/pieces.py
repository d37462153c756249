"""The text of tokens, split into a piece for each token.

The pieces together are exactly what `data.tokenizer.decode` gives. A character that lies in several
tokens belongs to the first of them; the others have "". So has padding. What belongs to the
character before it, such as an accent or the second half of an emoji, goes to the piece before.
"""

import itertools
import unicodedata

from elf_jax.generation import templates
from elf_jax.generation.templates import fit

BROKEN = "\ufffd"  # stands for bytes that are no whole character
JOINER = "\u200d"
SKIN_TONES = range(0x1F3FB, 0x1F400)
FLAGS = range(0x1F1E6, 0x1F200)  # two of them are a flag
OPEN = -1


class Splitter:
    """Splits texts of one tokenizer. It keeps what it has found, so that later texts are fast.

    Args:
      tokenizer: of transformers.
    """

    def __init__(self, tokenizer):
        self._context = templates.Pieces(tokenizer)
        self._pad = tokenizer.pad_token_id
        self._one = {True: {}, False: {}}  # is_first -> {token: its text}
        self._groups, self._runs = {}, {}

    def split(self, tokens, is_first=True):
        """The pieces of tokens, a list of the same length.

        Args:
          tokens: list of ids; OPEN where there is no token yet, whose piece is None. What stands
            after it is decoded as in the middle of a text.
          is_first: whether the whole text begins with these tokens. If not, a space at the
            beginning stays.
        """
        pieces = []
        for is_open, run in itertools.groupby(tokens, lambda token: token == OPEN):
            run = tuple(run)
            if is_open:
                pieces += [None] * len(run)
                continue
            key = run, is_first and not pieces
            if key not in self._runs:
                self._runs[key] = self._split(*key)
            pieces += self._runs[key]
        return pieces

    def literal(self, tokens, text, is_first):
        """The pieces of a text that is shown as it is, even if its tokens have another one; [] if
        it has no tokens.
        """
        pieces = self.split(tokens, is_first)
        whole = "".join(pieces)
        if pieces and text.startswith(whole):  # a space before a gap has no token
            return [*pieces[:-1], pieces[-1] + text[len(whole) :]]
        return [text, *[""] * (len(tokens) - 1)] if tokens else []

    def forget(self):
        """Frees the memory of whole texts. What is known of single tokens stays."""
        self._runs.clear()

    def _split(self, run, is_first):
        tokens = [token for token in run if token != self._pad]
        whole = self._decode(tokens, is_first)
        pieces = self._guess(tokens, is_first)
        if "".join(pieces) != whole:
            pieces = self._by_prefixes(tokens, whole, is_first)
        pieces = iter(_joined(pieces))
        return ["" if token == self._pad else next(pieces) for token in run]

    def _decode(self, tokens, is_first):
        return self._context.decode(tokens, is_first) if tokens else ""

    def _guess(self, tokens, is_first):
        """The pieces, if a token's text does not depend on its neighbours, except for tokens that
        are parts of characters.
        """
        self._learn(tokens, is_first)
        first, later = self._one[True], self._one[False]
        texts = [(first if is_first and not at else later)[one] for at, one in enumerate(tokens)]
        if all(text and BROKEN not in text for text in texts):
            return texts
        pieces = []
        for is_part, group in itertools.groupby(
            range(len(tokens)), lambda at: not texts[at] or BROKEN in texts[at]
        ):
            group = list(group)
            if not is_part or len(group) == 1:
                pieces += [texts[at] for at in group]
                continue
            key = tuple(tokens[at] for at in group), is_first and group[0] == 0
            if key not in self._groups:
                self._groups[key] = self._by_prefixes(*(key[0], self._decode(*key), key[1]))
            pieces += self._groups[key]
        return pieces

    def _learn(self, tokens, is_first):
        """Decodes the tokens that are new, each alone."""
        for place, ids in ((True, tokens[:1] if is_first else []), (False, set(tokens))):
            known = self._one[place]
            for one in ids:
                if one not in known:
                    known[one] = self._decode([one], place)

    def _by_prefixes(self, tokens, whole, is_first):
        """The pieces from the lengths of the texts of all prefixes."""
        ends, end = [0], 0
        for count in range(1, len(tokens)):
            end = max(end, min(len(self._decode(list(tokens[:count]), is_first)), len(whole)))
            ends.append(end)
        ends.append(len(whole))
        return [whole[start:end] for start, end in itertools.pairwise(ends)][: len(tokens)]


def _joined(pieces):
    """The pieces, where characters that go on with the one before are in the piece before."""
    if all(piece.isascii() for piece in pieces):
        return pieces
    joined, last, text = list(pieces), None, ""
    for at, piece in enumerate(pieces):
        if last is not None and not piece.isascii():
            count = 0
            while count < len(piece) and _goes_on(text, piece[count]):
                text += piece[count]
                count += 1
            joined[last], joined[at] = joined[last] + piece[:count], piece[count:]
            piece = piece[count:]
        text += piece
        last = at if joined[at] else last
    return joined


def _goes_on(before, char):
    """Whether a character is drawn together with the end of the text before it."""
    if not before or before[-1].isspace():
        return False
    if char == JOINER or unicodedata.category(char) in ("Mn", "Me", "Mc"):
        return True
    if ord(char) in SKIN_TONES:
        return True
    if before[-1] == JOINER:
        return True
    flags = itertools.takewhile(lambda one: ord(one) in FLAGS, reversed(before))
    return ord(char) in FLAGS and len(list(flags)) % 2 == 1


class FilledTemplate:
    """The pieces of a template whose gaps get tokens. The text outside of the gaps stays as it is.

    Args:
      splitter: a `Splitter`. template: a `Template` with n gaps.
      literals: n + 1 lists of tokens. gaps: n slices of positions, between the literals.
      eos: id of the token that ends a gap.
    """

    def __init__(self, splitter, template, literals, gaps, eos):
        self._splitter, self._template, self._gaps, self._eos = splitter, template, gaps, eos
        self._literals = [
            splitter.literal(tokens, text, index == 0)
            for index, (tokens, text) in enumerate(zip(literals, template.literals, strict=True))
        ]

    def split(self, tokens):
        """The pieces of the first positions of a row, as `Splitter.split`.

        Text that has no tokens belongs to the piece after it, or before it.
        """
        pieces, loose = [], []
        for index, known in enumerate(self._literals):
            pieces += known
            if not known and self._template.literals[index]:
                loose.append((len(pieces), self._template.literals[index]))
            if index < len(self._gaps):
                pieces += self._gap_pieces(tokens[self._gaps[index]], index)
        pieces = pieces[: len(tokens)]
        for place, text in loose:
            if place < len(pieces) and pieces[place] is not None:
                pieces[place] = text + pieces[place]
            elif place > 0 and pieces[place - 1] is not None:
                pieces[place - 1] += text
        return pieces

    def _gap_pieces(self, tokens, index):
        end = tokens.index(self._eos) if self._eos in tokens else len(tokens)
        is_first = index == 0 and not self._template.literals[0]
        pieces = self._splitter.split(tokens[:end], is_first)
        text = "".join(piece for piece in pieces if piece is not None)
        fitted = fit(text, *self._template.borders(index))
        spaces = len(text) - len(text.lstrip())
        start = spaces if text[spaces:].startswith(fitted) else 0
        return _cut_out(pieces, start, start + len(fitted)) + [""] * (len(tokens) - end)


def _cut_out(pieces, start, end):
    """The pieces with only the characters from `start` to `end` of their text."""
    kept, at = [], 0
    for piece in pieces:
        kept.append(None if piece is None else piece[max(start - at, 0) : max(end - at, 0)])
        at += len(piece or "")
    return kept
