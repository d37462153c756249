"""Muon (Jordan 2024; Liu et al., arXiv 2502.16982), with matrices orthogonalised in batches.

    m   = beta m + (1 - beta) g                          momentum
    u   = beta m / (1 - beta^(k+1)) + (1 - beta) g / (1 - beta^k)     Nesterov, step k = 1, 2, ...
    X_0 = u / |u|_F,  X <- a X + (b A + c A^2) X  with A = X X^T, five times   Newton-Schulz
    update = sqrt(max(1, outputs / inputs)) X_5

The result is that of `optax.contrib.muon`. Optax works on one matrix after another, and every chip
repeats the work for all of them. Here the matrices of one shape form one batch, which is split over
the chips. Most of them are the layers of a stacked kernel. A very wide matrix (that of the
vocabulary) is split over the chips by columns.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from elf_jax.core import sharding

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
BETA = 0.95
EPSILON = 1e-8
WIDE = 8  # a matrix with at least so many times more columns than rows is split by columns


class MuonState(NamedTuple):
    """count: int32 scalar, finished steps. mu: the momentum, shaped like the parameters."""

    count: jax.Array
    mu: dict


def scale_by_muon(dtype=jnp.float32, mesh=None):
    """Optax transformation: gradients of kernels [..., inputs, outputs] to Muon's updates, before
    they are multiplied by the learning rate.

    Args:
      dtype: of the Newton-Schulz iteration; momentum and updates are float32.
      mesh: the chips to split the iteration over; None: it is not split.
    """

    def init(params):
        mu = jax.tree.map(jnp.zeros_like, params)
        return MuonState(jnp.zeros([], jnp.int32), mu)

    def update(grads, state, params=None):
        del params
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: BETA * m + (1 - BETA) * g, state.mu, grads)
        m_scale = BETA / (1 - BETA ** (count + 1))
        g_scale = (1 - BETA) / (1 - BETA**count)
        ahead = jax.tree.map(lambda m, g: m_scale * m + g_scale * g, mu, grads)
        return orthogonalize(ahead, dtype, mesh), MuonState(count, mu)

    return optax.GradientTransformation(init, update)


def orthogonalize(tree, dtype=jnp.float32, mesh=None):
    """Newton-Schulz for every matrix in a tree of [..., inputs, outputs], times the factor
    sqrt(max(1, outputs / inputs)).

    Args:
      tree: pytree of float32 arrays. dtype, mesh: see `scale_by_muon`.

    Returns:
      The tree, float32.
    """
    leaves, structure = jax.tree.flatten(tree)
    wide = [_wide(leaf).astype(dtype) for leaf in leaves]
    out = [None] * len(leaves)
    for members in _groups([array.shape for array in wide], 1 if mesh is None else mesh.size):
        _, rows, columns = wide[members[0]].shape
        padded = [_pad(wide[index], len(wide[index]), rows, columns) for index in members]
        joined = padded[0] if len(padded) == 1 else jnp.concatenate(padded)
        result, start = _newton_schulz(joined, dtype, mesh), 0
        for index in members:
            count, m, n = wide[index].shape
            out[index] = _restore(result[start : start + count, :m, :n], leaves[index])
            start += count
    return jax.tree.unflatten(structure, out)


def _groups(shapes, devices):
    """Arrays [N, m, n] that form one batch: lists of indices, the largest shape first.

    Arrays of one shape are always in one batch. Smaller arrays join a batch, padded, if some chips
    would otherwise be idle. There they cost no time, and one program less is compiled.
    """
    order = sorted(range(len(shapes)), key=lambda i: (-shapes[i][2], -shapes[i][1], i))
    groups = []
    for index in order:
        count, *size = shapes[index]
        for group in groups:
            fits = all(a <= b for a, b in zip(size, group["size"], strict=True))
            if size == group["size"] or (fits and count <= -group["count"] % devices):
                group["members"].append(index)
                group["count"] += count
                break
        else:
            groups.append({"size": size, "count": count, "members": [index]})
            if _by_columns(count, *size):
                groups[-1]["count"] = devices  # no chip is idle
    return [group["members"] for group in groups]


def _wide(array):
    """[..., m, n] as a batch of matrices with no more rows than columns."""
    array = array.reshape(-1, *array.shape[-2:])
    return array.swapaxes(1, 2) if array.shape[1] > array.shape[2] else array


def _restore(part, like):
    rows, columns = like.shape[-2:]
    part = part.swapaxes(1, 2) if rows > columns else part
    scale = math.sqrt(max(1.0, columns / rows))
    return (scale * part.astype(jnp.float32)).reshape(like.shape)


def _pad(x, *shape):
    """x padded with zeros to `shape`. Newton-Schulz leaves them zero, so they change nothing."""
    if x.shape == shape:
        return x
    return jnp.pad(x, [(0, to - size) for size, to in zip(x.shape, shape, strict=True)])


def _by_columns(count, rows, columns):
    return count == 1 and columns >= WIDE * rows


def _newton_schulz(x, dtype, mesh):
    """Five steps on a batch of matrices [N, m, n], m <= n. Each chip works on its part."""
    x, at_home, spread = _layouts(x, mesh)
    # The batch is moved as one array in `dtype`, to the chips and back. Without these constraints,
    # XLA sends the matrices one by one, and then sends the updated parameters, averages and momenta
    # in float32.
    x = spread(at_home(x)).astype(jnp.float32)
    x = (x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + EPSILON)).astype(dtype)
    a, b, c = COEFFICIENTS

    def step(_, x):
        gram = _product(x, x.swapaxes(1, 2))
        return spread(a * x + _product(b * gram + c * _product(gram, gram), x))

    return at_home(jax.lax.fori_loop(0, STEPS, step, spread(x)))


def _product(x, y):
    return jnp.matmul(x, y, preferred_element_type=x.dtype)


def _layouts(x, mesh):
    """(x [N, m, n] padded so that it can be split over the mesh, a function that gives it the
    layout of the parameters, a function that splits it over all chips).
    """
    count, rows, columns = x.shape
    by_columns = _by_columns(count, rows, columns)
    if mesh is None or mesh.size == 1 or (count == 1 and not by_columns):
        # For one small matrix, repeating the work on every chip is faster than sending it.
        return x, lambda x: x, lambda x: x
    shape, spec = [count, rows, columns], [None] * 3
    axis = 2 if by_columns else 0
    shape[axis] += -shape[axis] % mesh.size
    spec[axis] = mesh.axis_names
    home, spread = sharding.of_kernels(shape, mesh), NamedSharding(mesh, P(*spec))
    at = lambda layout: lambda x: jax.lax.with_sharding_constraint(x, layout)  # noqa: E731
    return _pad(x, *shape), at(home), at(spread)
