"""Attention with a known mask by splash attention, run without a TPU, against XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core import sharding
from elf_jax.networks.attention import Cache, softmax_attention
from elf_jax.networks.backbone import Backbone
from elf_jax.networks.block_mask import BlockMask
from elf_jax.networks.splash import masked_attention
from tests.tiny import tiny_config


def values_and_gradients(function, weights, *inputs):
    def loss(*inputs):
        out = function(*inputs)
        return jnp.sum(out * weights), out

    grads, out = jax.jit(jax.grad(loss, argnums=tuple(range(len(inputs))), has_aux=True))(*inputs)
    return jax.tree.leaves((out, grads))


def assert_same(ours, theirs, tolerance=2e-5):
    for a, b in zip(ours, theirs, strict=True):
        assert np.max(np.abs(a - b)) < tolerance * np.max(np.abs(b))


def some_keys(rows, keys, share=0.6):
    """[rows, keys] bool; the first one is always True."""
    return (np.random.default_rng(7).random((rows, keys)) < share) | (np.arange(keys) == 0)


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("queries, keys, width", [(70, 200, 64), (140, 5, 66), (530, 650, 80)])
def test_it_is_attention(queries, keys, width, hides):
    """Of one block and of several, of lengths that fill none, values and gradients."""
    rng = np.random.default_rng(0)
    shapes = [(2, size, 2, width) for size in (queries, keys, keys, queries)]
    q, k, v, weights = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    mask = rng.random((queries, keys)) < 0.2
    mask[:, 0] = True
    how = {"is_key": some_keys(2, keys)} if hides else {}
    arrays = weights, q, k, v
    ours = values_and_gradients(lambda *a: masked_attention(*a, mask, True, **how), *arrays)
    theirs = values_and_gradients(lambda *a: softmax_attention(*a, mask=mask, **how), *arrays)
    assert_same(ours, theirs)


@pytest.mark.parametrize("first, size, control", [(0, 1, 3), (4, 1, 0), (3, 3, 2), (0, 12, 1)])
def test_who_sees_whom(first, size, control):
    """The mask of blocks, pair by pair from its definition."""
    length = 12
    ours = BlockMask(length, first, size, control).array()
    names = [("clean", i) for i in range(length)] + [("control", i) for i in range(control)]
    noisy = [("noisy", i) for i in range(first, length)]
    assert ours.shape == (control + len(noisy), len(names + noisy))
    for row, (kind, place) in zip(ours, names[length:] + noisy, strict=True):
        block = (place - first) // size
        for is_seen, (other, there) in zip(row, names + noisy, strict=True):
            wanted = other == "control"
            if kind == "noisy" and other == "clean":
                wanted = there <= first + block * size
            if kind == "noisy" and other == "noisy":
                wanted = (there - first) // size == block
            assert is_seen == wanted


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("queries, keys", [(7, 9), (8, 9), (6, 12), (9, 9)])
def test_cudnn_gets_even_lengths(queries, keys, hides, monkeypatch):
    """And whole widths, with a mask that hides what was added. XLA stands in for it here."""
    causal = hides and queries == keys
    rng, attend = np.random.default_rng(0), jax.nn.dot_product_attention

    def stand_in(q, k, v, mask=None, implementation=None, **how):
        # cuDNN needs both lengths, and does not know a mask of keys alone.
        rows = len(q) if hides else 1
        assert implementation == "cudnn" and mask.shape == (rows, 1, q.shape[1], k.shape[1])
        assert mask.any(-1).all()  # a row without any key may not be a number
        assert q.shape[1] % 2 == k.shape[1] % 2 == q.shape[3] % 8 == 0
        return attend(
            q, k + 1e3 * (jnp.arange(k.shape[1])[:, None, None] >= keys), v, mask=mask, **how
        )

    shapes = [(2, size, 2, 6) for size in (queries, keys, keys)]
    q, k, v = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    mask = rng.random((queries, keys)) < 0.5
    mask[:, 0] = True
    how = {"causal": True} if causal else {"mask": mask}
    if hides:
        how["is_key"] = some_keys(2, keys)
    theirs = softmax_attention(q, k, v, **how)
    if causal:
        allowed = np.tri(keys, dtype=bool) & how["is_key"][:, None]
        right = attend(q, k, v, mask=allowed[:, None])
        np.testing.assert_allclose(theirs, right, atol=1e-5)
    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    ours = softmax_attention(q, k, v, "cudnn", **how)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


AXES = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}
B, L, D, H, DEPTH = 4, 24, 32, 2, 2


def noisy_beside_clean(first, size, mesh=None, hides=False, **options):
    """Hidden states of noisy blocks beside the clean text, and the gradients of the parameters. If
    it `hides`, some of the clean positions may not be attended to.
    """
    signals = {"scalars": (("time", 2),), "mesh": mesh}
    network = Backbone(depth=DEPTH, width=D, heads=H, **signals, **options)
    clean, noisy, weights = jax.random.normal(jax.random.key(1), (3, B, L, D))
    noisy, weights = noisy[:, first:], weights[:, first:]
    times = {"time": jnp.linspace(0.1, 0.9, B)}
    # The initial kernels are too small for attention to matter.
    plain = Backbone(depth=DEPTH, width=D, heads=H, scalars=(("time", 2),))
    params = jax.jit(plain.init)(jax.random.key(0), noisy, times)["params"]
    params = jax.tree.map(lambda a: a + 0.3 * jax.random.normal(jax.random.key(2), a.shape), params)
    sees = BlockMask(L, first, size)
    places = sees.places

    def hidden(params):
        cache = Cache.empty(DEPTH, B, L, H, D // H, jnp.float32, mesh, hides)
        is_key = jnp.asarray(some_keys(B, L)) if hides else None
        read, cache = network.apply({"params": params}, clean, cache=cache, is_key=is_key)
        arrays = noisy + read[:, first:], times, {}, None, cache, places, sees
        return network.apply({"params": params}, *arrays, method="within")

    return values_and_gradients(hidden, weights, params)


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("first, size", [(0, 1), (8, 1), (0, 4), (8, 8)])
def test_blocks_in_the_network(first, size, hides):
    theirs = noisy_beside_clean(first, size, hides=hides)
    assert_same(noisy_beside_clean(first, size, hides=hides, attention="fused"), theirs, 1e-4)


@pytest.mark.parametrize("options", [{"remat": "matmuls"}, {"remat": "full", "unroll": DEPTH}])
def test_the_mask_goes_through_rematerialisation(options):
    ours = noisy_beside_clean(8, 1, attention="fused", **options)
    assert_same(ours, noisy_beside_clean(8, 1), 1e-4)


@pytest.mark.parametrize("hides", [False, True])
def test_on_many_devices(hides):
    """Rows and heads are split over them."""
    mesh = sharding.make_mesh(tiny_config(**AXES).mesh)
    ours = noisy_beside_clean(8, 1, mesh, hides, attention="fused")
    assert_same(ours, noisy_beside_clean(8, 1, hides=hides), 1e-4)
