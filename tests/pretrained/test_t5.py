"""T5 directories: reading, writing, copying, and errors."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from elf_jax.core.errors import UserError
from elf_jax.networks.t5 import T5
from elf_jax.pretrained.t5 import KIND, copy_t5, load_t5, read_config, save_t5, tensor_name
from elf_jax.pretrained.tensors import read_parameters
from tests.conftest import GOLDEN


def load_whole_t5(directory):
    """Like `load_t5`, but also with the parameters of the decoder."""
    config = read_config(directory)
    tokens, valid = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
    args = tokens, jnp.ones((1, 2, 2), bool), valid, tokens
    shapes = jax.eval_shape(T5(config).init, jax.random.key(0), *args)["params"]
    return config, read_parameters(directory, KIND, shapes, functools.partial(tensor_name, config))


@pytest.mark.parametrize("name", ["t5_span_tiny", "t5_tied_tiny"])
def test_what_is_written_is_read_back(name, tmp_path):
    config, params = load_whole_t5(GOLDEN / name)
    save_t5(tmp_path, config, params, pad_id=0, eos_id=1)
    again, read = load_whole_t5(tmp_path)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, params, read)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / file).read_bytes() == (GOLDEN / name / file).read_bytes()


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(GOLDEN / "t5_tiny", tmp_path / "t5")


def fails(directory):
    with pytest.raises(UserError) as error:
        load_t5(directory)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_that_are_refused(copy):
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "damaged" in fails(copy)
    weights.write_bytes(whole)
    tensors = load_file(weights)
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    save_file({**tensors, name: tensors[name][:-1]}, weights)
    assert name in fails(copy) and "shape" in fails(copy)
    save_file({key: value for key, value in tensors.items() if key != name}, weights)
    assert name in fails(copy)
    save_file({**tensors, name: tensors[name].astype(np.int32)}, weights)
    assert "not floating point" in fails(copy)
    weights.unlink()
    (copy / "pytorch_model.bin").write_bytes(b"pickle")
    assert "never loaded" in fails(copy)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("feed_forward_proj", "swish", "'swish'; supported are relu, gated-gelu"),
        ("feed_forward_proj", ["relu"], "supported are relu"),
        ("model_type", "bert", "'bert'; supported are t5 and mt5"),
        ("num_layers", "two", "does not describe a T5"),
        ("d_model", None, "does not describe a T5"),
    ],
)
def test_configs_that_are_refused(copy, key, value, message):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, key: value}))
    assert message in fails(copy)


def test_no_config(copy):
    (copy / "config.json").write_text("{")
    assert "is damaged" in fails(copy)
    (copy / "config.json").unlink()
    assert "config.json is missing" in fails(copy)


def test_git_lfs_pointers_are_called_by_their_name(copy):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    for name in ("model.safetensors", "config.json", "model.safetensors.index.json"):
        file = copy / name
        before = file.read_bytes() if file.exists() else None
        file.write_text(pointer)
        assert f"{name} is a Git LFS pointer, not the file itself: run git lfs pull" in fails(copy)
        if before is not None:
            file.write_bytes(before)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}']
)
def test_a_damaged_index(copy, text):
    (copy / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json is damaged" in fails(copy)


def split_in_two(directory):
    """Writes the tensors as two shards in half precision, with an index."""
    tensors = load_file(directory / "model.safetensors")
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for part, held in parts.items():
        save_file({name: tensors[name].astype(np.float16) for name in held}, directory / part)
    weight_map = {name: part for part, held in parts.items() for name in held}
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    (directory / "model.safetensors").unlink()


def test_shards_and_half_precision(copy):
    split_in_two(copy)
    _, params = load_t5(copy)
    _, whole = load_t5(GOLDEN / "t5_tiny")
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(whole), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_an_encoder_that_was_saved_alone(copy):
    """Its embedding has the name that it has in the encoder."""
    tensors = load_file(copy / "model.safetensors")
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    save_file(tensors, copy / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, load_t5(copy)[1], load_t5(GOLDEN / "t5_tiny")[1])


def test_a_copy_is_the_same_model_and_nothing_else(copy, tmp_path):
    split_in_two(copy)
    (copy / "pytorch_model.bin").write_bytes(b"pickle")
    (copy / "tokenizer.json").write_text("{}")
    copied = tmp_path / "copied"
    copy_t5(copy, copied)
    assert {path.name for path in copied.iterdir()} == {
        "config.json", "a.safetensors", "b.safetensors", "model.safetensors.index.json",
    }  # fmt: skip
    jax.tree.map(
        np.testing.assert_array_equal, *(load_t5(d)[1] for d in (copy, tmp_path / "copied"))
    )
