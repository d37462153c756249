"""GPT-2 compared with the transformers library, and the log-likelihoods that scorers use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from elf_jax.networks import vocabulary
from elf_jax.networks.gpt2 import GPT2, GPT2Config, row_nll
from elf_jax.pretrained.gpt2 import load_gpt2
from tests.conftest import GOLDEN

TINY = GOLDEN / "gpt2_tiny"


def logits(config, params, tokens):
    network = GPT2(config)
    read = jax.jit(
        lambda params: network.apply(params, tokens, method=lambda n, x: n.logit_head(n(x)))
    )
    return read({"params": params})


def test_matches_transformers():
    data = np.load(TINY / "golden.npz")
    valid = data["attention_mask"] > 0
    ours = logits(*load_gpt2(TINY), data["input_ids"])
    assert ours.dtype == jnp.float32
    error = np.abs(ours - data["logits"])[valid].max() / np.abs(data["logits"]).max()
    assert error < 1e-5


@pytest.mark.parametrize("option", ["scale_attn_weights", "scale_attn_by_inverse_layer_idx"])
def test_attention_scales(option):
    """Each option gives the same result as a change of the queries."""
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


@pytest.mark.parametrize("positions", [3, 1000], ids=["in parts", "at once"])
def test_the_likelihood_of_a_row_leaves_out_its_first_token_and_padding(monkeypatch, positions):
    config, params = load_gpt2(TINY)
    tokens = np.load(TINY / "golden.npz")["input_ids"]
    size = positions * len(tokens) * config.vocab_size * 4
    monkeypatch.setattr(vocabulary, "LOGIT_BYTES", size)
    lengths = np.arange(len(tokens)) * 4  # 0, 4, 8, ...
    found = jax.jit(lambda params: row_nll(GPT2(config), params, tokens, lengths))(params)
    log_p = jax.nn.log_softmax(logits(config, params, tokens))
    for row, length in enumerate(lengths):
        scored = range(1, length)
        expected = -sum(float(log_p[row, at - 1, tokens[row, at]]) for at in scored)
        np.testing.assert_allclose(found[row], expected, rtol=1e-5)
