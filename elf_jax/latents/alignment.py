"""Which tokens of a target translate a token of its source: IBM Model 1.

    p(e | f_1 ... f_n) = 1/n sum_i t(e | f_i)          e a token of the target, f of the source

The table t is learned by expectation maximisation from pairs alone (Brown et al. 1993, "The
Mathematics of Statistical Machine Translation"). It knows nothing of order. The model is the same
whatever the two sides are: two languages, or a text and its summary, where a word often stands for
itself.
"""

import numpy as np
import scipy.sparse

ITERATIONS = 6  # of expectation maximisation; more change few of the large entries
MAX_LINKS = 20_000_000  # pairs of a source and a target token; each needs about 60 bytes of memory


def translations(rows, vocab_size):
    """The table t, a sparse matrix [V source, V target] float64. The entries of a row are at least
    0 and add up to 1, or there are none, where a token is in no source.

    Args:
      rows: training `Rows` of pairs. At most about MAX_LINKS pairs of tokens are counted, in rows
        that are evenly spread.
      vocab_size: V.
    """
    source, target, place = _links(rows.subset(_rows_that_fit(rows)))
    entry, link = np.unique(source * vocab_size + target, return_inverse=True)
    source, target = entry // vocab_size, entry % vocab_size
    probability = np.ones(len(entry))
    for _ in range(ITERATIONS):
        share = probability[link] / np.bincount(place, probability[link])[place]
        count = np.bincount(link, share, len(entry))
        probability = count / np.bincount(source, count, vocab_size)[source]
    return scipy.sparse.csr_matrix((probability, (source, target)), (vocab_size, vocab_size))


def mean_translation(table, translated):
    """Vectors for the tokens of sources.

    Args:
      table: [V, C], the vectors of target tokens. translated: see `translations`.

    Returns:
      [V, C] float32. The mean of the vectors that a token translates to, with the norm of the
      token's own vector, so that the latents of a source are as large as those of a target. A token
      that is in no source keeps its own vector.
    """
    mean = np.asarray(translated @ table)
    norm, own = (np.linalg.norm(one, axis=1, keepdims=True) for one in (mean, table))
    return np.where(norm > 0, mean * own / np.maximum(norm, 1e-9), table).astype(np.float32)


def _rows_that_fit(rows):
    targets = rows.valid_length - rows.cond_length
    links = (rows.cond_length.astype(np.int64) * targets).sum()
    return int(len(rows) * min(1.0, MAX_LINKS / max(links, 1)))


def _links(rows):
    """All pairs of a source and a target token of the same row: (source, target, place), int64.
    Pairs with the same target token of the same row have the same place.
    """
    sources, targets, places, count = [], [], [], 0
    for tokens, start, end in zip(rows.tokens, rows.cond_length, rows.valid_length, strict=True):
        source, target = tokens[:start], tokens[start:end]
        sources.append(np.tile(source, len(target)))
        targets.append(np.repeat(target, len(source)))
        places.append(np.repeat(np.arange(count, count + len(target)), len(source)))
        count += len(target)
    return tuple(np.concatenate(parts).astype(np.int64) for parts in (sources, targets, places))
