"""The T5 encoder against the reference and the transformers library; the mask; what cannot be
loaded.
"""

import json
import shutil

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from elf_jax.core.errors import UserError
from elf_jax.data.packing import Rows
from elf_jax.latents.encoder import STATISTICS, attention_mask, build_encoder, measure, save_encoder
from elf_jax.networks.t5 import T5Config, T5Encoder
from elf_jax.pretrained.t5 import load_t5
from tests.conftest import GOLDEN


def settings(**kwargs):
    defaults = {
        "kind": "gaussian",
        "path": "",
        "width": 16,
        "structured": 0.75,
        "mean": 0.0,
        "std": 1.0,
    }
    return ml_collections.ConfigDict({**defaults, **kwargs})


def relative_error(ours, reference):
    return np.max(np.abs(ours - reference)) / np.max(np.abs(reference))


@pytest.mark.parametrize("name", ["t5_tiny", "t5v11_tiny"])
def test_matches_transformers(name):
    data = np.load(GOLDEN / name / "golden.npz")
    config, params = load_t5(GOLDEN / name)
    valid = data["attention_mask"] > 0
    mask = jnp.asarray(np.broadcast_to(valid[:, None, :], valid.shape + valid.shape[-1:]))
    ours = jax.jit(T5Encoder(config).apply)({"params": params}, data["input_ids"], mask)
    assert relative_error(ours, data["last_hidden_state"]) < 1e-5


def reference_encoder(golden):
    """(network, parameters) of encoder.npz, whose layers are separate subtrees with kernels [in,
    out].
    """
    data = golden("encoder")
    sizes = (int(n) for n in data["config"])
    vocab_size, d_model, d_kv, d_ff, num_layers, num_heads = sizes
    config = T5Config(vocab_size, d_model, d_kv, d_ff, num_layers, num_heads)
    names = {
        **{f"self_attention/{m}/kernel": f"layer_0/SelfAttention/{m}/kernel" for m in "qkvo"},
        "feed_forward/wi/kernel": "layer_1/DenseReluDense/wi/kernel",
        "feed_forward/wo/kernel": "layer_1/DenseReluDense/wo/kernel",
        "self_attention/norm/scale": "layer_0/layer_norm/weight",
        "feed_forward/norm/scale": "layer_1/layer_norm/weight",
    }
    flat = {
        f"blocks/{ours}": np.stack(
            [data[f"params/encoder/block_{i}/{theirs}"] for i in range(num_layers)]
        )
        for ours, theirs in names.items()
    }
    bias = "params/encoder/block_0/layer_0/SelfAttention/relative_attention_bias/rel_embedding"
    flat["relative_bias"] = data[bias]
    flat["embed/embedding"] = data["params/shared/embedding"]
    flat["final_norm/scale"] = data["params/encoder/final_layer_norm/weight"]
    return T5Encoder(config), traverse_util.unflatten_dict(flat, sep="/")


def test_matches_the_reference(golden):
    data = golden("encoder")
    network, params = reference_encoder(golden)
    mask = attention_mask(data["is_cond"], data["is_valid"], np.zeros(4, bool))
    np.testing.assert_array_equal(mask, data["encoder_attention_mask"] > 0)
    ours = network.apply({"params": params}, data["input_ids"], mask)
    assert relative_error(ours, data["output"]) < 1e-5


def t5_encoder():
    return build_encoder(settings(kind="t5", path=str(GOLDEN / "t5_tiny"), std=0.2), 60)


def test_a_dropped_condition_is_zero_and_changes_nothing_else():
    encoder = t5_encoder()
    encode = jax.jit(encoder.encode)
    tokens = jax.random.randint(jax.random.key(0), (2, 10), 0, 60)
    other = tokens.at[:, :4].set(5)
    is_cond = jnp.arange(10)[None] < jnp.array([[4], [4]])
    is_valid = jnp.arange(10)[None] < jnp.array([[8], [10]])
    drop = jnp.array([True, False])
    one, two = (encode(encoder.params, ids, is_cond, is_valid, drop) for ids in (tokens, other))
    assert not np.any(one[0, :4]) and np.all(np.any(one[1, :4] != 0, axis=-1))
    np.testing.assert_array_equal(one[0], two[0])
    assert np.all(np.any(one[1, 4:] != two[1, 4:], axis=-1))
    # The condition itself never sees the target.
    target = tokens.at[:, 4:].set(7)
    three = encode(encoder.params, target, is_cond, is_valid, drop)
    np.testing.assert_array_equal(one[1, :4], three[1, :4])


