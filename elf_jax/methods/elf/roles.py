"""The roles of the rows of a batch: decode, denoise with self-conditioning, or denoise without it.

In a batch, every role gets a fixed number of rows (`make_split`). The rows draw cards
(`rng.cards`), and the card says the role. The rows of one device are a "group" and are put into the
order of their cards (`deal`). So the rows of a role lie together (`take`, `spread`), and what only
they need is computed for them alone.

The rows of every role are spread evenly over the devices, and no row moves to another one. A group
has room for the largest number of rows that each role can have there (`part_of`). On 1, 2, 4 and 8
devices, or in as many micro-batches, the rows draw the same cards. So the losses are the same to
rounding. Where the batch does not divide like this, or there are more parts than 8, each part has
cards of its own (`rng.deck`): then the roles depend on the number of parts, and their expectation
does not.

The loss of a row is multiplied by (probability of its role x number of rows / rows with the role).
If there are too few rows for every role, the role of one row is drawn at random, with weight 1.
"""

import dataclasses

import jax.numpy as jnp

from elf_jax.core import rng


@dataclasses.dataclass(frozen=True)
class Split:
    """How many rows of a group get each role. In the dealt order, the rows of a group are
    [self-conditioned | denoise without self-conditioning | decode].

    Attributes:
      rows: number of rows in a group.
      self_cond: so many rows at the start go through the no-gradient pass.
      denoise: so many rows at the start may denoise.
      decode: so many rows at the end may decode. If some rows may do either, because their number
        is not fixed or because the role of a single row is drawn, denoise + decode > rows.
      decode_fraction: q. self_cond_fraction: part of the denoising rows with self-conditioning.
    """

    rows: int
    self_cond: int
    denoise: int
    decode: int
    decode_fraction: float
    self_cond_fraction: float


def make_split(rows, decode_fraction, self_cond_fraction):
    """The `Split` of a group of `rows` rows that is nearest to the given fractions and gives every
    role at least one row. If one row is left for several roles, `draw_roles` draws its role.
    """

    def share(count, fraction):
        if fraction in (0.0, 1.0) or count == 0:
            return int(count * fraction)
        return min(max(round(count * fraction), 1), count - 1)

    drawn = rows == 1 and 0 < decode_fraction < 1
    decode = 1 if drawn else share(rows, decode_fraction)
    denoise = 1 if drawn else rows - decode
    lone = denoise == 1 and 0 < self_cond_fraction < 1
    self_cond = 1 if lone else share(denoise, self_cond_fraction)
    return Split(rows, self_cond, denoise, decode, decode_fraction, self_cond_fraction)


def part_of(split, parts):
    """The `Split` of a group that is one of so many equal parts of the rows of `split`. The rows of
    a role are shared out evenly, so a group has room for their number over `parts`, rounded up.
    """

    def room(count):
        return -(-count // parts)

    counts = {name: room(getattr(split, name)) for name in ("self_cond", "denoise", "decode")}
    return dataclasses.replace(split, rows=split.rows // parts, **counts)


def deal(keys, split, cards=None):
    """A random order of the rows of every group, the dealt order: [G, B / G] int32, the index in
    the group of the row at each place.

    Args:
      keys: [B] JAX keys, one per row; B is a multiple of split.rows. G is B / split.rows.
      split: the `Split` of a group.
      cards: [B], see `rng.cards`; the order is theirs. None: each group draws its own.
    """
    values = rng.uniform(keys) if cards is None else cards
    return jnp.argsort(values.reshape(-1, split.rows), axis=1).astype(jnp.int32)


def permute(array, order):
    """Rows of `array` [B, ...] in the dealt order [G, B / G]. Rows stay in their group."""
    grouped = array.reshape(order.shape + array.shape[1:])
    index = order.reshape(order.shape + (1,) * (array.ndim - 1))
    return jnp.take_along_axis(grouped, index, axis=1).reshape(array.shape)


def draw_roles(keys, split, cards=None):
    """(is_decode, self_cond, weight), each [B], of rows that are already in the dealt order.

    Args:
      keys: [B] JAX keys. split: the `Split` of all rows that share a deck.
      cards: [B] in the dealt order. None: each group has its own deck.
    """
    q, p = split.decode_fraction, split.self_cond_fraction
    place = jnp.arange(len(keys)) % split.rows if cards is None else cards
    u = rng.uniform(keys, (2,))
    if split.denoise + split.decode > split.rows:
        is_decode = u[:, 0] < q
        weight = jnp.ones(len(keys))
    else:
        is_decode = place >= split.denoise
        weight = jnp.where(
            is_decode,
            q * split.rows / max(split.decode, 1),
            (1 - q) * split.rows / max(split.denoise, 1),
        )
    if split.denoise == 1 and 0 < p < 1:
        return is_decode, ~is_decode & (u[:, 1] < p), weight
    self_cond = place < split.self_cond
    plain = split.denoise - split.self_cond
    part = jnp.where(
        self_cond,
        p * split.denoise / max(split.self_cond, 1),
        (1 - p) * split.denoise / max(plain, 1),
    )
    return is_decode, ~is_decode & self_cond, weight * jnp.where(is_decode, 1.0, part)


def take(array, split, start, stop):
    """Rows start to stop of every group, [G * (stop - start), ...]. Rows stay on their device."""
    groups = array.shape[0] // split.rows
    grouped = array.reshape((groups, split.rows) + array.shape[1:])[:, start:stop]
    return grouped.reshape((groups * (stop - start),) + array.shape[1:])


def spread(array, split, start, stop, batch_size):
    """The inverse of `take`: [batch_size, ...] with zeros in the rows that were not taken."""
    shape = array.shape[1:]
    grouped = array.reshape((batch_size // split.rows, stop - start) + shape)
    padding = [(0, 0), (start, split.rows - stop)] + [(0, 0)] * len(shape)
    return jnp.pad(grouped, padding).reshape((batch_size,) + shape)
