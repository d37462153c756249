"""The held-out losses of a model do not depend on the devices."""

import jax
import numpy as np
import pytest

from elf_jax.core import sharding
from elf_jax.data.dataset import load_dataset
from elf_jax.data.tokenizer import vocab_size
from elf_jax.methods.registry import build_method
from elf_jax.training.validation import held_out_losses, jit_eval_step
from tests.tiny import tiny_config


def losses_on(devices, count, batch_size, home):
    """Held-out losses of `count` rows with random parameters, in batches of `batch_size`."""
    keys = {"mesh.data": devices, "train.batch_size": batch_size, "train.validation_batches": 9}
    config = tiny_config(**keys, **{"data.validation_fraction": 0.3})
    dataset, mesh = load_dataset(config.data, home / "tokenizer"), sharding.make_mesh(config.mesh)
    rows = dataset.validation.subset(count)
    assert len(rows) == count
    method, frozen = build_method(config, vocab_size(dataset.tokenizer), mesh, rows=rows)
    params = jax.jit(method.init, static_argnums=1)(jax.random.key(0), config.data.length)
    draw = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: draw.normal(0, 0.3, leaf.shape).astype(np.float32), jax.device_get(params)
    )
    step = jit_eval_step(method, config)
    return held_out_losses(method, step, params, frozen, rows, config, mesh)


@pytest.mark.parametrize("count, batch_size", [(21, 128), (101, 40), (50, 64)])
def test_devices_change_no_held_out_losses(count, batch_size, tmp_path):
    """For fewer rows than a batch, for several batches, and for rows that no mesh divides."""
    one, two, eight = (losses_on(devices, count, batch_size, tmp_path) for devices in (1, 2, 8))
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=1e-5), name
        assert eight[name] == pytest.approx(value, rel=1e-5), name
