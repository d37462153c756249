"""Metrics of texts: membership in a corpus, diversity, equality with references."""

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


def seq_rep(rows, n=4):
    """seq-rep-n, the repeated part of a sample's n-grams, as the mean over samples.

    Of one sample it is 1 - different n-grams / all n-grams (Welleck et al. 2019, arXiv 1908.04319,
    section 6.1).

    Args:
      rows: list of sequences of token ids; those shorter than n are left out.

    Returns:
      A float in [0, 1), 0 where nothing repeats; 0 if nothing is left.
    """
    values = []
    for row in rows:
        grams = _ngrams(row, n)
        if grams:
            values.append(1 - len(set(grams)) / len(grams))
    return sum(values) / max(len(values), 1)


def repeated(rows):
    """The share of tokens that equal the token just before them, over all samples together.

    Args:
      rows: list of sequences of token ids.

    Returns:
      A float in [0, 1]; 0 if no sample has two tokens.
    """
    pairs = [pair for row in rows for pair in _ngrams(row, 2)]
    return sum(before == after for before, after in pairs) / max(len(pairs), 1)


def distinct_ngrams(rows, n):
    """distinct-n, the different n-grams of all samples together / all their n-grams.

    Source: Li et al. 2016, arXiv 1510.03055, section 5. It falls with the amount of text: compare
    equal amounts.

    Args:
      rows: list of sequences of token ids. n: length of an n-gram.

    Returns:
      A float in [0, 1]; 0 if there is no n-gram.
    """
    different, count = set(), 0
    for row in rows:
        grams = _ngrams(row, n)
        different.update(grams)
        count += len(grams)
    return len(different) / max(count, 1)


def diversity(rows, orders=(1, 2, 3, 4)):
    """Metrics of diversity. Show them with every perplexity: repetitive text has a low one.

    Args:
      rows: list of sequences of token ids. orders: the n of distinct-n.

    Returns:
      Dict of entropy (unigram, nats, per sample), seq_rep_4 and distinct_N for each N in orders.
    """
    numbers = {"entropy": unigram_entropy(rows), "seq_rep_4": seq_rep(rows)}
    return numbers | {f"distinct_{n}": distinct_ngrams(rows, n) for n in orders}


def _ngrams(row, n):
    ids = [int(token) for token in row]
    return list(zip(*(ids[start:] for start in range(n)), strict=False))


def distinct(texts):
    """Fraction of different texts among all."""
    return len(set(texts)) / max(len(texts), 1)


def membership(texts, train, held_out):
    """The part of `texts` that are whole texts of the corpus.

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
