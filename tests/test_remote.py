"""Workdirs in a store, here file://: mirrored, resumed from another machine, sampled from."""

import shutil

import jax
import numpy as np
import pytest

from elf_jax import remote, trainer
from elf_jax.errors import UserError
from elf_jax.generate import load_trained
from tests.tiny import tiny_config


@pytest.fixture
def url(tmp_path):
    url = f"file://{tmp_path}/bucket/run"
    yield url
    shutil.rmtree(remote.mirror_of(url), ignore_errors=True)


def test_training_goes_on_from_the_store(url, tmp_path):
    config = tiny_config()
    trainer.train(config, remote.fetch(url), until=3)
    bucket = tmp_path / "bucket" / "run"
    assert {"config.json", "tokenizer", "checkpoints", "dataset.json"} <= {
        path.name for path in bucket.iterdir()
    }
    assert not list(remote.mirror_of(url).glob("checkpoints"))
    # Another machine has nothing but the store.
    shutil.rmtree(remote.mirror_of(url))
    mirror = remote.fetch(url)
    assert remote.location(mirror) == url
    state = trainer.train(config, mirror)
    assert int(state.step) == 6
    remote.send(mirror)
    lines = (bucket / trainer.METRICS).read_text().splitlines()
    assert len(lines) == 4  # steps 2, 3, 4 and 6: the log went on where it was
    params = load_trained(remote.fetch(url)).params
    for ours, kept in zip(jax.tree.leaves(params), jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_array_equal(ours, kept)


def test_a_local_workdir_is_left_alone(tmp_path):
    assert remote.fetch(tmp_path) == tmp_path
    remote.send(tmp_path)
    assert not list(tmp_path.iterdir()) and remote.location(tmp_path) == str(tmp_path)


def test_a_store_that_is_not_there():
    with pytest.raises(UserError, match="nosuch://bucket/run needs a library"):
        remote.fetch("nosuch://bucket/run")
