"""The T5 modules: the decoder against the transformers library, bfloat16, masks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.networks.t5 import T5, T5Config, T5Encoder, relative_buckets
from elf_jax.t5_files import load_t5, load_t5_with_decoder, save_t5
from tests.conftest import GOLDEN

SMALL = T5Config(50, d_model=12, d_kv=5, d_ff=20, num_layers=2, num_heads=3, num_decoder_layers=1)


def relative_error(ours, reference):
    return np.max(np.abs(ours - reference)) / np.max(np.abs(reference))


def full_mask(valid):
    return np.broadcast_to(valid[:, None, :], (*valid.shape, valid.shape[1]))


@pytest.mark.parametrize("name", ["t5_span_tiny", "t5_tied_tiny"])
def test_the_decoder_matches_transformers(name):
    data = np.load(GOLDEN / name / "golden.npz")
    config, params = load_t5_with_decoder(GOLDEN / name)
    assert config.tie_word_embeddings == (name == "t5_tied_tiny")
    valid = data["attention_mask"] > 0
    apply = jax.jit(T5(config).apply)
    logits = apply(
        {"params": params}, data["input_ids"], full_mask(valid), valid, data["decoder_input_ids"]
    )
    assert relative_error(logits, data["logits"]) < 1e-5
    # The encoder alone, as ELF uses it, is the same one.
    config, encoder = load_t5(GOLDEN / name)
    hidden = T5Encoder(config).apply({"params": encoder}, data["input_ids"], full_mask(valid))
    assert relative_error(hidden, data["encoder_last_hidden_state"]) < 1e-5


@pytest.mark.parametrize("name", ["t5_tiny", "t5v11_tiny"])
def test_bfloat16_stays_close_to_float32(name):
    """The residual stream is float32, so that only the products are rounded."""
    data = np.load(GOLDEN / name / "golden.npz")
    config, params = load_t5(GOLDEN / name)
    valid = data["attention_mask"] > 0
    low = T5Encoder(config, jnp.bfloat16).apply(
        {"params": params}, data["input_ids"], full_mask(valid)
    )
    assert low.dtype == jnp.float32
    error = (np.asarray(low) - data["last_hidden_state"])[valid]
    assert np.sqrt(np.mean(error**2) / np.mean(data["last_hidden_state"][valid] ** 2)) < 0.01


def init(config):
    tokens, ones = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
    mask = jnp.ones((1, 2, 2), bool)
    return T5(config).init(jax.random.key(0), tokens, mask, ones, tokens)["params"]


def test_a_query_without_keys_is_finite():
    params = init(SMALL)["encoder"]
    tokens = jnp.arange(14).reshape(2, 7)
    mask = jnp.ones((2, 7, 7), bool).at[1].set(False).at[0, 3].set(False)
    out = T5Encoder(SMALL).apply({"params": params}, tokens, mask)
    assert np.all(np.isfinite(out))


def test_the_decoder_sees_the_past_alone():
    params = init(SMALL)
    inputs, previous = jnp.arange(5)[None], jnp.arange(6)[None]
    valid = jnp.arange(5)[None] < 4

    def logits(inputs, previous):
        return T5(SMALL).apply({"params": params}, inputs, full_mask(valid), valid, previous)

    one = logits(inputs, previous)
    two = logits(inputs.at[0, 4].set(9), previous.at[0, 4].set(9))
    np.testing.assert_array_equal(one[:, :4], two[:, :4])
    assert np.all(np.any(one[:, 4:] != two[:, 4:], axis=-1))


@pytest.mark.parametrize("gated", [False, True])
def test_what_is_written_is_read_back(gated, tmp_path):
    config = dataclasses.replace(
        SMALL,
        gated=gated,
        activation="gelu_new" if gated else "relu",
        tie_word_embeddings=not gated,
    )
    params = init(config)
    save_t5(tmp_path, config, params, pad_id=0, eos_id=1)
    again, read = load_t5_with_decoder(tmp_path)
    assert again == config
    assert jax.tree.structure(params) == jax.tree.structure(read)
    jax.tree.map(np.testing.assert_array_equal, params, read)


def test_buckets_of_one_direction():
    buckets = relative_buckets(200, 32, 128, bidirectional=False)
    assert np.all(buckets[np.triu_indices(200)] == 0)  # keys to the right are never attended to
    distances = buckets[199, ::-1]
    np.testing.assert_array_equal(distances[:16], np.arange(16))
    assert np.all(np.diff(distances) >= 0) and distances[127] == distances[199] == 31
    assert distances[112] == 30  # 16 + 16 log(112 / 16) / log(128 / 16) = 30.97
