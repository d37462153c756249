"""MDLM and LLaDA with the exact posterior of a toy distribution in place of the network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core import sharding
from elf_jax.core.types import Batch
from elf_jax.methods.mdlm.method import MDLM, LLaDA
from elf_jax.methods.method import Context
from elf_jax.methods.tokens.predictor import TokenPredictor, reading
from tests.methods.toy import Toy
from tests.tiny import tiny_config

TOY = Toy()
MASK = TOY.vocab_size


def exact(z, t=None, power=1.0):
    """log p(token | the tokens that are not masked) of the toy, to a power (a wrong model)."""
    matches = (z[:, None] == MASK) | (z[:, None] == jnp.asarray(TOY.rows))
    seen = jnp.where(jnp.all(matches, axis=-1), 0.0, -jnp.inf)
    return power * TOY.posterior(seen)


@dataclasses.dataclass(frozen=True)
class Exact(TokenPredictor):
    """The exact posterior as a predictor."""

    power: float = 1.0

    def predict(self, params, *args, temperature=None, **kwargs):
        """See `TokenPredictor.predict`."""
        scale = 1.0 if temperature is None else temperature
        return reading(lambda z, t=None: exact(z, t, self.power) / scale)


def make(kind, power=1.0):
    """A method with the exact posterior."""
    mesh = sharding.make_mesh(tiny_config().mesh)
    method = kind.create(tiny_config(method=kind.name), TOY.vocab_size, mesh)
    return dataclasses.replace(method, predictor=Exact(method.predictor.network, 1, power))


@pytest.mark.parametrize("kind, batches", [(MDLM, 12), (LLaDA, 80)])  # LLaDA varies more
def test_the_bound_is_the_entropy(kind, batches):
    """Tokens stay with probability eps at t = 1, so the bound is that much below the entropy."""
    method, count = make(kind), 4096
    blank = jnp.zeros((count, TOY.length), bool)
    rows = Batch(TOY.draw(count), blank, ~blank)

    def bounds(method):
        keys = jax.random.split(jax.random.key(0), batches)
        context = [Context(key, jnp.zeros((), jnp.int32)) for key in keys]
        loss = jax.jit(lambda one: method.loss({}, {}, rows, ~blank, jnp.arange(count), one)[0])
        return np.array([loss(one) / count for one in context])

    found = bounds(method)
    error = np.std(found) / len(found) ** 0.5 + 1e-3 * TOY.entropy
    assert error < 0.01 * TOY.entropy
    assert abs(np.mean(found) - TOY.entropy) < 3 * error
    assert np.mean(bounds(make(kind, power=0.4))) > TOY.entropy + 6 * error


SAMPLERS = {
    "ancestral": {"steps": 128},
    "greedy_tail": {"steps": 128},
    "confidence": {"steps": 3, "block_length": 1},  # one token at a time is exact
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_follow_the_distribution(name):
    settings = tiny_config(**{f"sample.{key}": value for key, value in SAMPLERS[name].items()})
    settings.sample.sampler = name

    def p_value(power):
        run = jax.jit(make(MDLM, power).sampler(settings.sample, TOY.length))
        scales = {"cfg_scale": 1.0, "temperature": 1.0, "top_p": 1.0}
        return TOY.p_value(run({}, {}, jnp.arange(6000), None, jax.random.key(1), scales))

    assert p_value(1.0) > 0.01
    assert p_value(0.7) < 1e-6


def test_the_temperature_changes_the_token_and_not_its_confidence():
    settings = tiny_config(**{"sample.steps": 3}).sample
    settings.sampler = "confidence"
    run = make(MDLM).sampler(settings, TOY.length)
    scales = {"cfg_scale": 1.0, "temperature": 0.0, "top_p": 1.0}
    tokens = jax.jit(run)({}, {}, jnp.arange(4), None, jax.random.key(1), scales)
    z = jnp.full((1, TOY.length), MASK)
    for _ in range(TOY.length):  # by hand: the likeliest token of the surest position
        log_p = jnp.where((z == MASK)[..., None], exact(z), -jnp.inf)[0]
        place, token = jnp.unravel_index(jnp.argmax(log_p), log_p.shape)
        z = z.at[0, place].set(token)
    assert (tokens == z).all()


def test_the_time_of_the_sampler_by_confidence_is_the_share_of_masks():
    config = tiny_config(**{"method": "llada", "mdlm.time_conditioning": True, "sample.steps": 3})
    config.sample.sampler = "confidence"
    mesh = sharding.make_mesh(config.mesh)
    method = LLaDA.create(config, TOY.vocab_size, mesh)
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Watched(Exact):
        """Keeps the times that it is given."""

        def predict(self, params, *args, temperature=None, **kwargs):
            """See `TokenPredictor.predict`."""

            def logits(z, t):
                jax.debug.callback(lambda t: seen.append(t), t, ordered=True)
                return exact(z)

            return reading(logits)

    method = dataclasses.replace(method, predictor=Watched(method.predictor.network))
    scales = {"cfg_scale": 1.0, "temperature": 1.0, "top_p": 1.0}
    run = method.sampler(config.sample, TOY.length)
    jax.block_until_ready(run({}, {}, jnp.arange(2), None, jax.random.key(0), scales))
    jax.effects_barrier()
    left = TOY.length - np.arange(3) * (TOY.length // 3)
    expected = -np.log1p(-(1 - 1e-3) * left / TOY.length)
    np.testing.assert_allclose(np.array(seen), np.stack([expected] * 2, axis=1), rtol=1e-5)


@pytest.mark.parametrize("kind", [MDLM, LLaDA])
def test_the_positions_of_a_row_of_masks_can_be_told_apart(kind):
    """Rotary embeddings say only how far apart two tokens are. So without the control tokens, all
    masks of a row of masks would get the same prediction.
    """
    config = tiny_config(method=kind.name)
    mesh = sharding.make_mesh(config.mesh)
    method = kind.create(config, 20, mesh)
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(draw(0, 0.3, leaf.shape), jnp.float32),
        jax.jit(method.init, static_argnums=1)(jax.random.key(0), 8),
    )
    z, scales = jnp.full((1, 8), method.mask_id), {"cfg_scale": 1.0, "temperature": 1.0}
    predict = method.sampling_predict(params, None, scales, False)
    logits_at = jax.jit(lambda t: predict(z, t)(lambda logits: logits))
    logits = logits_at(jnp.ones(1))
    assert jnp.min(jnp.max(jnp.abs(logits[0, 1:] - logits[0, :-1]), axis=-1)) > 1e-3
    assert (logits == logits_at(jnp.full(1, 0.3))).all()
