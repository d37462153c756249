"""The training step gives the same result on any mesh and with any number of micro-batches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core import sharding
from elf_jax.core.types import Batch, counted_positions
from elf_jax.methods.registry import build_method
from elf_jax.training import trainer
from elf_jax.training.optimizer import make_optimizer, make_schedule
from elf_jax.training.step import StepSettings, make_train_step
from tests.tiny import tiny_config


def step_on_mesh(mesh, groups, accumulate, rows=16, steps=2):
    """(state, losses) after `steps` steps on random rows. In each of the `groups` parts of a
    micro-batch, rows are divided between both losses separately.
    """
    config = tiny_config(**{"data.length": 6, "optimizer.clip": 1e9})
    method, frozen = build_method(config, 32, mesh)
    method = dataclasses.replace(method, groups=groups)
    schedule = make_schedule(config.optimizer, rows, 0, 10)
    optimizer = make_optimizer(config.optimizer, schedule, jnp.float32, mesh)
    state, shardings = trainer.new_state(config, method, optimizer, mesh)
    settings = StepSettings(lambda batch: counted_positions(batch, True), groups, accumulate, 0.9)
    step = make_train_step(method, optimizer, schedule, settings)
    step = jax.jit(step, out_shardings=(shardings, None))
    tokens = jax.random.randint(jax.random.key(0), (rows, 6), 0, 32)
    is_cond = jnp.zeros((rows, 6), bool)
    batch = sharding.put_rows(Batch(tokens, is_cond, ~is_cond), mesh)
    losses = []
    for _ in range(steps):
        state, metrics = step(state, frozen, batch, jax.random.key(1))
        losses.append(float(metrics["loss"]))
    return jax.device_get(state), losses


def mesh_of(data, fsdp=1, tensor=1):
    devices = jax.devices()[: data * fsdp * tensor]
    return sharding.make_mesh({"data": data, "fsdp": fsdp, "tensor": tensor}, devices)


def assert_close(one, two, tolerance=2e-5):
    for a, b in zip(jax.tree.leaves(one[0].params), jax.tree.leaves(two[0].params), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)
    np.testing.assert_allclose(one[1], two[1], rtol=tolerance)


@pytest.fixture(scope="module")
def one_device():
    return step_on_mesh(mesh_of(1), groups=8, accumulate=1)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 4, 1)])
def test_eight_devices_equal_one(shape, one_device):
    assert_close(step_on_mesh(mesh_of(*shape), groups=8, accumulate=1), one_device)


def test_a_tensor_axis_changes_nothing(one_device):
    """Eight groups of rows, two for each pair of devices, compared with eight on one device."""
    assert_close(step_on_mesh(mesh_of(2, 2, 2), groups=8, accumulate=1), one_device)


def test_micro_batches_change_nothing(one_device):
    assert_close(step_on_mesh(mesh_of(1), groups=2, accumulate=4), one_device)


def test_sharded_state_is_split():
    config = tiny_config(**{"mesh.data": 1, "mesh.fsdp": 8})
    mesh = sharding.make_mesh(config.mesh)
    method, _ = build_method(config, 32, mesh)
    optimizer = make_optimizer(config.optimizer, lambda step: 0.1)
    state, _ = trainer.new_state(config, method, optimizer, mesh)
    for tree in (state.params, state.ema):
        kernel = tree["blocks"]["attn"]["qkv"]["kernel"]
        assert kernel.addressable_shards[0].data.size == kernel.size // 8
    split = [leaf for leaf in jax.tree.leaves(state.opt_state) if not leaf.is_fully_replicated]
    assert len(split) > 8
