"""Metrics of text that was filled in: how much of what was hidden is found again.

N rows, L positions.
"""

import numpy as np

from elf_jax.evaluation.metrics.references import ROUGE_L, rouge


def exact(written, tokens, is_hidden):
    """How much is exactly what was hidden.

    Args:
      written, tokens: [N, L] integers, rows that were filled in, and the true ones.
      is_hidden: [N, L] bool, what was hidden: at least one position in each row.

    Returns:
      Dict of exact_tokens, the share of the hidden tokens, of all rows together, and exact_spans,
      the share of the rows in which all hidden tokens are right.
    """
    is_right = np.asarray(written) == np.asarray(tokens)
    return {
        "exact_tokens": float(np.mean(is_right[is_hidden])),
        "exact_spans": float(np.mean(np.all(is_right | ~is_hidden, axis=1))),
    }


def most_frequent(tokens, is_hidden):
    """The share of the hidden tokens that are the most frequent one of them: what exact_tokens is
    if the best single token is written everywhere.
    """
    _, counts = np.unique(np.asarray(tokens)[is_hidden], return_counts=True)
    return float(counts.max() / counts.sum())


def rouge_l(written, hidden):
    """ROUGE-L of what was written in the gaps against what was hidden: F1 with stemming, 0 to 100,
    mean over the rows.

    ROUGE reads only a-z and 0-9. Rows whose hidden text has none of these are left out.

    Args:
      written, hidden: lists of N strings.

    Returns:
      (a float, or None if no row is left; ROUGE's signature, or None).
    """
    pairs = [
        pair for pair in zip(written, hidden, strict=True) if any(map(_is_read, pair[1].lower()))
    ]
    if not pairs:
        return None, None
    found = rouge(*(list(side) for side in zip(*pairs, strict=True)), types=ROUGE_L)
    return found["rouge_l"], found["rouge_signature"]


def _is_read(character):
    return character.isascii() and character.isalnum()
