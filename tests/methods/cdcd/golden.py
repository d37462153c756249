"""The golden numbers of CDCD, and the units of the published code.

That code has unit embeddings and noise t n / 16. With embeddings of norm sqrt(d), as here and in
the paper, the same input of the network has the time t sqrt(d) / 16.
"""

import numpy as np

from elf_jax.methods.cdcd import warping
from tests.methods.stub import GOLDEN, Group

with np.load(GOLDEN / "cdcd.npz") as arrays:
    RANGE = float(arrays["t_min"]), float(arrays["t_max"])
    WIDTH = int(arrays["embed_dim"])
    TABLE = arrays["embedding_raw"].astype(float)
UNIT = np.sqrt(WIDTH) / 16


def warp():
    """The `Warp` of the golden numbers, in the units of the published code."""
    cdf = Group("cdcd", "cdf")
    return warping.make({"times": cdf.l_t, "heights": cdf.l_u}, *RANGE)


def stub(net, pairs, log_t):
    """logits = x A + estimate B + log t b + P of pairs (scaled x, estimate), [B, L, V]."""
    x, estimate = pairs
    return x @ net["A"] + estimate @ net["B"] + log_t[:, None, None] * net["b"] + net["P"]
