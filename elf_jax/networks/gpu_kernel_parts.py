"""What the GPU kernels of attention share: tiles of rows, columns in powers of two, the products.

Triton works on arrays whose sizes are powers of two. So a kernel goes through the positions in
blocks of such a size, and what is left at the end is one smaller block that reaches over the end.
What lies there is read as zero and never written. A head of width 66 or 80 is held as 64 columns
and 16 more; a product over the width is the sum of the products of both parts.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

SMALLEST = 16  # the tensor cores multiply no fewer rows or columns
LOG2_E = 1.4426950408889634  # the softmax is in powers of 2: GPUs have an instruction for them


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Sizes of one kernel.

    Attributes:
      own: positions that one program of the grid works on. other: positions of one round of its
        loop. Both are powers of two.
      warps: groups of 32 threads of a program. stages: how many rounds are loaded ahead.
    """

    own: int
    other: int
    warps: int
    stages: int


def columns(width):
    """[(first, size)] of powers of two, together the width rounded up to a multiple of 16.

    The largest comes first: 80 is [(0, 64), (64, 16)].
    """
    rest, first, parts = -(-width // SMALLEST) * SMALLEST, 0, []
    while rest:
        size = 1 << (rest.bit_length() - 1)
        parts.append((first, size))
        first, rest = first + size, rest - size
    return parts


def rest_size(length, block):
    """Size of the block for the positions that no whole block holds; 0 if there are none."""
    left = length % block
    return max(SMALLEST, 1 << (left - 1).bit_length()) if left else 0


@dataclasses.dataclass(frozen=True)
class Head:
    """How the arrays of one head are read and written: never beyond their end.

    The blocks that a kernel gets are larger than the arrays, see `padded`.

    Attributes:
      length: T, rows of an array [T, K]. width: K.
    """

    length: int
    width: int

    def padded(self, rows):
        """The size of the blocks of an array [T, K] that is read `rows` rows at a time."""
        return -(-self.length // rows) * rows, sum(size for _, size in columns(self.width))

    def load(self, ref, first, rows, index=None, swapped=False):
        """Rows of an array in parts of its columns; zero beyond its end.

        Args:
          ref: of [T, K], or of [T, n, K] with an index.
          first: the first row, traced or not, a multiple of `rows`. rows: how many, a power of two.
          swapped: whether columns 0 and 1, 2 and 3, ... change places.

        Returns:
          A list of [rows, size], see `columns`.
        """
        middle = () if index is None else (np.int32(index),)
        found = []
        for part in columns(self.width):
            at = pl.ds(first, rows), *middle, pl.ds(*part)
            if swapped:
                row, column = first + jnp.arange(rows)[:, None], _swapped(part)[None]
                row, column = (jnp.broadcast_to(a, (rows, part[1])) for a in (row, column))
                at = row, *(jnp.full((rows, part[1]), i, jnp.int32) for i in middle), column
            found.append(_read(ref.at[at], self._inside(first, rows, part)))
        return found

    def load_columns(self, ref, index=None, swapped=False):
        """Entries of an array [K], or of a row of [n, K], as a list of [size]."""
        found = []
        for part in columns(self.width):
            column = _swapped(part) if swapped else pl.ds(*part)
            at = (column,)
            if index is not None:
                row = jnp.full(part[1], index, jnp.int32) if swapped else np.int32(index)
                at = row, column
            found.append(_read(ref.at[at], self._columns_inside(part)))
        return found

    def load_row(self, ref, first, count):
        """[count] entries of an array [T] from `first` on; zero beyond its end."""
        return _read(ref.at[pl.ds(first, count)], self._rows_inside(first, count))

    def load_pairs(self, ref, first, rows, start, columns):
        """[rows, columns] of an array [T, T], zero beyond its end."""
        row, column = self._rows_inside(first, rows), self._rows_inside(start, columns)
        inside = _both(row, column, (rows, columns))
        return _read(ref.at[pl.ds(first, rows), pl.ds(start, columns)], inside)

    def store(self, ref, first, parts, index=None):
        """Writes what `load` gives."""
        middle = () if index is None else (np.int32(index),)
        for part, values in zip(columns(self.width), parts, strict=True):
            rows = values.shape[0]
            at = ref.at[pl.ds(first, rows), *middle, pl.ds(*part)]
            plgpu.store(at, values.astype(ref.dtype), mask=self._inside(first, rows, part))

    def store_columns(self, ref, parts, index):
        """Writes what `load_columns` gives, to a row of [n, K]."""
        for part, values in zip(columns(self.width), parts, strict=True):
            plgpu.store(
                ref.at[np.int32(index), pl.ds(*part)], values, mask=self._columns_inside(part)
            )

    def store_row(self, ref, first, values):
        """Writes what `load_row` gives."""
        count = values.shape[0]
        plgpu.store(ref.at[pl.ds(first, count)], values, mask=self._rows_inside(first, count))

    def zeros(self, rows):
        """A list of [rows, size] float32 zeros."""
        return [jnp.zeros((rows, size), jnp.float32) for _, size in columns(self.width)]

    def _rows_inside(self, first, count):
        """[count], True inside the array; None if that is known to be everywhere."""
        return first + jnp.arange(count) < self.length if self.length % count else None

    def _columns_inside(self, part):
        """[size], the same for columns."""
        start, size = part
        return None if start + size <= self.width else start + jnp.arange(size) < self.width

    def _inside(self, first, rows, part):
        """[rows, size], the same for both."""
        row, column = self._rows_inside(first, rows), self._columns_inside(part)
        return _both(row, column, (rows, part[1]))


def _both(row, column, shape):
    """[rows, columns] where both are True; None stands for True everywhere."""
    row = None if row is None else jnp.broadcast_to(row[:, None], shape)
    column = None if column is None else jnp.broadcast_to(column[None], shape)
    if row is None or column is None:
        return column if row is None else row
    return row & column


def _swapped(part):
    """Numbers of the columns of a part, with the two of every pair exchanged."""
    start, size = part
    return start + (jnp.arange(size) ^ 1)


def _read(ref, inside):
    return plgpu.load(ref) if inside is None else plgpu.load(ref, mask=inside, other=0)


def dot(a, b, contract):
    """Matrix product over axis contract[0] of a and contract[1] of b, accumulated in float32."""
    # Without this, products of float32 would be rounded to 10 bits.
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        a,
        b,
        (((contract[0],), (contract[1],)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    )


def dot_of_parts(a, b):
    """a b^T over the width: [m, n] float32 of lists of [m, size] and [n, size]."""
    return sum(dot(one, two, (1, 1)) for one, two in zip(a, b, strict=True))


def add_products(totals, weights, parts):
    """totals + weights parts, part by part.

    Args:
      totals: list of [m, size] float32. weights: [m, n] in the dtype of the parts.
      parts: list of [n, size].
    """
    return [total + dot(weights, part, (1, 0)) for total, part in zip(totals, parts, strict=True)]


def whole_head(length, width):
    """Block of one head of an array [B, T, H, K] in a grid (block of positions, head, row)."""
    return pl.BlockSpec((None, length, None, width), lambda i, h, b: (b, 0, h, 0))


def whole_row(length):
    """Block of one head of an array [B, H, T] in the same grid."""
    return pl.BlockSpec((None, None, length), lambda i, h, b: (b, h, 0))


def compiler_params(tiles):
    """What Triton needs to know."""
    return plgpu.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages)
