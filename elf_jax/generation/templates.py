"""Templates: text with gaps.

    The ___ sat by the ___ and [[6]] until dawn.

Three underscores or more are a gap whose length is not known, and [[n]] is a gap of exactly n
tokens. A backslash before a gap makes it plain text; two backslashes before it are one backslash
and the gap. All other backslashes are plain text.

The text outside of the gaps never changes. It is tokenised only for the model, and so that the
tokens are those that the whole text would have: most tokenizers join a space to the word after it.
"""

import re
from typing import NamedTuple

from elf_jax.core.errors import UserError
from elf_jax.data.tokenizer import decode, encode

GAP = re.compile(r"(\\*)(_{3,}|\[\[([0-9]+)\]\])")
DIGITS = 9  # a number with more is too large for every model, and may be too long to read
# Text to put before a piece, so that it is tokenised as in the middle of a text.
CARRIERS = ("\n", "(", "-", "a", ".")


class Template(NamedTuple):
    """A text with n gaps.

    Attributes:
      literals: n + 1 strings, the text before, between and after the gaps.
      gaps: n numbers of tokens; None: the length is not known.
    """

    literals: tuple[str, ...]
    gaps: tuple[int | None, ...]

    def filled(self, texts):
        """The whole text, with `texts` in the gaps."""
        pairs = zip(self.literals, (*texts, ""), strict=True)
        return "".join(part for pair in pairs for part in pair)

    def borders(self, index):
        """(before, after) of a gap, as `fit` takes them."""
        before, after = self.literals[index : index + 2]
        is_last = index == len(self.gaps) - 1
        return (
            before if before or index == 0 else None,
            after if after or is_last else None,
        )


def parse(text):
    """The `Template` that a text is.

    Raises:
      UserError: a gap of 0 tokens.
    """
    literals, gaps, last, literal = [], [], 0, ""
    for match in GAP.finditer(text):
        slashes, mark, digits = match.groups()
        literal += text[last : match.start()] + slashes[: len(slashes) // 2]
        last = match.end()
        if len(slashes) % 2:
            literal += mark
            continue
        size = None if digits is None else int(digits[-DIGITS:])
        if size is not None and len(digits.lstrip("0")) > DIGITS:
            size = 10**DIGITS
        if size == 0:
            raise UserError(
                f"{mark} is a gap of 0 tokens: give it 1 or more, or write \\{mark} for the text"
            )
        literals.append(literal)
        gaps.append(size)
        literal = ""
    return Template((*literals, literal + text[last:]), tuple(gaps))


class Pieces:
    """Tokens of parts of a text, as in the whole text.

    Args:
      tokenizer: of transformers.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        before = {carrier: encode(tokenizer, [carrier])[0] for carrier in CARRIERS}
        self.before = {carrier: ids for carrier, ids in before.items() if len(ids)}
        exact = (c for c, ids in self.before.items() if decode(tokenizer, [ids])[0] == c)
        self.carrier = next(exact, next(iter(self.before), None))

    def encode(self, literal, is_first, is_last):
        """Token ids of a piece of text, an int32 array.

        Args:
          literal: the text. is_first, is_last: whether the whole text begins, or ends, with it. If
            not, there is a gap before or after it.
        """
        # The space belongs to the first word in the gap.
        text = literal if is_last else literal.removesuffix(" ")
        if not text:
            return encode(self.tokenizer, [" "])[0][:0]
        if is_first or not self.before:
            return encode(self.tokenizer, [text])[0]
        found = []
        for carrier, before in self.before.items():
            whole = encode(self.tokenizer, [carrier + text])[0]
            if whole[: len(before)].tolist() != before.tolist():
                continue  # the carrier and the beginning of the text became one token
            found.append(whole[len(before) :])
            if decode(self.tokenizer, [whole])[0] == carrier + text:
                return found[-1]
        # No carrier gives the text back: it has something that the tokenizer changes or drops.
        return found[0] if found else encode(self.tokenizer, [text])[0]

    def decode(self, tokens, is_first):
        """The text of tokens. Where the text does not begin with them, a space before them stays.

        Args:
          tokens: list of ids. is_first: whether the whole text begins with them.
        """
        plain = decode(self.tokenizer, [tokens])[0]
        if is_first or self.carrier is None:
            return plain
        before = self.before[self.carrier].tolist()
        start, whole = decode(self.tokenizer, [before, [*before, *tokens]])
        return whole.removeprefix(start) if whole.startswith(start) else plain


def without_space(tokenizer, pieces, special):
    """Ids of the tokens that do not begin with a space inside of a text, a tuple without those in
    `special`. None: the tokenizer has no tokens that begin with a space.

    Args:
      pieces: the `Pieces` of the tokenizer.
    """
    if pieces.carrier is None:
        return None
    before = pieces.before[pieces.carrier].tolist()
    ids = [one for one in range(len(tokenizer)) if one not in special]
    texts = decode(tokenizer, [[*before, one] for one in ids])
    start = decode(tokenizer, [before])[0]
    found = [one for one, text in zip(ids, texts, strict=True) if not text.startswith(start + " ")]
    return tuple(found) if len(found) < len(ids) else None


def fit(text, before, after):
    """The text of a gap without the spaces that the template has at its borders, or that would
    begin or end the whole text.

    Args:
      text: of the gap. before, after: the characters of the template on both sides, with all that
        is there; None where another gap follows at once.
    """
    if before is not None and (not before or before[-1].isspace()):
        text = text.lstrip()
    if after is not None and (not after or after[0].isspace()):
        text = text.rstrip()
    return text
