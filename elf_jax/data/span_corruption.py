"""Span corruption, T5's pretraining task (arXiv 1910.10683, section 3.1.4), on NumPy batches.

    text     the cat sat on the old mat .
    input    the <0> on the <1> .              every hidden span is replaced by one sentinel
    target   <0> cat sat <1> old mat EOS       the hidden tokens, each span after its sentinel

Of n tokens, round(n density) are hidden, in round(hidden / mean span) spans that never touch. All
ways to place the spans are equally likely, also at the beginning and the end of the text. (The
original always hides the last token and never the first; here it would always hide EOS.)
B rows, L positions, S spans of a full row.
"""

import numpy as np


def span_counts(valid_length, density, mean_span):
    """How much of texts of a given length is hidden. In texts below two tokens nothing is hidden.

    Args:
      valid_length: [B] integers, tokens of each text.
      density: share of the tokens that is hidden, between 0 and 1.
      mean_span: mean number of tokens in a span, 1 or more.

    Returns:
      (hidden, spans), both [B] integers: the numbers of hidden tokens and of spans.
    """
    n = np.asarray(valid_length, np.int64)
    hidden = np.clip(np.floor(n * density + 0.5).astype(np.int64), 1, np.maximum(n - 1, 1))
    hidden = np.where(n < 2, 0, hidden)
    spans = np.maximum(np.floor(hidden / mean_span + 0.5).astype(np.int64), 1)
    # At least one token stays between two spans.
    return hidden, np.minimum(spans, np.minimum(hidden, n - hidden + 1))


def corrupted_shapes(length, density, mean_span):
    """(input length, target length, S): the smallest for rows of up to `length` tokens.

    Args:
      length: L. density, mean_span: see `span_counts`.
    """
    n = np.arange(length + 1)
    hidden, spans = span_counts(n, density, mean_span)
    return int(max(n - hidden + spans)), int(max(hidden + spans)) + 1, int(max(spans))


def draws(seed, name, step, batch_size, length):
    """The random numbers for the spans of a batch: [B, 2, L + 2] uniforms.

    They depend only on seed, name (of the stream) and step.
    """
    entropy = [seed, *name.encode(), step]
    return np.random.default_rng(entropy).random((batch_size, 2, length + 2), np.float32)


def hide(uniforms, valid_length, density, mean_span):
    """Which tokens are hidden: [B, L] bool.

    Args:
      uniforms: [B, 2, L + 2], see `draws`.
      valid_length: [B] integers, tokens of each row; they come first.
      density, mean_span: see `span_counts`.
    """
    hidden, spans = span_counts(valid_length, density, mean_span)
    row, length = np.arange(len(hidden)), uniforms.shape[2] - 2
    hidden_lengths = _split(uniforms[:, 0], hidden, spans)
    # The text before the first span and after the last may be empty, but `_split` makes positive
    # lengths: so one token more is shared out to each of these two parts, and taken away again.
    shown_lengths = _split(uniforms[:, 1], valid_length - hidden + 2, spans + 1)
    shown_lengths[:, 0] -= 1
    shown_lengths[row, spans] -= 1
    width = max(spans) + 1
    lengths = np.stack([shown_lengths[:, :width], hidden_lengths[:, :width]], axis=2)
    ends = np.cumsum(lengths.reshape(len(row), -1), axis=1)
    # The text alternates between shown and hidden parts; every end of a part is a change.
    flips = np.zeros((len(row), length + 1), np.int64)
    np.add.at(flips, (row[:, None], ends), 1)
    odd = np.cumsum(flips[:, :length], axis=1) % 2 == 1
    return odd & (np.arange(length) < valid_length[:, None])


def _split(uniforms, total, parts):
    """[B, W] integers: row b splits total[b] into parts[b] positive lengths; all ways are equally
    likely.
    """
    row, position = np.arange(len(total))[:, None], np.arange(uniforms.shape[1])
    inside = position < total[:, None]
    # A part begins at position 0, the others at the positions with the smallest numbers.
    keys = np.where(inside & (position > 0), uniforms, np.inf)
    order = np.argsort(keys, axis=1, kind="stable")
    begins = np.zeros(keys.shape, bool)
    np.put_along_axis(begins, order, position < parts[:, None] - 1, axis=1)
    part = np.cumsum(begins, axis=1)
    lengths = np.zeros(keys.shape, np.int64)
    np.add.at(lengths, (row, part), inside)
    return lengths


def corrupt(fields, uniforms, sentinels, eos_id, pad_id, density, mean_span):
    """Turns a batch of text into a batch of the pretraining task. Its shapes are fixed.

    Args:
      fields: of a `Batch`, a dict of numpy arrays; valid positions come first in every row.
      uniforms: [B, 2, L + 2], see `draws`.
      sentinels: [S] ids. eos_id: id that ends a target. pad_id: id that fills the rest of a row.
      density, mean_span: see `span_counts`.

    Returns:
      Dict of inputs (int32), inputs_cond, inputs_valid (bool), all [B, input length], and targets
      (int32), targets_valid (bool), both [B, target length]; see `corrupted_shapes`. A sentinel
      belongs to the condition if its span begins there.
    """
    tokens, valid = fields["tokens"], fields["is_valid"]
    input_length, target_length, _ = corrupted_shapes(tokens.shape[1], density, mean_span)
    hidden = hide(uniforms, valid.sum(axis=1), density, mean_span)
    first = hidden & ~np.pad(hidden, ((0, 0), (1, 0)))[:, :-1]
    span = np.cumsum(first, axis=1) - 1
    marks = np.asarray(sentinels)[np.maximum(span, 0)]

    shown = valid & (~hidden | first)
    place = np.cumsum(shown, axis=1) - 1
    row, column = np.nonzero(shown)
    shape = len(tokens), input_length
    inputs, inputs_cond = np.full(shape, pad_id, np.int32), np.zeros(shape, bool)
    inputs[row, place[shown]] = np.where(first, marks, tokens)[row, column]
    inputs_cond[row, place[shown]] = fields["is_cond"][row, column]

    targets = np.full((len(tokens), target_length), pad_id, np.int32)
    place = np.cumsum(hidden, axis=1) + span
    targets[np.nonzero(hidden)[0], place[hidden]] = tokens[hidden]
    targets[np.nonzero(first)[0], place[first] - 1] = marks[first]
    end = hidden.sum(axis=1) + first.sum(axis=1)
    targets[np.arange(len(tokens)), end] = eos_id
    return {
        "inputs": inputs,
        "inputs_cond": inputs_cond,
        "inputs_valid": np.arange(input_length) < shown.sum(axis=1)[:, None],
        "targets": targets,
        "targets_valid": np.arange(target_length) <= end[:, None],
    }
