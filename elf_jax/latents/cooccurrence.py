"""A token embedding from co-occurrences in the training data: no pretrained model is needed.

It counts which tokens stand near each other, turns the counts into positive pointwise mutual
information, and factorises that matrix (Levy and Goldberg 2014, "Neural Word Embedding as Implicit
Matrix Factorization"). Tokens that are used alike get similar vectors. A denoiser predicts the mean
of many candidate tokens under noise; with such vectors this mean is a simple function of the
context.
"""

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from elf_jax.core.errors import UserError

OFFSETS = (-2, -1, 1, 2)  # positions of the neighbours; each is counted apart
MAX_POSITIONS = 20_000_000  # that are counted; each needs about 100 bytes of memory
SMOOTHING = 0.75  # power of a context's frequency; below 1, rare contexts weigh less


def cooccurrence_embedding(rows, vocab_size, dimensions):
    """A vector for every token.

    Args:
      rows: training `Rows`; at most MAX_POSITIONS of their positions are counted, without padding.
      vocab_size: V.
      dimensions: channels, fewer than V.

    Returns:
      [V, dimensions] float32; each channel has mean 0 and variance 1 over the tokens in use. The
      same rows give the same vectors.

    Raises:
      UserError: the vocabulary is too small for so many channels.
    """
    if dimensions >= vocab_size:
        raise UserError(
            f"a vocabulary of {vocab_size} tokens has no {dimensions} co-occurrence channels: "
            "lower config.encoder.width or structured, or set config.encoder.kind=gaussian"
        )
    rows = rows.subset(MAX_POSITIONS // rows.length)
    information = _positive_information(_counts(rows, vocab_size))
    # The iteration starts from a fixed vector, so that its result, signs included, is always the
    # same.
    start = np.full(vocab_size, vocab_size**-0.5)
    vectors, values, _ = scipy.sparse.linalg.svds(information, k=dimensions, v0=start)
    embedding = vectors * np.sqrt(values)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True) + 1e-6
    # A token weighs as much as the square root of its count, so that neither the few frequent
    # tokens nor the many rare ones decide alone.
    weight = np.sqrt(np.bincount(rows.tokens.ravel(), minlength=vocab_size))[:, None]
    weight = weight / weight.sum()
    embedding = embedding - (weight * embedding).sum(0)
    deviation = np.sqrt((weight * embedding**2).sum(0))
    return (embedding / (deviation + 1e-6)).astype(np.float32)


def _counts(rows, vocab_size):
    """Sparse [V, len(OFFSETS) V]: how often a token has another one at each of the offsets."""
    length = rows.tokens.shape[1]
    valid = np.arange(length) < rows.valid_length[:, None]
    tokens, contexts = [], []
    for index, offset in enumerate(OFFSETS):
        here = slice(max(0, -offset), length - max(0, offset))
        there = slice(max(0, offset), length - max(0, -offset))
        both = valid[:, here] & valid[:, there]
        tokens.append(rows.tokens[:, here][both])
        contexts.append(rows.tokens[:, there][both] + index * vocab_size)
    tokens, contexts = np.concatenate(tokens), np.concatenate(contexts)
    shape = vocab_size, len(OFFSETS) * vocab_size
    return scipy.sparse.csr_matrix((np.ones(len(tokens)), (tokens, contexts)), shape=shape)


def _positive_information(counts):
    """max(0, log p(token, context) / (p(token) p(context))), sparse like `counts`."""
    total = counts.sum()
    token = np.asarray(counts.sum(axis=1)).ravel() + 1e-9
    context = (np.asarray(counts.sum(axis=0)).ravel() + 1e-9) ** SMOOTHING
    context *= total / context.sum()
    pairs = counts.tocoo()
    information = np.log(pairs.data * total / (token[pairs.row] * context[pairs.col]))
    kept = information > 0
    entries = information[kept], (pairs.row[kept], pairs.col[kept])
    return scipy.sparse.csr_matrix(entries, shape=counts.shape)
