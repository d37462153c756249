"""Sampling by token probabilities: the x-prediction is a mean of the latents of all tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core import checks
from elf_jax.core.errors import UserError
from elf_jax.methods.elf.predictor import Condition, Words
from elf_jax.networks import vocabulary
from tests.methods.elf.test_blocks import FIRST, LENGTH, ROWS, batch, build, latents, sampled
from tests.methods.test_every_method import V

WHOLE = {"model.block_length": 0, "objective.token_weight": 0.5}


def words_of(method, frozen, temperature):
    """`Words` of the method's encoder, token by token."""
    text = np.arange(V)[:, None], np.zeros((V, 1), bool), np.ones((V, 1), bool), np.zeros(V, bool)
    table = method.encoder.encode(frozen["encoder"], *text)[:, 0]
    return Words(table, temperature)


@pytest.mark.parametrize("cfg_scale", [1.0, 2.0])
def test_the_x_prediction_is_the_mean_latent_and_guidance_is_on_the_logits(cfg_scale, monkeypatch):
    _, method, params, frozen = build(**WHOLE)
    words, predictor = words_of(method, frozen, 0.7), method.predictor
    is_cond = jnp.asarray(batch().is_cond)
    condition = Condition(jnp.where(is_cond[..., None], latents(method, "x"), 0.0), is_cond)
    z, x_prev = (condition.restore(latents(method, name)) for name in ("z", "x_prev"))
    t, ones = jnp.full(ROWS, 0.3), jnp.ones(ROWS)

    @jax.jit
    def logits(z, x_prev):
        hidden = predictor.hidden(params, z, x_prev, t, ones, ones < 0)
        return jax.nn.log_softmax(predictor.logit_head(params, hidden))

    nothing = jnp.zeros_like(z)
    other = logits(condition.restore(z, nothing), condition.restore(x_prev, nothing))
    guided = other + cfg_scale * (logits(z, x_prev) - other)
    expected = jax.nn.softmax(guided / 0.7) @ words.table

    def predict():
        run = predictor.guided(params, 1.0, condition, cfg_scale, words=words)
        return jax.jit(run)(z, t, x_prev)

    np.testing.assert_allclose(predict(), expected, rtol=1e-4, atol=1e-5)
    # With a large vocabulary the logits are computed a few positions at a time.
    monkeypatch.setattr(vocabulary, "LOGIT_BYTES", ROWS * V * 4 * 3)
    np.testing.assert_allclose(predict(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("keys", [WHOLE, {"objective.token_weight": 0.5}])
def test_near_zero_the_first_step_goes_to_the_likeliest_token(keys):
    """With one step that ends at t = 1, what decode mode reads is the latent of that token."""
    names = {"sample.steps": 1, "sample.sampler": "ode", "sample.noise_temperature": 0.0}
    config, method, params, frozen = build(**{**keys, **names, "sample.token_temperature": 1e-4})
    made = np.asarray(sampled(method, config, params, frozen, batch()))
    config.sample.token_temperature = 0.0
    assert (np.asarray(sampled(method, config, params, frozen, batch())) != made).any()
    if method.blocks:  # a later block depends on the tokens of the blocks before
        return
    x = method.encoder.encode(
        frozen["encoder"], batch().tokens, batch().is_cond, batch().is_valid, np.zeros(ROWS, bool)
    )
    clean = jnp.where(batch().is_cond[..., None], x, 0.0)
    zeros, ones = jnp.zeros(ROWS), jnp.ones(ROWS)
    w = ones * config.sample.guidance_scale
    hidden = jax.jit(method.predictor.hidden)(params, clean, clean, zeros, w, ones < 0)
    likeliest = jnp.argmax(method.predictor.logit_head(params, hidden), axis=-1)
    target = words_of(method, frozen, 1.0).table[likeliest]
    z = jnp.where(batch().is_cond[..., None], x, target)
    hidden = jax.jit(method.predictor.decode_hidden)(params, z, w)
    read = np.asarray(method.predictor.likeliest(params, hidden))
    np.testing.assert_array_equal(made[:, FIRST:], read[:, FIRST:])


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"objective.token_weight": 0.0}, "token_weight is 0, so the network cannot read noisy"),
        ({"encoder.kind": "t5"}, "the latents of a T5 depend on the whole text"),
    ],
)
def test_what_it_needs(keys, words):
    config, method, *_ = build(**WHOLE)
    config.sample.token_temperature = 0.5
    checks.check_model(config)
    method.sampler(config.sample, LENGTH)
    for name, value in keys.items():
        section, key = name.split(".")
        config[section][key] = value
    with pytest.raises(UserError, match=f"sample.token_temperature is 0.5, but .*{words}"):
        checks.check_model(config)
    config.sweep.token_temperature = (0.0, 0.3)
    with pytest.raises(UserError, match=f"sweep.token_temperature is 0.3, but .*{words}"):
        checks.check_evaluation(config)
    if not config.objective.token_weight:
        other = build(**{**WHOLE, **keys})[1]
        with pytest.raises(UserError, match=words):
            other.sampler(config.sample, LENGTH)
