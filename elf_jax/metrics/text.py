"""Numbers about texts: membership, diversity, agreement with references. Text in, numbers out."""

import collections
import math


def unigram_entropy(rows):
    """Mean over samples of the entropy of a sample's own tokens, in nats.

    Args:
      rows: list of sequences of token ids; empty ones are left out.

    Returns:
      A float; 0 if nothing is left.
    """
    values = []
    for row in rows:
        counts = collections.Counter(int(token) for token in row).values()
        if counts:
            total = sum(counts)
            values.append(-sum(n / total * math.log(n / total) for n in counts))
    return sum(values) / max(len(values), 1)


def distinct(texts):
    """Fraction of different texts among all."""
    return len(set(texts)) / max(len(texts), 1)


def membership(texts, train, held_out):
    """How many of `texts` are whole texts of the corpus.

    Args:
      texts: list of strings. train, held_out: collections of strings.

    Returns:
      Dict of fractions of `texts`: valid (in either part), held_out (in the held-out part, never
      trained on).
    """
    train, held_out = set(train), set(held_out)
    count = max(len(texts), 1)
    unseen = sum(text in held_out and text not in train for text in texts)
    seen = sum(text in train for text in texts)
    return {"valid": (seen + unseen) / count, "held_out": unseen / count}


def exact_match(texts, references):
    """Fraction of texts that equal their reference."""
    same = sum(text == reference for text, reference in zip(texts, references, strict=True))
    return same / max(len(texts), 1)
