"""Counts the parameters of a model, with and without its tables of the vocabulary."""

import re

from flax import traverse_util

# Paths of parameters with one row or column for each token: tables of embeddings, and heads.
VOCABULARY = re.compile(r"(^|/)(token_table|unembed)(/|$)")


def parameter_counts(params):
    """The numbers of parameters.

    Args:
      params: tree of parameters; the leaves have a size.

    Returns:
      (all, those without tables of embeddings and heads over the vocabulary).
    """
    sizes = {name: leaf.size for name, leaf in traverse_util.flatten_dict(params, sep="/").items()}
    inside = sum(size for name, size in sizes.items() if not VOCABULARY.search(name))
    return sum(sizes.values()), inside