def test_padding_changes_nothing():
    encoder = t5_encoder()
    encode = jax.jit(encoder.encode)
    tokens = jax.random.randint(jax.random.key(0), (2, 10), 0, 60)
    is_valid = jnp.arange(10)[None] < jnp.array([[6], [6]])
    args = is_valid & False, is_valid, jnp.zeros(2, bool)
    one = encode(encoder.params, tokens, *args)
    two = encode(encoder.params, tokens.at[:, 6:].set(3), *args)
    np.testing.assert_array_equal(one[:, :6], two[:, :6])


def test_gaussian_latents_are_standard_and_frozen():
    encoder = build_encoder(settings(width=64), 500, seed=3)
    tokens = jnp.arange(500)[None]
    ones = tokens >= 0
    args = tokens, ~ones, ones, jnp.zeros(1, bool)
    latents = encoder.encode(encoder.params, *args)
    assert latents.shape == (1, 500, 64)
    assert abs(np.mean(latents)) < 0.02 and abs(np.std(latents) - 1) < 0.02
    again = build_encoder(settings(width=64), 500, seed=3)
    np.testing.assert_array_equal(latents, again.encode(again.params, *args))
    shifted = build_encoder(settings(width=64, mean=1.0, std=2.0), 500, seed=3)
    np.testing.assert_allclose(shifted.encode(shifted.params, *args), (latents - 1) / 2, atol=1e-6)


def pair_rows(count=70, length=12, seed=0):
    generator = np.random.default_rng(seed)
    tokens = generator.integers(2, 60, (count, length)).astype(np.int32)
    cond = generator.integers(0, 5, count).astype(np.int32)
    return Rows(tokens, cond, cond + generator.integers(1, 8, count).astype(np.int32))


def test_measured_latents_have_mean_0_and_deviation_1(tmp_path):
    rows, made = pair_rows(), settings(kind="t5", path=str(GOLDEN / "t5_tiny"), std=0.0)
    encoder = build_encoder(made, 60, rows=rows)
    fields = rows.take(np.arange(len(rows)))
    drop = np.zeros(len(rows), bool)
    latents = jax.jit(encoder.encode)(encoder.params, **fields, drop=drop)
    latents = np.asarray(latents)[fields["is_valid"]]
    assert abs(latents.mean()) < 1e-4 and abs(latents.std() - 1) < 1e-4
    # Kept, they are what sampling uses, whatever rows there are; they are part of the workdir.
    save_encoder(encoder, made, tmp_path)
    for other in (None, pair_rows(seed=1)):
        again = build_encoder(made, 60, workdir=tmp_path, rows=other)
        assert (again.mean, again.std) == (encoder.mean, encoder.std)
    assert build_encoder(made, 60, rows=pair_rows(seed=1)).std != encoder.std
    (tmp_path / STATISTICS).write_text("{}")
    with pytest.raises(UserError, match="encoder_stats.json is damaged"):
        build_encoder(made, 60, workdir=tmp_path, rows=rows)
    with pytest.raises(UserError, match="encoder_stats.json is missing"):
        build_encoder(made, 60, workdir=tmp_path / "other")


def test_a_sample_of_the_rows_is_measured():
    encoder = t5_encoder()
    whole, part = (measure(encoder, pair_rows(), positions) for positions in (10**6, 17 * 12))
    assert whole != part and abs(whole[1] / part[1] - 1) < 0.1


def test_only_a_t5_is_measured(tmp_path):
    made = settings(std=0.0)
    encoder = build_encoder(made, 10)
    save_encoder(encoder, made, tmp_path)
    assert (encoder.mean, encoder.std) == (0.0, 1.0) and not (tmp_path / STATISTICS).exists()
    with pytest.raises(UserError, match="set both or neither"):
        build_encoder(settings(mean=1.0, std=0.0), 10)
    with pytest.raises(UserError, match="above 0"):
        build_encoder(settings(std=-1.0), 10)


