"""Checksums of arrays, computed on the devices that hold them.

They are sums of integers, so they do not depend on how an array is split: a checkpoint can be
compared on other devices than those that saved it. Every device reads its own part only, and only
one number for each array is moved.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# Elements that a CPU adds up by NumPy: fewer take less time than to compile a program for them.
FEW = 2**24
_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def array_sums(tree):
    """{"path/of/leaf": eight hexadecimal digits} of every array in a tree.

    Any change of a single element changes the sum. A change of several does so too, except once in
    2^32 times.

    Args:
      tree: pytree of arrays with elements of at most four bytes, on this process's devices or split
        over those of all processes, which then call it together.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    arrays = [array for _, array in leaves]
    if _are_few_and_here(arrays):
        return {_name(path): f"{_sum_by_numpy(array):08x}" for path, array in leaves}
    # One program, so that all processes add the parts of the arrays up in the same order.
    sums = jax.device_get(sums_program(arrays)(arrays))
    return {_name(path): f"{int(one):08x}" for (path, _), one in zip(leaves, sums, strict=True)}


def sums_program(arrays):
    """The jitted function from a list of arrays to their sums, [number of arrays] uint32.

    Args:
      arrays: the list, or its ShapeDtypeStructs with shardings.
    """
    return _program(_place(arrays))


def _are_few_and_here(arrays):
    """Whether all arrays are in the memory of this process, and small."""
    return sum(np.size(one) for one in arrays) <= FEW and all(
        one.is_fully_addressable and next(iter(one.devices())).platform == "cpu"
        for one in arrays
        if isinstance(one, jax.Array)
    )


def _sum_by_numpy(array):
    """`_sum` as an integer."""
    array = np.ascontiguousarray(array).ravel()
    bits = array.view(_WORDS[array.dtype.itemsize]).astype(np.uint32)
    number = np.arange(1, array.size + 1).astype(np.uint32)
    return int(np.sum(_mix(bits ^ _mix(number)), dtype=np.uint32))


def _name(path):
    return "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)


def _place(arrays):
    """Where the sums go: to all devices of a mesh, so that every process has them; None without a
    mesh.
    """
    for array in arrays:
        sharding = getattr(array, "sharding", None)
        if isinstance(sharding, jax.sharding.NamedSharding):
            return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return None


@functools.cache
def _program(place):
    return jax.jit(lambda arrays: jnp.stack([_sum(one) for one in arrays]), out_shardings=place)


def _sum(array):
    """Sum modulo 2^32 over the elements of mix(bits of the element ^ mix(its number))."""
    array = jnp.asarray(array)
    if array.dtype == bool:
        array = array.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(array, _WORDS[array.dtype.itemsize]).astype(jnp.uint32)
    number, stride = jnp.ones((), jnp.uint32), 1
    for axis in reversed(range(array.ndim)):
        place = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
        number = number + place * jnp.uint32(stride % 2**32)
        stride *= array.shape[axis]
    return jnp.sum(_mix(bits ^ _mix(number)), dtype=jnp.uint32)


def _mix(x):
    """A one-to-one map of 32-bit numbers in which every bit depends on all bits (the last steps of
    MurmurHash3).
    """
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
