"""Generative perplexity (Gen. PPL): which tokens of a sample are scored, and how they are averaged.

The protocol (ELF, arXiv 2605.10938, following MDLM, arXiv 2406.07524): a sample is a text. The
scorer's tokenizer tokenises it again, without BOS, and it is cut at the scorer's length. The first
token is not scored. If there is room, an EOS follows the text (in the protocol, EOS is the
padding). It is scored, but nothing after it is. Empty samples are dropped. Gen. PPL is exp of the
mean negative log-likelihood of all scored tokens of all samples together, so longer samples have
more weight.
"""

import numpy as np


def scored_tokens(ids, eos_id, length):
    """The tokens of one sample that the scorer sees; all but the first of them are scored.

    Args:
      ids: sequence of token ids of the text. eos_id: of the scorer's tokenizer.
      length: the most tokens that are scored together, EOS included.

    Returns:
      int32 array of at most `length` ids, ending in the first EOS if there is one within `length`;
      empty for an empty sample.
    """
    ids = np.asarray(ids, np.int32)
    ends = np.flatnonzero(ids == eos_id)
    ids = ids[: ends[0]] if len(ends) else ids
    return np.append(ids, np.int32(eos_id))[:length] if len(ids) else ids


def perplexity(nll, tokens):
    """exp of the token-weighted mean negative log-likelihood.

    Args:
      nll: [N] sums over the scored tokens of each sample, nats. tokens: [N] how many there are.

    Returns:
      A float, or None if no token was scored.
    """
    count = int(np.sum(tokens))
    if not count:
        return None
    return float(np.exp(np.sum(np.asarray(nll, np.float64)) / count))
