"""GPT-2 against the transformers library; its files read and written; what is refused."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from elf_jax.core.errors import UserError
from elf_jax.networks.gpt2 import GPT2, GPT2Config, chunked_nll
from elf_jax.pretrained.gpt2 import load_gpt2, save_gpt2
from tests.conftest import GOLDEN

TINY = GOLDEN / "gpt2_tiny"


def logits(config, params, tokens):
    return jax.jit(GPT2(config).apply, static_argnames="method")(
        {"params": params}, tokens, method="logits"
    )


def test_matches_transformers():
    data = np.load(TINY / "golden.npz")
    valid = data["attention_mask"] > 0
    ours = logits(*load_gpt2(TINY), data["input_ids"])
    assert ours.dtype == jnp.float32
    error = np.abs(ours - data["logits"])[valid].max() / np.abs(data["logits"]).max()
    assert error < 1e-5


@pytest.mark.parametrize("option", ["scale_attn_weights", "scale_attn_by_inverse_layer_idx"])
def test_attention_scales(option):
    """Each option equals a change of the queries themselves."""
    tokens = np.load(TINY / "golden.npz")["input_ids"]
    config, params = load_gpt2(TINY)
    plain = logits(config, params, tokens)
    divisor = np.sqrt(8.0) if option == "scale_attn_weights" else 1 / np.array([1.0, 2.0, 3.0])
    divisor = np.broadcast_to(divisor, 3)
    flat = traverse_util.flatten_dict(params, sep="/")
    for name, axes in (("kernel", (1, 1)), ("bias", (1,))):
        factor = np.ones((3, *[1] * (len(axes) - 1), 96), np.float32)
        factor[..., :32] = (1 / divisor).reshape(-1, *axes)
        flat[f"blocks/attn/qkv/{name}"] = flat[f"blocks/attn/qkv/{name}"] * factor
    value = not getattr(config, option)
    changed = GPT2Config(**{**vars(config), option: value})
    scaled = traverse_util.unflatten_dict(flat, sep="/")
    np.testing.assert_allclose(logits(changed, scaled, tokens), plain, rtol=1e-4, atol=1e-5)
    assert np.abs(logits(changed, params, tokens) - plain).max() > 1e-3


def test_chunks_change_nothing():
    keys = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(keys[0], (2, 11, 4))
    head = jax.random.normal(keys[1], (9, 4))
    targets = jax.random.randint(keys[2], (2, 11), 0, 9)

    @jax.jit
    def both(hidden):
        whole = jax.nn.log_softmax(hidden @ head.T)
        whole = -jnp.take_along_axis(whole, targets[..., None], -1)[..., 0]
        return whole, chunked_nll(hidden, head, targets, chunk=4)

    expected, found = both(hidden)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


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
    assert "not valid JSON" in fails(copy)
    (copy / "config.json").unlink()
    assert "config.json is missing" in fails(copy)
