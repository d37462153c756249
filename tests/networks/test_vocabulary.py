"""Logits in parts give the same results as the logits of all positions at once."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from elf_jax.networks import vocabulary

ROWS, LENGTH, VOCAB = 3, 11, 9


def arrays():
    keys = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(keys[0], (ROWS, LENGTH, 4))
    head = jax.random.normal(keys[1], (4, VOCAB))
    return hidden, head, jax.random.randint(keys[2], (ROWS, LENGTH), 0, VOCAB)


@pytest.fixture(params=[1, 4, 100])
def positions(request, monkeypatch):
    """Positions of three rows that fit in a part: one, a number that does not divide L, or all."""
    monkeypatch.setattr(vocabulary, "LOGIT_BYTES", request.param * ROWS * VOCAB * 4)
    return request.param


def test_losses_and_gradients_are_those_of_all_positions(positions):
    hidden, head, tokens = arrays()
    seen = []

    def logits(head, part):
        seen.append(part.shape[1])
        return part @ head

    def in_parts(hidden, head):
        losses, right = vocabulary.token_losses(
            lambda part: logits(head, part), hidden, tokens, VOCAB
        )
        return jnp.sum(losses**2), (losses, right)

    def whole(hidden, head):
        losses = optax.softmax_cross_entropy_with_integer_labels(hidden @ head, tokens)
        return jnp.sum(losses**2), (losses, jnp.argmax(hidden @ head, -1) == tokens)

    ours, theirs = (
        jax.jit(jax.value_and_grad(function, (0, 1), has_aux=True))(hidden, head)
        for function in (in_parts, whole)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)
    assert max(seen) == min(positions, LENGTH)


def test_losses_on_tpus_have_larger_parts(monkeypatch):
    """The parts that fit into TPU_LOGIT_BYTES, on a mesh of which only the platform is read."""
    monkeypatch.setattr(vocabulary, "LOGIT_BYTES", ROWS * VOCAB * 4)
    monkeypatch.setattr(vocabulary, "TPU_LOGIT_BYTES", 4 * ROWS * VOCAB * 4)
    hidden, head, tokens = arrays()
    sizes = {}
    for platform in ("cpu", "tpu"):
        devices = np.array([SimpleNamespace(platform=platform)])
        seen = sizes[platform] = []

        def logits(part, seen=seen):
            seen.append(part.shape[1])
            return part @ head

        mesh = SimpleNamespace(devices=devices)
        losses = partial(vocabulary.token_losses, logits, mesh=mesh)
        jax.eval_shape(lambda losses=losses: losses(hidden, tokens, VOCAB))
    assert max(sizes["cpu"]) == 1 and max(sizes["tpu"]) == 4


def test_the_likeliest_token(positions):
    hidden, head, _ = arrays()
    found = vocabulary.likeliest(lambda part: part @ head, hidden, VOCAB)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, jnp.argmax(hidden @ head, -1))


def test_rows_of_one_device_set_the_size_of_a_part(monkeypatch):
    """If the rows are split over three devices, three times as many positions fit."""
    monkeypatch.setattr(vocabulary, "LOGIT_BYTES", 4 * ROWS * VOCAB * 4)
    hidden, head, _ = arrays()
    sizes = []

    def note(part):
        sizes.append(part.shape[1])
        return part

    for rows in (None, 1):
        vocabulary.in_parts(note, (hidden,), VOCAB, rows)
    assert sizes == [4, LENGTH]
