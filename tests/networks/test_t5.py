"""The T5 modules: the decoder compared with the transformers library, bfloat16, masks."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core import sharding
from elf_jax.hardware.topologies import topology_devices
from elf_jax.networks.attention import Groups
from elf_jax.networks.t5 import T5, T5Config, T5Encoder, relative_buckets
from elf_jax.pretrained.t5 import load_t5
from tests.conftest import GOLDEN
from tests.pretrained.test_t5 import load_whole_t5
from tests.tiny import tiny_config


def relative_error(ours, reference):
    return np.max(np.abs(ours - reference)) / np.max(np.abs(reference))


def full_mask(valid):
    return np.broadcast_to(valid[:, None, :], (*valid.shape, valid.shape[1]))


def golden_t5(name):
    """(config, parameters of `T5`, arguments of its call, outputs of the transformers library)."""
    data = dict(np.load(GOLDEN / name / "golden.npz"))
    config, params = load_whole_t5(GOLDEN / name)
    valid = data["attention_mask"] > 0
    return (
        config,
        params,
        (data["input_ids"], full_mask(valid), valid, data["decoder_input_ids"]),
        data,
    )


@functools.cache
def apply(config):
    """Jitted: (parameters, arguments of `T5`) -> (hidden states of the encoder, logits)."""

    def both(network, inputs, mask, *args):
        return network.encoder(inputs, mask), network(inputs, mask, *args)

    return jax.jit(lambda params, *args: T5(config).apply({"params": params}, *args, method=both))


@pytest.mark.parametrize("name", ["t5_span_tiny", "t5_tied_tiny"])
def test_the_decoder_matches_transformers(name):
    config, params, args, data = golden_t5(name)
    assert config.tie_word_embeddings == (name == "t5_tied_tiny")
    hidden, logits = apply(config)(params, *args)
    assert relative_error(hidden, data["encoder_last_hidden_state"]) < 1e-5
    assert relative_error(logits, data["logits"]) < 1e-5
    # ELF loads only the encoder. It has the same parameters.
    jax.tree.map(np.testing.assert_array_equal, load_t5(GOLDEN / name)[1], params["encoder"])


def test_the_decoder_sees_the_past_and_valid_inputs_alone():
    config, params, (inputs, mask, valid, previous), _ = golden_t5("t5_tied_tiny")
    valid, mask = valid.copy(), mask.copy()
    valid[:, 20:], mask[:, :, 20:] = False, False
    one = apply(config)(params, inputs, mask, valid, previous)[1]
    inputs, previous = inputs.copy(), previous.copy()
    inputs[:, 20:], previous[:, 4] = 9, 9
    two = apply(config)(params, inputs, mask, valid, previous)[1]
    np.testing.assert_array_equal(one[:, :4], two[:, :4])
    assert np.all(np.any(one[:, 4:] != two[:, 4:], axis=-1))


def test_bfloat16_stays_close_to_float32():
    """The residual stream is float32; only the matrix products are rounded."""
    data = np.load(GOLDEN / "t5v11_tiny" / "golden.npz")
    config, params = load_t5(GOLDEN / "t5v11_tiny")
    valid = data["attention_mask"] > 0
    encode = jax.jit(T5Encoder(config, jnp.bfloat16).apply)
    low = encode({"params": params}, data["input_ids"], full_mask(valid))
    assert low.dtype == jnp.float32
    error = (np.asarray(low) - data["last_hidden_state"])[valid]
    assert np.sqrt(np.mean(error**2) / np.mean(data["last_hidden_state"][valid] ** 2)) < 0.01


def test_a_query_without_keys_is_finite():
    config, params, (inputs, mask, *args), data = golden_t5("t5_tied_tiny")
    mask = mask.copy()
    mask[1], mask[0, 3] = False, False
    hidden, _ = apply(config)(params, inputs, mask, *args)
    assert np.all(np.isfinite(hidden))
    others = np.arange(hidden.shape[1]) != 3
    assert np.any(hidden[0, others] != data["encoder_last_hidden_state"][0, others])


def test_buckets_of_one_direction():
    buckets = relative_buckets(200, 32, 128, bidirectional=False)
    assert np.all(buckets[np.triu_indices(200)] == 0)  # later keys are never attended to
    distances = buckets[199, ::-1]
    np.testing.assert_array_equal(distances[:16], np.arange(16))
    assert np.all(np.diff(distances) >= 0) and distances[127] == distances[199] == 31
    assert distances[112] == 30  # 16 + 16 log(112 / 16) / log(128 / 16) = 30.97


def test_on_tpus_no_layer_transposes_its_input():
    """The TPU compiler keeps the state between layers as the kernel's inputs lie in memory."""
    mesh = sharding.make_mesh(tiny_config().mesh, topology_devices("v5p:2x2x1")[:1])
    at = sharding.replicated(mesh)
    encoder = T5Encoder(T5Config(300, 256, 64, 512, 2, 4), jnp.bfloat16, mesh)
    tokens = jax.ShapeDtypeStruct((2, 512), jnp.int32)
    inputs = tokens, Groups(tokens, tokens)
    params = jax.eval_shape(encoder.init, jax.random.key(0), *inputs)
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), (params, *inputs)
    )
    text = jax.jit(encoder.apply).lower(*arguments).compile().as_text()
    assert set(re.findall(r"f32\[2,512,256\]\{([\d,]+)", text)) == {"2,1,0"}
