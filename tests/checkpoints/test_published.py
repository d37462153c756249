"""Published checkpoints: finding them, reading them exactly, and one-line errors."""

import shutil

import huggingface_hub
import jax
import numpy as np
import pytest
from flax import serialization, traverse_util

from elf_jax.checkpoints import published
from elf_jax.checkpoints.published import fetch, find_published, load_published
from elf_jax.core.errors import UserError
from elf_jax.methods.elf.published import from_published
from tests.conftest import GOLDEN

ORBAX = GOLDEN / "reference_checkpoint"
MSGPACK = GOLDEN / "reference_checkpoint.msgpack"


def load(path, weights="ema"):
    """(parameters, step) of the checkpoint at a path, or with a name on the hub."""
    return load_published(find_published(fetch(path)), weights, from_published)


def assert_same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert isinstance(a, np.ndarray) and a.dtype == np.float32
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("path", [ORBAX / "checkpoint_123", ORBAX, MSGPACK], ids=lambda p: p.name)
@pytest.mark.parametrize("weights, factor", [("live", 1.0), ("ema", 0.5)])
def test_weights_are_read_bit_for_bit(path, weights, factor, golden_params):
    params, step = load(path, weights)
    assert step == 123
    assert_same(
        params, jax.tree.map(lambda leaf: (factor * leaf).astype(np.float32), golden_params)
    )


def test_outputs_are_the_reference_s(golden, golden_predictor):
    data = golden("forward")
    params, _ = load(ORBAX, "live")
    z, x_prev = np.split(data["x"], 2, axis=-1)
    x_hat = jax.jit(golden_predictor.denoise)(params, z, x_prev, data["t"], data["w"])
    np.testing.assert_allclose(x_hat, data["denoise_x_pred"], rtol=1e-4, atol=1e-5)


def test_only_the_wanted_part_of_a_file_is_read(monkeypatch):
    read = []
    restore = serialization.msgpack_restore
    monkeypatch.setattr(
        published.serialization, "msgpack_restore", lambda data: read.append(data) or restore(data)
    )
    load(MSGPACK)
    assert len(read) == 2 and sum(map(len, read)) < 0.4 * MSGPACK.stat().st_size


def test_the_newest_is_taken_and_the_unfinished_left(tmp_path):
    for name in ("checkpoint_7.msgpack", "checkpoint_12", "other.txt"):
        (tmp_path / name).touch()
    for name in ("checkpoint_9", "checkpoint_100.orbax-checkpoint-tmp-4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "_METADATA").touch()
    assert find_published(tmp_path) == tmp_path / "checkpoint_12"
    (tmp_path / "checkpoint_12").unlink()
    assert find_published(tmp_path) == tmp_path / "checkpoint_9"


def save(path, **subtrees):
    path.write_bytes(serialization.msgpack_serialize(subtrees))
    return path


def nested(golden):
    return traverse_util.unflatten_dict(golden("params"), sep="/")


def test_other_subtrees_do_not_matter(tmp_path, golden, golden_params):
    path = save(tmp_path / "m.msgpack", other={"a": [1, "b"]}, params={"params": nested(golden)})
    params, step = load(path, "live")
    assert step == 0
    assert_same(params, golden_params)
    with pytest.raises(UserError, match="no ema weights .it holds other, params.: use --weights=l"):
        load(path, "ema")


def message(path, weights="live"):
    with pytest.raises(UserError) as error:
        load(path, weights)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_be_loaded(tmp_path, golden):
    half = tmp_path / "half.msgpack"
    half.write_bytes(MSGPACK.read_bytes()[:500_000])
    assert "half.msgpack is damaged" in message(half)
    (tmp_path / "text.msgpack").write_text("hello")
    assert "damaged" in message(tmp_path / "text.msgpack")
    (tmp_path / "model.pt").touch()
    assert "never loaded" in message(tmp_path / "model.pt")
    (tmp_path / "empty").mkdir()
    assert "no checkpoint in" in message(tmp_path / "empty")
    other = save(tmp_path / "other.msgpack", params={"dense": {"kernel": np.ones(2)}})
    assert "published network's parameters" in message(other)
    layers = {name: value for name, value in nested(golden).items() if name != "blocks_1"}
    assert "published network's parameters" in message(save(tmp_path / "l.msgpack", params=layers))


def test_a_damaged_orbax_directory(tmp_path):
    copy = shutil.copytree(ORBAX, tmp_path / "copy")
    for path in copy.rglob("*"):
        if path.is_file() and path.stat().st_size > 50_000:
            path.write_bytes(b"")
    assert "checkpoint_123 is damaged" in message(copy)


def test_a_name_on_the_hub(monkeypatch, golden_params):
    def download(name, ignore_patterns):
        assert name == "some-one/ELF-B.owt" and "*.pt" in ignore_patterns
        return str(ORBAX)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    params, _ = load("some-one/ELF-B.owt", "live")
    assert_same(params, golden_params)

    def offline(name, ignore_patterns):
        raise OSError("no route to host\nmore lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    assert "point at a local copy" in message("some-one/ELF-B.owt")
    assert "msgpack file) at '/no/where'" in message("/no/where")


def test_git_lfs_pointers_are_called_by_their_name(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    (tmp_path / "checkpoint.msgpack").write_text(pointer)
    copy = shutil.copytree(ORBAX, tmp_path / "orbax")
    large = max(
        (file for file in copy.rglob("*") if file.is_file()), key=lambda f: f.stat().st_size
    )
    large.write_text(pointer)
    for path, name in ((tmp_path / "checkpoint.msgpack", "checkpoint.msgpack"), (copy, large.name)):
        with pytest.raises(UserError, match=f"{name} is a Git LFS pointer, not the file itself"):
            load(path)
