"""Random keys by name, step and example, never by position.

A key is derived from its purpose. So one more draw changes no other draw, a resumed run continues
every stream where it stopped, and the noise of an example does not depend on how the batch is split
over devices or micro-batches.

Where a fixed number of rows must be chosen, the rows draw cards without replacement (`cards`). A
row's card also depends on the rows beside it. The cards are the same for 1, 2, 4 and 8 parts of a
batch of 8 n rows, where a part is what one device has of one micro-batch (`deck`).
"""

import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

GROUPS = 8  # groups of rows in a batch, a power of two; see `deck`


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


def deck(batch_rows, part_rows):
    """(rows, groups): how many rows share a deck of cards, and in how many groups they draw.

    The whole batch shares one deck. Its rows draw in GROUPS groups of consecutive rows (4, 2 or 1
    if the batch does not divide by 8), so that no device needs to know another one's draws. If the
    parts of the batch are not made of whole groups, as with 3 or 16 parts, each part has a deck.

    Args:
      batch_rows: rows of the whole batch, of all micro-batches.
      part_rows: rows that one device has of one micro-batch.
    """
    groups = math.gcd(batch_rows, GROUPS)
    if groups % (batch_rows // part_rows):
        return part_rows, 1
    return batch_rows, groups


def cards(key, keys, ids, rows, groups):
    """[B] int32, the card of each row. In a deck are the numbers 0 to rows - 1, each once.

    Every card of a deck is equally likely for a row. Of any c cards in sequence, each of P equal
    parts of a deck (P divides `groups`) gets c / P, rounded up or down.

    Args:
      key: JAX key of the batch. keys: [B] JAX keys, one for each row.
      ids: [B] integers, the places of the rows in the whole batch; a group is contiguous in B.
      rows, groups: see `deck`.
    """
    size = rows // groups
    order = jnp.argsort(uniform(keys).reshape(-1, size), axis=1)
    place = jnp.argsort(order, axis=1).astype(jnp.int32).ravel()
    if groups == 1:
        return place
    # Cards are dealt to the groups in turn, one to each, from a random one on. The turns are in
    # bit-reversed order, in which neighbouring turns are far apart.
    first = random.randint(key, (), 0, groups)
    turn = (jnp.asarray(_reversed_bits(groups))[ids // size % groups] + first) % groups
    return place * groups + turn


def _reversed_bits(count):
    """The numbers below a power of two with their bits in reverse order, such as 0, 2, 1, 3."""
    numbers = np.zeros(1, np.int32)
    while len(numbers) < count:
        numbers = np.concatenate([2 * numbers, 2 * numbers + 1])
    return numbers