def test_encoding_under_jit_changes_nothing():
    encoder = t5_encoder()
    fields = pair_rows(4).take(np.arange(4))
    drop = np.array([True, False, False, True])
    eager = encoder.encode(encoder.params, **fields, drop=drop)
    jitted = jax.jit(encoder.encode)(encoder.params, **fields, drop=drop)
    np.testing.assert_allclose(eager, jitted, atol=1e-5)


@pytest.fixture
def t5_copy(tmp_path):
    return shutil.copytree(GOLDEN / "t5_tiny", tmp_path / "t5")


def fails(directory, vocab_size=60, **kwargs):
    with pytest.raises(UserError) as error:
        build_encoder(settings(kind="t5", path=str(directory), **kwargs), vocab_size)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_be_loaded(t5_copy, tmp_path):
    assert "config.encoder.path" in fails(tmp_path / "nowhere")
    assert "config.data.tokenizer" in fails(t5_copy, vocab_size=10_000)
    weights = t5_copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "damaged" in fails(t5_copy)
    weights.write_bytes(whole)
    tensors = load_file(weights)
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    save_file({**tensors, name: tensors[name][:-1]}, weights)
    assert name in fails(t5_copy) and "shape" in fails(t5_copy)
    save_file({key: value for key, value in tensors.items() if key != name}, weights)
    assert name in fails(t5_copy)
    weights.unlink()
    (t5_copy / "pytorch_model.bin").write_bytes(b"pickle")
    assert "never loaded" in fails(t5_copy)


def test_unknown_activation_and_kind(t5_copy):
    config = json.loads((t5_copy / "config.json").read_text())
    (t5_copy / "config.json").write_text(json.dumps({**config, "feed_forward_proj": "swish"}))
    assert "swish" in fails(t5_copy)
    with pytest.raises(UserError, match="gaussian, cooccurrence, t5"):
        build_encoder(settings(kind="bert"), 10)


def test_shards_and_half_precision(t5_copy):
    tensors = load_file(t5_copy / "model.safetensors")
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for part, held in parts.items():
        save_file({name: tensors[name].astype(np.float16) for name in held}, t5_copy / part)
    weight_map = {name: part for part, held in parts.items() for name in held}
    (t5_copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (t5_copy / "model.safetensors").unlink()
    _, params = load_t5(t5_copy)
    _, whole = load_t5(GOLDEN / "t5_tiny")
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(whole), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_tokens_of_like_use_lie_together(tmp_path):
    """Letters follow "letter", digits follow "digit": the embedding tells the two kinds apart."""
    generator = np.random.default_rng(0)
    kind = generator.integers(0, 2, 400)
    word = generator.integers(0, 20, 400)
    tokens = np.stack([3 + kind, 5 + 20 * kind + word, np.ones(400, int)], axis=1).astype(np.int32)
    rows = Rows(tokens, np.zeros(400, np.int32), np.full(400, 3, np.int32))
    made = settings(kind="cooccurrence", width=16)
    encoder = build_encoder(made, 45, rows=rows)
    table = np.asarray(encoder.params["table"])[:, :12]
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    cosine = table[5:45] @ table[5:45].T
    alike = np.equal.outer(np.arange(40) // 20, np.arange(40) // 20)
    assert cosine[alike & ~np.eye(40, dtype=bool)].mean() > cosine[~alike].mean() + 0.5
    # Kept, it is read back; without it or the rows there is nothing to make it from.
    save_encoder(encoder, made, tmp_path)
    again = build_encoder(made, 45, workdir=tmp_path)
    np.testing.assert_array_equal(again.params["table"], encoder.params["table"])
    with pytest.raises(UserError, match="encoder.safetensors is missing"):
        build_encoder(made, 45, workdir=tmp_path / "other")
    with pytest.raises(UserError, match="has no 48 co-occurrence channels"):
        build_encoder(settings(kind="cooccurrence", width=64), 45, rows=rows)
