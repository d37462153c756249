"""Random keys by name, step and example, never by position.

A key is derived from its purpose. So one more draw changes no other draw, a resumed run continues
every stream where it stopped, and the noise of an example does not depend on how the batch is split
over devices or micro-batches.

A choice between rows ("so many of these rows, whichever come first") also depends on which rows are
compared. These are the rows of a group of `sharding.group_rows`. The groups depend on the batch
size, and on the devices only where these and the micro-batches together do not divide 8 groups.
"""

import zlib

import jax
from jax import random


def stream(key, name, step=None):
    """The key of the stream `name`. With `step`, the key of the stream at that step.

    Args:
      key: a JAX key, the root of all streams.
      name: what the stream is for; any string.
      step: integer (traced or not), or None.
    """
    key = random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)
    return key if step is None else random.fold_in(key, step)


def per_example(key, ids):
    """[B] keys, one for each example, from `ids`: [B] integers that name the examples."""
    return jax.vmap(random.fold_in, in_axes=(None, 0))(key, ids)


def normal(keys, shape):
    """[B, *shape] standard normals, row i from keys[i] alone."""
    return jax.vmap(lambda key: random.normal(key, shape))(keys)


def uniform(keys, shape=()):
    """[B, *shape] uniforms on [0, 1), row i from keys[i] alone."""
    return jax.vmap(lambda key: random.uniform(key, shape))(keys)
