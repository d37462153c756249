"""Cuts long text where it does least harm.

That is at a blank line, a line end, a sentence end, a space, or at last between two characters. A
letter and its accents, or the parts of an emoji, are not cut apart.
"""

import re
import unicodedata

# What a cut may follow, the best first. All ends that `str.splitlines` knows are line ends.
_BLANK = re.compile(r"\n{2,}")
_LINE = re.compile(r"\r\n?|[\n\v\f\x1c-\x1e\x85\u2028\u2029]")
# With a space after it ("e.g." has none inside), or in a script that writes none between sentences.
_SENTENCE = re.compile(
    r"[.!?\u2026\u061f\u06d4][\"')\]\u00bb\u2019\u201d]*\s+"
    r"|[\u3002\uff01\uff1f\uff0e\uff61\u0964\u0965\u104b\u1362\u17d4][\"')\u300b\u300d\u300f\u2019\u201d\uff09]*\s*"
)
_SPACE = re.compile(r"\s+")
ENDS = (_BLANK, _LINE, _SENTENCE, _SPACE)

# Characters of one kind in a row. Tokenizers that split text into words never split more finely.
_RUN = re.compile(r"[^\W\d_]+|\d+|[^\w\s]+|\s+")

JOINER = "\u200d"  # joins the character after it to the one before it
_MARKS = ("Mn", "Mc", "Me", "Cs")  # categories of what belongs to the character before it
_MODIFIERS = range(0x1F3FB, 0x1F400)  # skin tones


def cut(text, least, most):
    """Cuts a text into pieces of `least` to `most` characters. All pieces joined are the text.

    Every piece ends at the best kind of end that it can have, and at the first one of that kind.

    Args:
      text: a text shorter than 2 * least stays whole.

    Returns:
      List of strings.
    """
    pieces, start = [], 0
    following = dict.fromkeys(ENDS, 0)  # kind of end -> place of the next one, None without any
    while len(text) - start >= 2 * least:
        first, last = start + least, min(start + most, len(text) - least)
        end = _first_end(text, first, last, following)
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]


def _first_end(text, first, last, following):
    """The place to cut between `first` and `last`. Keeps in `following` what it has found."""
    for kind in ENDS:
        if following[kind] is not None and following[kind] < first:
            found = kind.search(text, first)
            following[kind] = found and found.end()
        if following[kind] is not None and following[kind] <= last:
            return following[kind]
    return next((place for place in range(first, last) if not _parts(text, place)), first)


def last_cut(text, first=0):
    """The best place to cut a text in two, as near to its end as that kind of end comes.

    Args:
      first: the cut is after this place. text: its last character is not cut off alone.

    Returns:
      The number of characters before the cut; len(text) if there is no place at all.
    """
    for kind in ENDS:
        places = [found.end() for found in kind.finditer(text, first)]
        # What ends here may go on after the text: a second newline, or the \n of \r\n.
        places = [place for place in places if place < len(text)]
        if places:
            return places[-1]
    places = range(len(text) - 1, first, -1)
    return next((place for place in places if not _parts(text, place)), len(text))


def cut_runs(text, most):
    """Cuts a text where a run of letters, of digits, of spaces or of other characters is too long.

    A run of up to `most` characters is never cut, and none of 3/2 * most is left. A text without
    long runs is searched in little time.

    Yields:
      The pieces. All pieces joined are the text.
    """
    start = place = 0
    while place < len(text):
        run = _RUN.match(text, place)
        end = run.end() if run else place
        for cut_at in range(place + most, end, most):
            yield text[start:cut_at]
            start = cut_at
        # A run that is long enough goes on for `most` characters after one of these places.
        place = max(end, place + most) if end - place > most else place + most // 2
    yield text[start:]


def _parts(text, place):
    """Whether a cut at this place would part what is one character to the reader."""
    after = text[place]
    return (
        unicodedata.category(after) in _MARKS
        or JOINER in (text[place - 1], after)
        or ord(after) in _MODIFIERS
    )
