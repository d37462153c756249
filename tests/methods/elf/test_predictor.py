"""Logits computed in parts give the same losses, gradients and tokens as all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from elf_jax.networks import vocabulary


@pytest.fixture(scope="module")
def hidden():
    return jax.random.normal(jax.random.key(0), (3, 16, 48))


@pytest.fixture(scope="module")
def tokens():
    return jax.random.randint(jax.random.key(1), (3, 16), 0, 64)


def losses(golden_predictor, params, hidden, tokens):
    def total(params, hidden):
        nll, right = golden_predictor.token_losses(params, hidden, tokens)
        return jnp.sum(nll * jnp.arange(16)), (nll, right)

    run = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
    (_, aux), grads = run(params, hidden)
    return *aux, golden_predictor.likeliest(params, hidden), *jax.tree.leaves(grads)


@pytest.mark.parametrize("positions", [3, 5])
def test_parts_equal_the_whole(
    positions, golden_predictor, golden_params, hidden, tokens, monkeypatch
):
    """16 positions, in parts of 3 or 5, which do not divide 16."""
    whole = losses(golden_predictor, golden_params, hidden, tokens)
    monkeypatch.setattr(vocabulary, "LOGIT_BYTES", positions * 3 * 64 * 4)
    calls = []
    head = golden_predictor.__class__.logit_head

    def counted(self, params, part):
        calls.append(part.shape)
        return head(self, params, part)

    monkeypatch.setattr(golden_predictor.__class__, "logit_head", counted)
    for one, two in zip(
        whole, losses(golden_predictor, golden_params, hidden, tokens), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=2e-5, atol=1e-5)
    assert calls and max(shape[1] for shape in calls) <= positions  # never all 16 at once


def test_losses_are_cross_entropy(golden_predictor, golden_params, hidden, tokens):
    nll, right = golden_predictor.token_losses(golden_params, hidden, tokens)
    logits = golden_predictor.logit_head(golden_params, hidden)
    theirs = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
    np.testing.assert_allclose(nll, theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(right, jnp.argmax(logits, -1) == tokens)
    best = golden_predictor.likeliest(golden_params, hidden)
    np.testing.assert_array_equal(best, jnp.argmax(logits, -1))
