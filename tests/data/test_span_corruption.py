"""Span corruption: no token is lost or repeated, and the right share of tokens is hidden."""

import numpy as np
import pytest

from elf_jax.core import checks
from elf_jax.core.errors import UserError
from elf_jax.data import span_corruption

EOS, PAD = 1, 0
SENTINELS = np.arange(900, 980)


def batch(valid_length, length):
    """Rows whose token at position i of row b is 1000 (b + 1) + i."""
    valid = np.arange(length) < np.asarray(valid_length)[:, None]
    tokens = 1000 * (np.arange(len(valid)) + 1)[:, None] + np.arange(length)
    tokens = np.where(valid, tokens, PAD).astype(np.int32)
    return {"tokens": tokens, "is_valid": valid, "is_cond": valid & (np.arange(length) < 3)}


def corrupt(fields, density=0.15, mean_span=3.0, step=0, seed=0):
    uniforms = span_corruption.draws(seed, "train", step, *fields["tokens"].shape)
    return span_corruption.corrupt(fields, uniforms, SENTINELS, EOS, PAD, density, mean_span)


def merged(inputs, targets):
    """The text: every sentinel of the input replaced by what follows it in the target."""
    assert targets[-1] == EOS
    hidden, current = {}, None
    for token in targets[:-1]:
        if token in SENTINELS:
            current = hidden.setdefault(token, [])
        else:
            current.append(token)
    # Sentinels are used in order, and each replaces at least one token.
    assert list(hidden) == list(SENTINELS[: len(hidden)]) and all(hidden.values())
    assert [token for token in inputs if token in SENTINELS] == list(hidden)
    return [piece for token in inputs for piece in hidden.get(token, [token])]


@pytest.mark.parametrize("density, mean_span", [(0.15, 3.0), (0.5, 1.0), (0.9, 8.0), (0.15, 20.0)])
def test_input_and_target_together_are_the_text(density, mean_span):
    lengths = np.append(np.random.default_rng(0).integers(0, 65, 60), [0, 1, 2, 3, 64])
    fields = batch(lengths, 64)
    made = corrupt(fields, density, mean_span)
    *shape, _ = span_corruption.corrupted_shapes(64, density, mean_span)
    assert [made["inputs"].shape[1], made["targets"].shape[1]] == shape
    for row, length in enumerate(lengths):
        inputs = made["inputs"][row][made["inputs_valid"][row]]
        targets = made["targets"][row][made["targets_valid"][row]]
        assert merged(inputs, targets) == list(fields["tokens"][row, :length])
        assert np.all(made["inputs"][row, len(inputs) :] == PAD)
        # Tokens of the condition are still marked as condition. Sentinels are not checked here.
        text = np.isin(inputs, SENTINELS, invert=True)
        np.testing.assert_array_equal(
            made["inputs_cond"][row, : len(inputs)][text], inputs[text] % 1000 < 3
        )


def test_as_much_is_hidden_as_asked_and_in_such_spans():
    fields = batch(np.full(200, 100), 100)
    uniforms = span_corruption.draws(0, "train", 0, 200, 100)
    hidden = span_corruption.hide(uniforms, np.full(200, 100), 0.15, 3.0)
    np.testing.assert_array_equal(hidden.sum(1), 15)
    first = hidden & ~np.pad(hidden, ((0, 0), (1, 0)))[:, :-1]
    np.testing.assert_array_equal(first.sum(1), 5)  # five spans, three tokens on average
    # Spans have different lengths. Positions at both ends are hidden as often as others.
    lengths = np.diff(np.nonzero(np.diff(np.pad(hidden, ((0, 0), (1, 1))).astype(int)))[1])[::2]
    assert lengths.min() == 1 and lengths.max() > 5
    share = hidden.mean(axis=0)
    assert abs(share[:5].mean() - 0.15) < 0.05 and abs(share[-5:].mean() - 0.15) < 0.05
    assert share.max() < 0.3
    assert fields["tokens"].shape == hidden.shape


def test_spans_follow_from_seed_and_step_alone():
    fields = batch(np.full(8, 40), 40)
    one, again = corrupt(fields), corrupt(fields)
    for name, array in one.items():
        np.testing.assert_array_equal(array, again[name])
    assert np.any(one["inputs"] != corrupt(fields, step=1)["inputs"])
    assert np.any(one["inputs"] != corrupt(fields, seed=1)["inputs"])


@pytest.mark.parametrize("density, mean_span", [(0.0, 3.0), (1.0, 3.0), (0.15, 0.5)])
def test_what_cannot_be_hidden(density, mean_span):
    with pytest.raises(UserError, match="config.pretrain"):
        checks.check_values({"density": density, "mean_span": mean_span}, "pretrain.")
