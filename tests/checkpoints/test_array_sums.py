"""Checksums of arrays: every change is found, and how an array is split does not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from elf_jax.checkpoints import array_sums as module
from elf_jax.checkpoints.array_sums import array_sums


@pytest.fixture(autouse=True, params=["numpy", "compiled"])
def _both_ways(request, monkeypatch):
    """Few elements are added up by NumPy, and many by a compiled program. The sums are the same."""
    if request.param == "compiled":
        monkeypatch.setattr(module, "FEW", -1)


def mix(x):
    x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
    x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
    return x ^ (x >> 16)


def test_the_definition():
    values = np.array([[1.0, -2.5, 0.0], [3.0, 4.0, 1e30]], np.float32)
    bits = values.view(np.uint32).ravel().tolist()
    total = sum(mix(one ^ mix(number)) for number, one in enumerate(bits, 1)) % 2**32
    assert array_sums({"a": {"b": jnp.asarray(values)}}) == {"a/b": f"{total:08x}"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 5, 2)])
def test_every_single_change_is_found(dtype, shape):
    draw = np.random.default_rng(0)
    array = np.asarray(jnp.asarray(draw.integers(0, 2, shape), dtype))
    first = array_sums([array])
    for place in np.ndindex(*shape):
        other = array.copy()
        other[place] = 1 - other[place]
        assert array_sums([other]) != first, place


def test_an_exchange_is_found():
    array = np.arange(4096, dtype=np.float32).reshape(64, 64)
    first, draw = array_sums([array]), np.random.default_rng(0)
    for _ in range(50):
        other = array.copy()
        (a, b), (c, d) = draw.integers(0, 64, (2, 2))
        other[a, b], other[c, d] = array[c, d], array[a, b]
        assert (array_sums([other]) == first) == ((a, b) == (c, d))
    assert array_sums([array.T]) != first
    assert array_sums([np.pad(array, ((0, 1), (0, 0)))]) != first


def test_the_split_over_devices_does_not_matter():
    array = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    mesh = jax.make_mesh((2, 4), ("a", "b"))
    expected = array_sums([array])
    for spec in (PartitionSpec(), PartitionSpec("a"), PartitionSpec("b", "a")):
        split = jax.device_put(array, NamedSharding(mesh, spec))
        assert array_sums([split]) == expected
