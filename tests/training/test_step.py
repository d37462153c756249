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


DROPOUT = {
    "optimizer.name": "adamw",  # because Muon takes long to compile on a mesh
    "model.depth": 4,
    "model.dropout": 0.4,
    "objective.condition_dropout": 0.3,
}


def steps_of(rows=128, steps=3, **keys):
    """{metric: values of the first steps} of the step that the trainer makes for a config, on rows
    with a condition.
    """
    config = tiny_config(**{"train.batch_size": rows, "data.length": 6, **keys})
    mesh = sharding.make_mesh(config.mesh)
    method, frozen = build_method(config, 32, mesh)
    schedule = make_schedule(config.optimizer, rows, 0, 10)
    optimizer = make_optimizer(config.optimizer, schedule, jnp.float32, mesh)
    state, shardings = trainer.new_state(config, method, optimizer, mesh)
    step = trainer.jit_train_step(config, method, optimizer, schedule, mesh, shardings)
    draw = np.random.default_rng(0)
    found = []
    for _ in range(steps):
        tokens = draw.integers(0, 32, (rows, 6)).astype(np.int32)
        is_cond = np.arange(6) < draw.integers(0, 4, (rows, 1))
        batch = Batch(tokens, is_cond, np.ones((rows, 6), bool))
        state, metrics = step(state, frozen, sharding.share_rows(batch, mesh), jax.random.key(1))
        found.append(jax.device_get(metrics))
    return {name: np.array([one[name] for one in found]) for name in found[0]}


def assert_same_metrics(one, two, tolerance=5e-6):
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def alone():
    return steps_of(**DROPOUT)


@pytest.mark.parametrize(
    "keys",
    [
        {"mesh.data": 2},
        {"mesh.data": 8},
        {"mesh.fsdp": 2},
        {"mesh.tensor": 2},
        {"train.accumulate": 4},
        {"mesh.fsdp": 4, "train.accumulate": 2},
    ],
    ids=str,
)
def test_devices_and_micro_batches_change_no_losses(keys, alone):
    """The same seed has the same losses: roles, noise and dropout belong to the rows."""
    assert_same_metrics(alone, steps_of(**DROPOUT, **keys))


@pytest.mark.parametrize("rows, parts", [(8, 8), (12, 4)])
def test_small_batches(rows, parts):
    keys = {"optimizer.name": "adamw", "mesh.data": parts}
    assert_same_metrics(steps_of(rows, **{**keys, "mesh.data": 1}), steps_of(rows, **keys))


def test_two_devices_have_the_losses_of_one_with_muon():
    assert_same_metrics(steps_of(), steps_of(**{"mesh.data": 2}))


def test_more_parts_than_groups(alone):
    """In sixteen parts each has its own cards. Only the number of parts counts."""
    one = steps_of(**DROPOUT, **{"mesh.data": 8, "train.accumulate": 2})
    two = steps_of(**DROPOUT, **{"mesh.data": 2, "train.accumulate": 8})
    assert_same_metrics(one, two)
    assert np.all(np.abs(one["loss"] / alone["loss"] - 1) > 1e-3)


@pytest.mark.parametrize("warmup, decays", [(False, (0.9, 0.9)), (True, (1 / 10, 2 / 11))])
def test_the_average_of_the_parameters(warmup, decays):
    config = tiny_config(**{"optimizer.name": "adamw", "optimizer.ema_warmup": warmup})
    mesh = sharding.make_mesh(config.mesh)
    method, frozen = build_method(config, 32, mesh)
    optimizer = make_optimizer(config.optimizer, lambda step: 0.1)
    state, shardings = trainer.new_state(config, method, optimizer, mesh)
    step = trainer.jit_train_step(config, method, optimizer, lambda step: 0.1, mesh, shardings)
    tokens = np.ones((16, 8), np.int32)
    batch = sharding.share_rows(Batch(tokens, tokens > 1, tokens > 0), mesh)
    expected = jax.device_get(state.params)
    for decay in decays:
        state, _ = step(state, frozen, batch, jax.random.key(1))
        expected = jax.tree.map(
            lambda old, new, decay=decay: decay * old + (1 - decay) * new,
            expected,
            jax.device_get(state.params),
        )
    for one, two in zip(jax.tree.leaves(expected), jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)


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
