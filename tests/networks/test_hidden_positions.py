"""Positions that may not be attended to: a row has the same states without them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.networks.attention import Cache
from elf_jax.networks.backbone import Backbone

B, L, D, H, DEPTH = 3, 12, 16, 2, 3
HIDDEN = np.array([4, 5, 9])
KEPT = np.setdiff1d(np.arange(L), HIDDEN)


def build(causal=True, **options):
    """(network, parameters, text)."""
    network = Backbone(depth=DEPTH, width=D, heads=H, causal=causal, **options)
    text = jax.random.normal(jax.random.key(1), (B, L, D))
    params = jax.jit(network.init)(jax.random.key(0), text)["params"]
    noise = jax.tree.map(lambda a: 0.3 * jax.random.normal(jax.random.key(2), a.shape), params)
    return network, jax.tree.map(jnp.add, params, noise), text


def is_key():
    return jnp.asarray(np.broadcast_to(np.isin(np.arange(L), KEPT), (B, L)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attention": "fused"},
        {"remat": "matmuls", "unroll": DEPTH},
        {"causal": False},
        {"causal": False, "attention": "fused"},
        {"causal": False, "remat": "matmuls"},
    ],
    ids=str,
)
def test_a_row_has_the_states_of_one_without_the_hidden_positions(options):
    """In which the others keep their places."""
    network, params, text = build(**options)
    ours = network.apply({"params": params}, text, is_key=is_key())[:, KEPT]
    theirs = network.apply({"params": params}, text[:, KEPT], places=KEPT)
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.max(np.abs(theirs)))
    everything = network.apply({"params": params}, text)[:, KEPT]
    assert np.max(np.abs(ours - everything)) > 0.01 * np.max(np.abs(theirs))


def test_the_first_positions_may_be_control_tokens():
    network = Backbone(depth=DEPTH, width=D, heads=H, causal=True, scalars=(("time", 2),))
    text, times = jax.random.normal(jax.random.key(1), (B, L, D)), {"time": jnp.ones(B)}
    params = jax.jit(network.init)(jax.random.key(0), text, times)["params"]
    ours = network.apply({"params": params}, text, times, is_key=is_key())[:, KEPT]
    theirs = network.apply({"params": params}, text[:, KEPT], times, places=KEPT)
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.max(np.abs(theirs)))


@pytest.mark.parametrize("sizes", [[12], [6, 6], [8, 1, 1, 1, 1]], ids=str)
def test_a_cache_keeps_what_is_hidden(sizes):
    network, params, text = build()
    whole = network.apply({"params": params}, text, is_key=is_key())
    cache, out, position = Cache.empty(DEPTH, B, L, H, D // H, text.dtype, None, True), [], 0
    for size in sizes:
        part = slice(position, position + size)
        hidden, cache = network.apply(
            {"params": params},
            text[:, part],
            cache=cache,
            position=None if position == 0 else position,
            is_key=is_key()[:, part],
        )
        out.append(hidden)
        position += size
    ours = jnp.concatenate(out, axis=1)
    np.testing.assert_allclose(ours, whole, atol=2e-5 * np.max(np.abs(whole)))
    np.testing.assert_array_equal(cache.is_key, np.broadcast_to(is_key(), (DEPTH, B, L)))


def test_new_positions_are_keys_unless_it_is_said():
    network, params, text = build()
    cache = Cache.empty(DEPTH, B, L, H, D // H, text.dtype, None, True)
    _, cache = network.apply({"params": params}, text, cache=cache, is_key=is_key())
    again = text[:, 4:5]
    _, cache = network.apply({"params": params}, again, cache=cache, position=4)
    assert cache.is_key[:, :, 4].all() and not cache.is_key[:, :, 5].any()
