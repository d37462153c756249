"""Which position sees which where noisy blocks lie beside their clean text.

B batch, S clean positions, c control tokens, L noisy positions.
"""

import dataclasses

import jax
import numpy as np


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class BlockMask:
    """A noisy block that begins at s sees the clean positions up to s, the control tokens and
    itself. The control tokens see each other.

    It is a part of the program and not an array of it, so kernels can leave out what is empty.

    Attributes:
      length: S. first: the first position of the first block. size: positions of a block.
      control: c, number of control tokens before the noisy positions.
      moved: so many places before the first block are left out of the S.
    """

    length: int
    first: int
    size: int
    control: int = 0
    moved: int = 0

    @property
    def places(self):
        """[L] integers, the place of each noisy position in its row."""
        return np.arange(self.first, self.length) + self.moved

    @property
    def starts(self):
        """[L] integers, the clean position at which the block of each noisy position begins."""
        position = np.arange(self.first, self.length)
        return position - (position - self.first) % self.size

    def array(self):
        """[c + L, S + c + L] bool, True where a control token or noisy position (rows) sees a clean
        position, a control token or a noisy position (columns).
        """
        starts, control = self.starts, self.control
        sees = np.zeros((control + len(starts), self.length + control + len(starts)), bool)
        sees[control:, : self.length] = np.arange(self.length) <= starts[:, None]
        sees[:, self.length : self.length + control] = True
        sees[control:, self.length + control :] = starts == starts[:, None]
        return sees


def padded(mask, queries, keys):
    """A mask [T, L] as one of [queries, keys]. Nobody sees a new key, and new queries see the
    first key, because what a kernel makes of a row without any key may not be a number.
    """
    count, seen = mask.shape
    whole = np.zeros((queries, keys), bool)
    whole[:count, :seen] = mask
    whole[count:, 0] = True
    return whole
