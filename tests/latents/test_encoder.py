"""The T5 encoder against the reference and the transformers library, and the attention mask."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from benchmarks.session.goldens import reference_encoder
from elf_jax.core.errors import UserError
from elf_jax.data.packing import Rows
from elf_jax.latents.build import build_encoder, describe_encoder
from elf_jax.latents.encoder import attention_mask
from elf_jax.networks.t5 import T5Encoder
from elf_jax.pretrained.t5 import load_t5
from tests.conftest import GOLDEN


def settings(**kwargs):
    """A config section `encoder`."""
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


def test_matches_the_reference(golden):
    data = golden("encoder")
    network, params = reference_encoder(golden)
    mask = attention_mask(data["is_cond"], data["is_valid"], np.zeros(4, bool))
    np.testing.assert_array_equal(mask, data["encoder_attention_mask"] > 0)
    ours = network.apply({"params": params}, data["input_ids"], mask)
    assert relative_error(ours, data["output"]) < 1e-5


def t5_encoder():
    """(`Encoder`, parameters)."""
    return build_encoder(settings(kind="t5", path=str(GOLDEN / "t5_tiny"), std=0.2), 60)


def test_a_dropped_condition_is_zero_and_changes_nothing_else():
    encoder, params = t5_encoder()
    encode = jax.jit(encoder.encode)
    tokens = jax.random.randint(jax.random.key(0), (2, 10), 0, 60)
    other = tokens.at[:, :4].set(5)
    is_cond = jnp.arange(10)[None] < jnp.array([[4], [4]])
    is_valid = jnp.arange(10)[None] < jnp.array([[8], [10]])
    drop = jnp.array([True, False])
    one, two = (encode(params, ids, is_cond, is_valid, drop) for ids in (tokens, other))
    assert not np.any(one[0, :4]) and np.all(np.any(one[1, :4] != 0, axis=-1))
    np.testing.assert_array_equal(one[0], two[0])
    assert np.all(np.any(one[1, 4:] != two[1, 4:], axis=-1))
    # The condition itself never sees the target.
    target = tokens.at[:, 4:].set(7)
    three = encode(params, target, is_cond, is_valid, drop)
    np.testing.assert_array_equal(one[1, :4], three[1, :4])


def test_what_is_given_anywhere_is_encoded_alone():
    """The latents of given tokens are those that a sampler has, which knows nothing of the gaps.
    The padding at the end of a gap is seen by nobody, and has latents of its own.
    """
    encoder, params = t5_encoder()
    encode, keep = jax.jit(encoder.encode), jnp.zeros(2, bool)
    tokens = jax.random.randint(jax.random.key(0), (2, 10), 0, 60)
    figures = np.array([list("#..o##.o#."), list("..oo###.##")])
    is_cond, is_filler = figures == "#", figures == "o"
    one = encode(params, tokens, is_cond, ~is_filler, keep)
    alone = encode(params, jnp.where(is_cond, tokens, 3), is_cond, is_cond, keep)
    np.testing.assert_allclose(one[is_cond], alone[is_cond], atol=1e-5)
    # Each at its own place: in the opposite order the same tokens have other latents.
    moved = encode(params, tokens[:, ::-1], is_cond[:, ::-1], is_cond[:, ::-1], keep)[:, ::-1]
    assert np.all(np.abs(moved[is_cond] - alone[is_cond]).max(axis=-1) > 1e-3)

    two = encode(params, jnp.where(is_filler, 3, tokens), is_cond, ~is_filler, keep)
    np.testing.assert_array_equal(one[~is_filler], two[~is_filler])
    assert np.any(one[is_filler] != two[is_filler])
    # Hidden tokens see what is given, unless it is dropped.
    other = jnp.where(is_cond, 5, tokens)
    hidden = ~is_cond & ~is_filler
    three = encode(params, other, is_cond, ~is_filler, keep)
    assert np.all(np.any(one != three, axis=-1)[hidden])
    dropped = [encode(params, ids, is_cond, ~is_filler, ~keep) for ids in (tokens, other)]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert not np.any(dropped[0][is_cond])


def test_padding_changes_nothing():
    encoder, params = t5_encoder()
    encode = jax.jit(encoder.encode)
    tokens = jax.random.randint(jax.random.key(0), (2, 10), 0, 60)
    is_valid = jnp.arange(10)[None] < jnp.array([[6], [6]])
    args = is_valid & False, is_valid, jnp.zeros(2, bool)
    one = encode(params, tokens, *args)
    two = encode(params, tokens.at[:, 6:].set(3), *args)
    np.testing.assert_array_equal(one[:, :6], two[:, :6])


def pair_rows(count=70, length=12, seed=0):
    """`Rows` of pairs."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(2, 60, (count, length)).astype(np.int32)
    cond = generator.integers(0, 5, count).astype(np.int32)
    return Rows(tokens, cond, cond + generator.integers(1, 8, count).astype(np.int32))


def test_encoding_under_jit_changes_nothing():
    encoder, params = t5_encoder()
    fields = pair_rows(4).take(np.arange(4))
    drop = np.array([True, False, False, True])
    eager = encoder.encode(params, **fields, drop=drop)
    jitted = jax.jit(encoder.encode)(params, **fields, drop=drop)
    np.testing.assert_allclose(eager, jitted, atol=1e-5)


def test_what_cannot_be_built(tmp_path):
    for path, vocab_size, message in (
        (tmp_path / "nowhere", 60, "config.encoder.path"),
        (GOLDEN / "t5_tiny", 10_000, "config.data.tokenizer"),
    ):
        with pytest.raises(UserError, match=message) as error:
            build_encoder(settings(kind="t5", path=str(path)), vocab_size)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "kind, path", [("gaussian", ""), ("t5", str(GOLDEN / "t5_tiny")), ("t5", "google-t5/t5-small")]
)
def test_a_description_has_the_shapes_of_the_encoder(kind, path):
    config = ml_collections.ConfigDict({"data": {"vocab_size": 60}})
    config.encoder = settings(kind=kind, path=path)
    vocab_size, encoder, shapes = describe_encoder(config)
    if path == "google-t5/t5-small":  # its sizes are known without a download
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        assert (vocab_size, encoder.width, count) == (32100, 512, 35_330_816)
        return
    built, params = build_encoder(config.encoder, 60)
    assert vocab_size >= 60 and (encoder.kind, encoder.width) == (built.kind, built.width)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
