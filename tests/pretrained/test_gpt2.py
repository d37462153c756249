"""GPT-2 directories: reading, writing, and errors."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from elf_jax.core.errors import UserError
from elf_jax.pretrained.gpt2 import load_gpt2, save_gpt2
from tests.conftest import GOLDEN

TINY = GOLDEN / "gpt2_tiny"


def test_what_is_saved_is_loaded(tmp_path):
    config, params = load_gpt2(TINY)
    save_gpt2(tmp_path / "gpt2", config, params, eos_id=3)
    again, loaded = load_gpt2(tmp_path / "gpt2")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    theirs = load_file(TINY / "model.safetensors")
    ours = load_file(tmp_path / "gpt2" / "model.safetensors")
    assert ours.keys() == theirs.keys() - {"lm_head.weight"}
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(TINY, tmp_path / "gpt2")


def test_shards_without_the_prefix(copy):
    tensors = load_file(copy / "model.safetensors")
    tensors = {name.removeprefix("transformer."): array for name, array in tensors.items()}
    names, weight_map = sorted(tensors), {}
    for part, held in (("a.safetensors", names[::2]), ("b.safetensors", names[1::2])):
        save_file({name: tensors[name] for name in held}, copy / part)
        weight_map |= dict.fromkeys(held, part)
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    jax.tree.map(np.testing.assert_array_equal, load_gpt2(copy)[1], load_gpt2(TINY)[1])
    (copy / "b.safetensors").unlink()
    assert "b.safetensors is missing" in fails(copy)


def fails(directory):
    with pytest.raises(UserError) as error:
        load_gpt2(directory)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "key, value",
    [
        ("activation_function", "swish"),
        ("tie_word_embeddings", False),
        ("add_cross_attention", True),
        ("model_type", "opt"),
        ("n_head", 5),
        ("n_layer", "3"),
        ("n_inner", 0),
    ],
)
def test_configs_that_are_refused(copy, key, value):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, key: value}))
    message = fails(copy)
    assert key in message and str(value) in message


def test_files_that_are_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "n_positions": 65}))
    assert "wpe.weight" in fails(copy) and "shape" in fails(copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert "never loaded" in fails(copy)
    (copy / "config.json").write_text("{")
    assert "is damaged" in fails(copy)
    (copy / "config.json").unlink()
    assert "config.json is missing" in fails(copy)
