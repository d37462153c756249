"""Positions that are computed one after another with a cache equal those of the whole row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core import sharding
from elf_jax.networks.attention import Cache
from elf_jax.networks.backbone import Backbone

B, L, D, H, DEPTH = 4, 12, 16, 2, 3


def build(**options):
    """(network, parameters, text)."""
    network = Backbone(depth=DEPTH, width=D, heads=H, causal=True, **options)
    text = jax.random.normal(jax.random.key(1), (B, L, D), network.dtype)
    return network, jax.jit(network.init)(jax.random.key(0), text)["params"], text


def empty(dtype=jnp.float32, mesh=None):
    return Cache.empty(DEPTH, B, L, H, D // H, dtype, mesh)


def in_parts(network, params, text, sizes, cache=None):
    """Hidden states of the text, computed with a cache in parts of so many positions."""
    step = jax.jit(
        lambda params, part, cache, position: network.apply(
            {"params": params}, part, cache=cache, position=position
        )
    )
    cache = empty(network.dtype, network.mesh) if cache is None else cache
    out, position = [], 0
    for size in sizes:
        part = text[:, position : position + size]
        hidden, cache = step(params, part, cache, jnp.int32(position))
        out.append(hidden)
        position += size
    return jnp.concatenate(out, axis=1), cache


@pytest.mark.parametrize("sizes", [[1] * L, [5, *[1] * 7], [2, 3, 4, 3]], ids=str)
def test_a_cache_changes_nothing(sizes):
    network, params, text = build()
    whole = network.apply({"params": params}, text)
    ours, cache = in_parts(network, params, text, sizes)
    assert np.max(np.abs(ours - whole)) < 1e-5 * np.max(np.abs(whole))
    # The cache has all positions, in whatever parts they came.
    _, other = in_parts(network, params, text, [L])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), cache, other)
    assert cache.keys.shape == (DEPTH, B, L, H, D // H)


@pytest.mark.parametrize("options", [{"attention": "fused"}, {"remat": "full", "unroll": DEPTH}])
def test_all_settings_of_the_network_can_have_a_cache(options):
    network, params, text = build(**options)
    whole = network.apply({"params": params}, text)
    ours, _ = in_parts(network, params, text, [7, 5])
    assert np.max(np.abs(ours - whole)) < 1e-5 * np.max(np.abs(whole))


def test_bfloat16():
    network, params, text = build(dtype=jnp.bfloat16)
    whole = network.apply({"params": params}, text).astype(jnp.float32)
    ours, cache = in_parts(network, params, text, [5, 4, 3])
    assert cache.values.dtype == ours.dtype == jnp.bfloat16
    assert np.max(np.abs(ours - whole)) < 0.03 * np.max(np.abs(whole))


def test_what_the_cache_has_later_is_not_seen():
    """So a pass over the whole row may come first, and single positions after it."""
    network, params, text = build()
    whole = network.apply({"params": params}, text)
    _, cache = in_parts(network, params, text.at[:, 6:].set(9.0), [L])
    cache = jax.tree.map(lambda array: array.at[:, :, 6:].multiply(100.0), cache)
    for index in range(6, L):
        hidden, cache = network.apply(
            {"params": params}, text[:, index : index + 1], cache=cache, position=index
        )
        np.testing.assert_allclose(hidden[:, 0], whole[:, index], rtol=1e-5, atol=1e-5)


def test_a_row_can_begin_in_a_used_cache():
    """Without a position the text begins the row. Nothing that the cache has is seen."""
    network, params, text = build()
    used = jax.tree.map(lambda array: array + 3.0, empty())
    ours, cache = network.apply({"params": params}, text[:, :5], cache=used)
    plain, other = in_parts(network, params, text[:, :5], [2, 3])
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(cache.keys[:, :, :5], other.keys[:, :, :5], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(cache.keys[:, :, 5:], 3.0)


@pytest.mark.parametrize(
    "sizes", [{"data": 4, "fsdp": 1, "tensor": 2}, {"data": 2, "fsdp": 2, "tensor": 1}], ids=str
)
def test_eight_devices_equal_one(sizes):
    network, params, text = build()
    whole = network.apply({"params": params}, text)
    mesh = sharding.make_mesh(sizes)
    params = jax.device_put(params, sharding.of_tree(params, mesh))
    text = jax.device_put(text, sharding.rows(mesh))
    network = build(mesh=mesh)[0]
    cache = jax.jit(lambda: empty(mesh=mesh))()
    part = (DEPTH, B // 4, L, H // sizes["tensor"], D // H)
    assert {shard.data.shape for shard in cache.keys.addressable_shards} == {part}
    ours, cache = in_parts(network, params, text, [5, 1, 6], cache)
    assert np.max(np.abs(ours - whole)) < 1e-5 * np.max(np.abs(whole))
    assert {shard.data.shape for shard in cache.keys.addressable_shards} == {part}


def test_text_with_a_cache_has_no_control_tokens():
    network = Backbone(depth=DEPTH, width=D, heads=H, scalars=(("time", 1),))
    inputs = jnp.zeros((B, L, D)), {"time": jnp.zeros(B)}
    params = jax.jit(network.init)(jax.random.key(0), *inputs)["params"]
    with pytest.raises(ValueError, match="without control tokens"):
        network.apply({"params": params}, *inputs, cache=empty())
