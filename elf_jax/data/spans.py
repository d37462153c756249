"""Span corruption, T5's pretraining task (arXiv 1910.10683, section 3.1.4), for a whole batch at
once in NumPy.

    text     the cat sat on the old mat .
    input    the <0> on the <1> .              every hidden span becomes one sentinel
    target   <0> cat sat <1> old mat EOS       what stood there, each behind its sentinel

Of n tokens round(n density) are hidden, in round(hidden / mean span) spans that never touch. All
ways to place them are equally likely, at the very beginning and end of the text too (the original
always hides the last token and never the first, and so would always hide EOS).
B rows, L positions, S spans of a full row.
"""

import numpy as np

from elf_jax.core.errors import UserError


def span_counts(valid_length, density, mean_span):
    """(hidden tokens, spans) of texts of so many tokens; texts of fewer than two hide nothing.

    Args:
      valid_length: [B] integers. density: part that is hidden. mean_span: tokens.
    """
    n = np.asarray(valid_length, np.int64)
    hidden = np.clip(np.floor(n * density + 0.5).astype(np.int64), 1, np.maximum(n - 1, 1))
    hidden = np.where(n < 2, 0, hidden)
    spans = np.maximum(np.floor(hidden / mean_span + 0.5).astype(np.int64), 1)
    # There is a token left between any two spans.
    return hidden, np.minimum(spans, np.minimum(hidden, n - hidden + 1))


def corrupted_shapes(length, density, mean_span):
    """(input length, target length, S) that every row of up to `length` tokens fits into.

    Raises:
      UserError: a density or mean span that cannot be.
    """
    if not 0 < density < 1:
        raise UserError(f"config.pretrain.density is {density}: it must be between 0 and 1")
    if mean_span < 1:
        raise UserError(f"config.pretrain.mean_span is {mean_span}: it must be 1 or more")
    n = np.arange(length + 1)
    hidden, spans = span_counts(n, density, mean_span)
    return int(max(n - hidden + spans)), int(max(hidden + spans)) + 1, int(max(spans))


def draws(seed, name, step, batch_size, length):
    """The randomness of a batch's spans, [B, 2, L + 2] uniforms from (seed, name, step) alone."""
    entropy = [seed, *name.encode(), step]
    return np.random.default_rng(entropy).random((batch_size, 2, length + 2), np.float32)


def hide(uniforms, valid_length, density, mean_span):
    """[B, L] bool, the hidden tokens.

    Args:
      uniforms: [B, 2, L + 2], see `draws`.
      valid_length: [B], tokens of each row; they come first.
    """
    hidden, spans = span_counts(valid_length, density, mean_span)
    row, length = np.arange(len(hidden)), uniforms.shape[2] - 2
    hidden_lengths = _split(uniforms[:, 0], hidden, spans)
    # The text before the first and behind the last span may be empty: one more to share, less one.
    shown_lengths = _split(uniforms[:, 1], valid_length - hidden + 2, spans + 1)
    shown_lengths[:, 0] -= 1
    shown_lengths[row, spans] -= 1
    width = max(spans) + 1
    lengths = np.stack([shown_lengths[:, :width], hidden_lengths[:, :width]], axis=2)
    ends = np.cumsum(lengths.reshape(len(row), -1), axis=1)
    # Every end that lies behind a position flips it between shown and hidden.
    flips = np.zeros((len(row), length + 1), np.int64)
    np.add.at(flips, (row[:, None], ends), 1)
    odd = np.cumsum(flips[:, :length], axis=1) % 2 == 1
    return odd & (np.arange(length) < valid_length[:, None])


def _split(uniforms, total, parts):
    """[B, W] integers: row b splits total[b] into parts[b] positive lengths, all ways alike."""
    row, position = np.arange(len(total))[:, None], np.arange(uniforms.shape[1])
    inside = position < total[:, None]
    # The parts begin at 0 and at the places with the smallest draws.
    keys = np.where(inside & (position > 0), uniforms, np.inf)
    order = np.argsort(keys, axis=1, kind="stable")
    begins = np.zeros(keys.shape, bool)
    np.put_along_axis(begins, order, position < parts[:, None] - 1, axis=1)
    part = np.cumsum(begins, axis=1)
    lengths = np.zeros(keys.shape, np.int64)
    np.add.at(lengths, (row, part), inside)
    return lengths


def corrupt(fields, uniforms, sentinels, eos_id, pad_id, density, mean_span):
    """A batch of text as a batch of the pretraining task, of fixed shape.

    Args:
      fields: of a `Batch`, numpy arrays; valid positions come first in every row.
      uniforms: [B, 2, L + 2], see `draws`.
      sentinels: [S] ids. eos_id: ends the target. pad_id: fills up.

    Returns:
      Dict of inputs, inputs_cond, inputs_valid [B, input length] and targets, targets_valid [B,
      target length]; a sentinel belongs to the condition if its span begins there.
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
