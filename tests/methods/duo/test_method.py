"""Duo with the exact posterior of a toy distribution in place of the network, and with one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core import checks, sharding
from elf_jax.core.errors import UserError
from elf_jax.core.types import Batch
from elf_jax.methods.duo import objective
from elf_jax.methods.duo.method import Duo
from elf_jax.methods.duo.transform import schedule
from elf_jax.methods.mdlm.objective import EPS, mask_probability
from elf_jax.methods.method import Context
from elf_jax.methods.tokens.predictor import TokenPredictor, reading
from elf_jax.networks import vocabulary
from tests.methods.toy import Toy
from tests.tiny import tiny_config

TOY = Toy()
V, L = TOY.vocab_size, TOY.length


def likelihoods(z, complement):
    """log p(token of z | token of a row) for every row of the toy, [B, V ** L, L].

    Args:
      z: [B, L]. complement: [B], 1 - alpha.
    """
    complement = complement[:, None, None]
    same = z[:, None] == jnp.asarray(TOY.rows)
    return jnp.log(jnp.where(same, 1 - complement, 0.0) + complement / V)


def exact(inputs, tau, power=1.0):
    """log p(token | the other noisy tokens) of the toy, to a power (a wrong model).

    Of soft tokens it sees the largest one.
    """
    z = inputs if inputs.ndim == 2 else jnp.argmax(inputs, axis=-1)
    each = likelihoods(z, -jnp.expm1(-tau))
    others = jnp.sum(each, axis=-1, keepdims=True) - each
    one = [TOY.posterior(others[..., place])[:, place] for place in range(L)]
    return power * jnp.stack(one, axis=1)


@dataclasses.dataclass(frozen=True)
class Exact(TokenPredictor):
    """The exact posterior as a predictor."""

    power: float = 1.0

    def embed(self, params, inputs):
        """One-hot or soft tokens."""
        return inputs if inputs.ndim == 3 else jax.nn.one_hot(inputs, V)

    def predict(self, params, *args, temperature=None, **kwargs):
        """See `TokenPredictor.predict`."""
        scale = 1.0 if temperature is None else temperature
        return reading(lambda z, t: exact(z, t, self.power) / scale)


def make(power=1.0, **keys):
    """Duo with the exact posterior."""
    config = tiny_config(method="duo", **keys)
    method = Duo.create(config, V, sharding.make_mesh(config.mesh))
    return dataclasses.replace(method, predictor=Exact(method.predictor.network, 1, power))


def information(complement):
    """Mutual information of a row of the toy and of its tokens after the noise, in nats."""
    rows = jnp.asarray(TOY.rows)
    log_q = jnp.sum(likelihoods(rows, jnp.full(len(rows), complement)), axis=-1)  # [z, row]
    log_p = jax.nn.logsumexp(log_q + np.log(TOY.p), axis=1, keepdims=True)
    return float(jnp.sum(jnp.exp(log_q) * TOY.p * (log_q - log_p)))


def expected_loss(t):
    """The mean of the loss at a time, over all rows and all noise, summed over the positions."""
    complement, rows = mask_probability(t), jnp.asarray(TOY.rows)
    count = len(rows)
    z, x = jnp.repeat(rows, count, axis=0), jnp.tile(rows, (count, 1))
    tau = jnp.full(len(z), -jnp.log1p(-complement))
    noise, slope = jnp.full(z.shape, complement), jnp.full(z.shape, EPS - 1)
    losses = objective.uniform_loss(exact(z, tau), x, z, noise, slope)
    weight = jnp.exp(jnp.sum(likelihoods(rows, jnp.full(count, complement)), axis=-1)) * TOY.p
    return jnp.sum(weight.reshape(-1, 1) * losses)


def test_the_loss_is_the_information_that_the_noise_destroys():
    """With the exact posterior, the mean of the loss from time a to b is I(a) - I(b), exactly. So
    over all times it is the entropy, but for the noise at the first time and the rest at the last.
    """
    with jax.enable_x64(True):
        nodes, weights = np.polynomial.legendre.leggauss(40)
        low, high = np.log(EPS), 0.0
        times = np.exp(low + (nodes + 1) / 2 * (high - low))
        values = jax.lax.map(expected_loss, jnp.asarray(times))
        total = float(jnp.sum(weights * (high - low) / 2 * times * values))
        first, last = (information(mask_probability(t)) for t in (EPS, 1.0))
        assert abs(total / (first - last) - 1) < 1e-6
        assert last < 1e-5 and abs(total / TOY.entropy - 1) < 0.01


def bounds(method, count=8192, keys=16, context=Context):
    """[keys] means of the loss of a row."""
    blank = jnp.zeros((count, L), bool)
    rows = Batch(TOY.draw(count), blank, ~blank)

    @jax.jit
    def one(key):
        step = jnp.zeros((), jnp.int32)
        return method.loss({}, {}, rows, ~blank, jnp.arange(count), context(key, step))[0] / count

    return np.array([one(key) for key in jax.random.split(jax.random.key(0), keys)])


def test_the_bound_is_the_entropy():
    found = bounds(make())
    expected = (information(mask_probability(EPS)) - information(1 - EPS)) / (1 - EPS)
    error = np.std(found) / len(found) ** 0.5
    assert error < 0.01 * TOY.entropy and abs(expected - TOY.entropy) < 0.01 * TOY.entropy
    assert abs(np.mean(found) - expected) < 3 * error
    assert np.mean(bounds(make(power=0.5))) > TOY.entropy + 6 * error


def test_the_curriculum_has_the_times_of_its_range():
    """A predictor that sees no more than argmax has the information of the range as its loss."""
    method = make(**{"duo.curriculum.steps": 1})
    found = bounds(method, context=lambda key, step: Context(key, step, None, None, True))
    low, high = method.gammas
    gammas = low + (high - low) * np.array([EPS, 1.0])
    first, last = (information(float(noise)) for noise in schedule(gammas, V, np)[0])
    error = np.std(found) / len(found) ** 0.5
    assert error < 0.01 * first
    assert abs(np.mean(found) * (1 - EPS) - (first - last)) < 3 * error


def test_samples_follow_the_distribution():
    settings = tiny_config(**{"sample.steps": 200}).sample

    def p_value(name, power=1.0):
        settings.sampler = name
        run = jax.jit(make(power).sampler(settings, L))
        scales = {"cfg_scale": 1.0, "temperature": 1.0, "top_p": 1.0}
        return TOY.p_value(run({}, {}, jnp.arange(5000), None, jax.random.key(1), scales))

    assert p_value("ancestral") > 0.01
    assert p_value("ancestral", power=0.7) < 1e-6
    # Its last tokens are the likeliest ones beside the others, so it cannot follow.
    assert p_value("greedy_tail") < 1e-6


WORDS, LENGTH = 40, 8


def network(mesh=None, **keys):
    """(config, method with random parameters, those parameters)"""
    config = tiny_config(
        **{"method": "duo", "sample.sampler": "ancestral", "duo.curriculum.steps": 3, **keys}
    )
    method = Duo.create(config, WORDS, mesh or sharding.make_mesh(config.mesh))
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), LENGTH))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda a: draw.normal(0, 0.3, a.shape).astype(np.float32), shapes)
    return config, method, params


def rows_of(count):
    tokens = jax.random.randint(jax.random.key(1), (count, LENGTH), 0, WORDS)
    is_cond = jnp.broadcast_to(jnp.arange(LENGTH) < 3, tokens.shape)
    return Batch(tokens, is_cond, tokens >= 0)


def losses_of(method, params, count=None, is_training=True):
    """The function (rows, step, ids) -> (loss, its gradient)."""

    @jax.jit
    def loss(rows, step, ids):
        context = Context(jax.random.key(2), step, None, count, is_training)
        return jax.value_and_grad(
            lambda params: method.loss(params, {}, rows, ~rows.is_cond, ids, context)[0]
        )(params)

    def run(rows, step, ids=None):
        ids = jnp.arange(len(rows.tokens)) if ids is None else jnp.array(ids)
        return loss(rows, jnp.int32(step), ids)

    return run


@pytest.fixture(scope="module")
def usual():
    """(method, parameters, loss) of a network whose curriculum has three steps."""
    _, method, params = network(**{"tokens.condition_dropout": 0.5})
    return method, params, losses_of(method, params, 16)


STEPS = [0, 9]  # in the curriculum, and after it


def close(one, two, tolerance=2e-5):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert np.isfinite(b).all()
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(np.max(abs(b))))


def test_the_curriculum_ends(usual):
    method, params, _ = usual
    method = dataclasses.replace(method, condition_dropout=0.0)  # held-out rows keep theirs
    loss, rows = losses_of(method, params, 16), rows_of(16)
    held_out = losses_of(method, params, 16, is_training=False)(rows, 2)
    close(loss(rows, 3), held_out)
    inside = loss(rows, 2)[0]
    assert abs(inside - held_out[0]) > 1e-2 * held_out[0]


def test_parts_of_the_positions_change_nothing(usual, monkeypatch):
    method, params, loss = usual
    rows = rows_of(16)
    whole = [loss(rows, step) for step in STEPS]
    monkeypatch.setattr(vocabulary, "LOGIT_BYTES", 16 * 3 * WORDS * 4)
    in_parts = losses_of(method, params, 16)
    for step, expected in zip(STEPS, whole, strict=True):
        close(in_parts(rows, step), expected)


def test_eight_devices_equal_one(usual):
    _, params, loss = usual
    mesh = sharding.make_mesh({"data": 4, "fsdp": 2, "tensor": 1}, jax.devices())
    _, method, _ = network(mesh, **{"tokens.condition_dropout": 0.5})
    rows, wide = rows_of(16), losses_of(method, params, 16)
    for step in STEPS:
        close(wide(sharding.put_rows(rows, mesh), step), loss(rows, step))


def test_a_row_does_not_depend_on_its_batch(usual):
    _, _, loss = usual
    rows = rows_of(16)

    def part(*places):
        return jax.tree.map(lambda a: a[jnp.array(places)], rows)

    for step in STEPS:
        one, two, both = (loss(part(*ids), step, ids) for ids in ([2], [3], [2, 3]))
        close(jax.tree.map(jnp.add, one, two), both)


@pytest.mark.parametrize("step", STEPS)
def test_given_positions_have_no_noise(step):
    """The loss of the target does not see the noise of the condition: all of the row is given."""
    _, method, params = network()
    rows, seen = rows_of(64), []

    def predict(self, params, is_given=None, *args, **kwargs):
        def read(inputs, t):
            seen.append(inputs)
            return jnp.zeros((*inputs.shape[:2], WORDS))

        return reading(read)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenPredictor, "predict", predict)
        context = Context(jax.random.key(2), jnp.int32(step), None, None, True)
        method.loss(params, {}, rows, ~rows.is_cond, jnp.arange(64), context)
    clean = method.predictor.embed(params, rows.tokens)
    same = jnp.all(seen[0] == clean, axis=-1)
    assert same[:, :3].all() and not same[:, 3:].all()


@pytest.mark.parametrize(
    "name, cfg_scale", [("ancestral", 1.0), ("ancestral", 2.0), ("greedy_tail", 2.0)]
)
def test_samples_keep_what_is_given_and_depend_on_their_id_alone(name, cfg_scale):
    config, method, params = network(**{"sample.steps": 4, "sample.cfg_scale": cfg_scale})
    config.sample.sampler, config.sample.top_p = name, 0.9
    run = jax.jit(method.sampler(config.sample, LENGTH))
    scales = {"cfg_scale": cfg_scale, "temperature": 1.0, "top_p": 0.9}
    given = rows_of(6)

    def sampled(places):
        part = jax.tree.map(lambda a: a[places], given)
        return run(params, {}, places, part, jax.random.key(0), scales)

    tokens = sampled(jnp.arange(6))
    assert (tokens == given.tokens)[:, :3].all() and not (tokens == given.tokens)[:, 3:].all()
    assert (sampled(jnp.array([4, 1])) == tokens[jnp.array([4, 1])]).all()
    assert tokens.dtype == jnp.int32 and (tokens >= 0).all() and (tokens < WORDS).all()


def test_settings():
    config, method, _ = network()
    settings = config.sample
    settings.steps = 5
    assert method.evaluations(settings, LENGTH) == 6
    one = method.compiled_for(settings)
    settings.top_p, settings.temperature = 0.9, 0.7
    two = method.compiled_for(settings)
    settings.top_p = 0.8
    assert one != two == method.compiled_for(settings)
    assert set(method.traced) <= set(method.settings) and set(method.settings) <= set(settings)
    assert list(method.settings)[-len(method.traced) :] == list(method.traced)


def test_lengths_of_the_curriculum():
    _, method, _ = network(**{"duo.curriculum.steps": 0, "duo.curriculum.examples": 480})
    assert method.curriculum_steps == 30  # of 16 rows
    for keys, message in (
        ({"duo.curriculum.steps": 0, "duo.curriculum.epochs": 1.0}, "steps or examples"),
        ({"duo.gamma_min": 1.0, "duo.gamma_max": -1.0}, "less than gamma_max"),
    ):
        config = tiny_config(method="duo", **{"sample.sampler": "ancestral", **keys})
        with pytest.raises(UserError, match=message):
            checks.check(config)
    with pytest.raises(UserError, match="gamma_min"):
        network(**{"duo.gamma_min": -9.0, "duo.gamma_max": -1.0})
