"""Muon compared with optax's, on one device and on a mesh, and the batches of matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from elf_jax.core import sharding
from elf_jax.hardware.program_cost import program_cost
from elf_jax.training.muon import _groups, orthogonalize, scale_by_muon

SHAPES = {"qkv": (3, 16, 48), "out": (3, 16, 16), "in": (16, 24), "down": (24, 16), "v": (8, 128)}


MESH = Mesh(np.array(jax.devices()).reshape(4, 2, 1), sharding.AXES)


def gradients(seed):
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    return {
        name: jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, SHAPES.items(), strict=True)
    }


def run(optimizer, steps=3):
    state = optimizer.init(gradients(0))
    for step in range(steps):
        updates, state = jax.jit(optimizer.update)(gradients(step), state, gradients(0))
    return updates


@pytest.fixture(scope="module")
def optax_updates():
    axes = optax.contrib.MuonDimensionNumbers
    numbers = {name: axes(len(shape) - 2, len(shape) - 1) for name, shape in SHAPES.items()}
    updates = run(optax.contrib.muon(1.0, muon_weight_dimension_numbers=numbers))
    return jax.tree.map(lambda update: -update, updates)


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 2e-5), (jnp.bfloat16, 0.06)])
def test_equals_optax(optax_updates, spread, dtype, tolerance):
    """In float32 up to rounding; in bfloat16 within 6% of the norm of the update."""
    ours = run(scale_by_muon(dtype, MESH if spread else None))
    for name, theirs in optax_updates.items():
        error = np.linalg.norm(ours[name] - theirs) / np.linalg.norm(theirs)
        assert error < tolerance, (name, error)


def test_the_singular_values_are_near_one():
    out = orthogonalize(gradients(1))
    for name, scale in (("in", np.sqrt(24 / 16)), ("down", 1.0)):
        values = np.linalg.svd(np.asarray(out[name]), compute_uv=False) / scale
        assert 0.5 < values.min() and values.max() < 1.3


@pytest.mark.parametrize("axis", ["data", "fsdp"])
def test_spreading_sends_every_matrix_once(axis):
    """If parameters are not split, only the results are sent, to all chips. If they are split, the
    matrices are sent to the chips that work on them and back, once each.
    """
    mesh = Mesh(np.array(jax.devices()).reshape((8, 1, 1) if axis == "data" else (1, 8, 1)),
                sharding.AXES)  # fmt: skip
    shape = (12, 64, 128)
    home = sharding.of_kernels(shape, mesh)
    optimizer = scale_by_muon(jnp.float32, mesh)
    kernels = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=home)
    state = jax.eval_shape(optimizer.init, kernels)
    state = state._replace(mu=kernels)

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state)
        return params - updates, state

    layouts = home, state._replace(count=sharding.replicated(mesh), mu=home)
    compiled = jax.jit(step, out_shardings=layouts).lower(kernels, state, kernels).compile()
    sent = program_cost(compiled.as_text()).collective_bytes
    padded = 16 * 64 * 128 * 4
    assert 0 < sent < 1.1 * padded * (1 if axis == "data" else 2 / 8)


def test_smaller_matrices_fill_idle_devices_only():
    shapes = [(12, 768, 4096), (12, 768, 2304), (12, 768, 2048), (1, 512, 1024), (1, 512, 32100)]
    assert _groups(shapes, 32) == [[4], [0, 1, 3], [2]]
    assert _groups(shapes, 1) == [[4], [0], [1], [2], [3]]
    assert _groups([(1, 8, 8), (2, 8, 8)], 1) == [[0, 1]]
