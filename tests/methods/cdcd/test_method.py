"""CDCD as a method: an exact posterior in place of the network, devices, draws, given tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.checkpoints.weights import params_shapes
from elf_jax.core import sharding
from elf_jax.core.types import Batch
from elf_jax.methods.cdcd import objective, warping
from elf_jax.methods.cdcd.method import CDCD
from elf_jax.methods.cdcd.predictor import EmbeddingPredictor
from elf_jax.methods.method import Context
from elf_jax.methods.tokens.method import training_rows
from elf_jax.methods.tokens.predictor import TokenPredictor, reading
from elf_jax.training.optimizer import make_optimizer
from tests.methods.toy import Toy
from tests.tiny import tiny_config

TOY, V, L = Toy(), 32, 6
TABLE = np.array([[1.0, 0, 0, 0], [-1, 1, 0, 0], [0, -1, 1, 1]], np.float32)
SCALES = {"cfg_scale": 1.0, "temperature": 1.0}


@dataclasses.dataclass(frozen=True)
class Exact(TokenPredictor):
    """The exact posterior of the toy, for noise that is `error` times as strong as it is."""

    error: float = 1.0

    def predict(self, params, *args, **kwargs):
        """See `TokenPredictor.predict`."""
        rows = objective.embeddings(params["token_table"])[TOY.rows]

        def logits(inputs, t):
            distance = jnp.sum((inputs[0][:, None] - rows) ** 2, axis=(2, 3))
            return TOY.posterior(-distance / (2 * (self.error * t[:, None]) ** 2))

        return reading(logits)


def make(mesh=None, vocab_size=V, **keys):
    """A method with a tiny network."""
    config = tiny_config(
        **{"method": "cdcd", "sample.sampler": "ode", "cdcd.embedding_width": 8, "data.length": L},
        **keys,
    )
    mesh = mesh or sharding.make_mesh(config.mesh)
    return config, CDCD.create(config, vocab_size, mesh)


def make_exact(error=1.0, **keys):
    keys = {"cdcd.embedding_width": 4, "cdcd.time_min": 0.4, "cdcd.time_max": 200.0} | keys
    config = tiny_config(method="cdcd", **keys)
    method = CDCD.create(config, 3, sharding.make_mesh(config.mesh))
    network = method.predictor.network
    return config, dataclasses.replace(method, predictor=Exact(network, 1, error))


@pytest.mark.parametrize("error", [1.0, 1.2])
def test_samples_follow_the_distribution(error):
    """With many steps. A wrong posterior gives other samples."""
    config, method = make_exact(error, **{"sample.steps": 300})
    bins = 60
    widths = np.diff(np.geomspace(0.4, 200, bins + 1))  # as many times in each octave
    params = {
        "token_table": jnp.asarray(TABLE),
        "warp": {"times": jnp.log(widths / widths.sum()), "heights": jnp.zeros(bins)},
    }
    run = jax.jit(method.sampler(config.sample, TOY.length))
    samples = run(params, {}, jnp.arange(20_000), None, jax.random.key(1), SCALES)
    p_value = TOY.p_value(samples)
    assert p_value > 0.01 if error == 1 else p_value < 1e-6, p_value


def random_params(method, scale=0.3):
    draw = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(draw.normal(0, scale, leaf.shape), jnp.float32),
        params_shapes(method, L),
    )
    return {**params, "warp": warping.new_params(method.law.bins, V)}


def random_batch(rows, condition=2):
    tokens = jax.random.randint(jax.random.key(0), (rows, L), 0, V)
    is_cond = jnp.broadcast_to(jnp.arange(L) < condition, tokens.shape)
    return Batch(tokens, is_cond, jnp.ones_like(is_cond))


def test_the_parameters_and_their_rates():
    config, method = make()
    shapes = params_shapes(method, L)
    assert shapes["token_table"].shape == (V, 8)
    assert shapes["stem"]["kernel"].shape == (16, config.model.width)
    assert {name: one.shape for name, one in shapes["warp"].items()} == {
        "times": (config.cdcd.bins,),
        "heights": (config.cdcd.bins,),
    }
    kept = {name: shapes[name] for name in ("warp", "token_table")}
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), kept)
    rule = make_optimizer(config.optimizer, lambda step: 0.5, own_rates=method.own_rates)
    updates, _ = rule.update(params, rule.init(params), params)
    np.testing.assert_allclose(updates["warp"]["times"], -config.cdcd.warp_rate, rtol=1e-3)
    np.testing.assert_allclose(updates["token_table"], -0.5, rtol=1e-3)


def loss_and_gradient(mesh, context, accumulate=1):
    method = make(mesh)[1]
    params = random_params(method)
    batch, rows = random_batch(16), jnp.arange(16)
    counted = ~batch.is_cond
    inputs = sharding.put_rows((batch, counted, rows), mesh)

    @jax.jit
    def run(params, inputs):
        def loss(params, batch, counted, ids):
            total, sums = method.loss(params, {}, batch, counted, ids, context)
            return total / 64, sums

        parts = sharding.row_shards(mesh)

        def split(array):
            array = array.reshape(parts, accumulate, -1, *array.shape[1:]).swapaxes(0, 1)
            return array.reshape(accumulate, -1, *array.shape[3:])

        one = jax.value_and_grad(loss, has_aux=True)
        found = jax.lax.map(lambda micro: one(params, *micro), jax.tree.map(split, inputs))
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), found)

    return jax.device_get(run(params, inputs))


def mesh_of(count):
    return sharding.make_mesh({"data": count, "fsdp": 1, "tensor": 1}, jax.devices()[:count])


def context_of(is_training=True, rows=16):
    step = jnp.zeros((), jnp.int32)
    return Context(jax.random.key(0), step, rows=rows, is_training=is_training)


@pytest.fixture(scope="module")
def one_device():
    return loss_and_gradient(mesh_of(1), context_of())


@pytest.mark.parametrize("count, accumulate", [(4, 1), (8, 2)])
def test_devices_and_micro_batches_change_nothing(count, accumulate, one_device):
    """Also with one row in each part, where the first pass has all rows."""
    many = loss_and_gradient(mesh_of(count), context_of(), accumulate)
    for a, b in zip(jax.tree.leaves(one_device), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5 * np.max(np.abs(a)))


@dataclasses.dataclass(frozen=True)
class Watched(EmbeddingPredictor):
    """A predictor without a network; it keeps its inputs in the list `seen`."""

    seen: list = dataclasses.field(default_factory=list)

    def predict(self, params, *args, **kwargs):
        """See `TokenPredictor.predict`."""

        def logits(inputs, t):
            self.seen.append(inputs)
            return inputs[0] @ params["token_table"].T

        return reading(logits)


def test_self_conditioning_reaches_its_share_of_the_rows():
    """The estimates of the first pass are in the rows of an odd place, and nowhere else."""
    method = make()[1]
    method = dataclasses.replace(method, predictor=Watched(method.predictor.network))
    params, batch = random_params(method), random_batch(8)
    clean = objective.embeddings(params["token_table"])[batch.tokens]
    method.loss(params, {}, batch, ~batch.is_cond, jnp.arange(8), context_of(rows=8))
    (first, first_estimate), (x, estimate) = method.predictor.seen
    np.testing.assert_array_equal(first, x[1::2])
    for values, rows in [(x, clean), (estimate, clean), (first_estimate, clean[1::2])]:
        np.testing.assert_array_equal(values[:, :2], rows[:, :2])
    assert np.all(first_estimate[:, 2:] == 0) and np.all(estimate[::2, 2:] == 0)
    length = np.linalg.norm(estimate[1::2, 2:], axis=-1)
    assert np.all(length > 0) and np.all(length <= 1.001 * 8**0.5)


def test_the_first_pass_has_no_gradient():
    method = make()[1]
    rows = training_rows(random_batch(4), jnp.arange(4), context_of(rows=4), 0.0)
    params = random_params(method)
    x = jax.random.normal(jax.random.key(1), (4, L, 8))

    @jax.jit
    @jax.value_and_grad
    def size(params):
        table = objective.embeddings(params["token_table"])
        estimate = method.estimate(params, rows, x, jnp.zeros_like(x), jnp.ones(4), table)
        return jnp.sum(jnp.abs(estimate))

    value, grads = size(params)
    assert value > 0 and all(np.all(leaf == 0) for leaf in jax.tree.leaves(grads))


def test_the_draws_of_a_row_do_not_depend_on_the_batch():
    """A part of a batch has the losses that it has in the whole one."""
    method = make()[1]
    params, batch = random_params(method), random_batch(16)

    @jax.jit
    def cross_entropies(batch, ids):
        def one(row):
            counted = ~batch.is_cond & (jnp.arange(len(ids)) == row)[:, None]
            sums = method.loss(params, {}, batch, counted, ids, context_of())[1]
            return sums["cross_entropy"]

        return jax.vmap(one)(jnp.arange(len(ids)))

    whole = np.asarray(cross_entropies(batch, jnp.arange(16)))
    half = cross_entropies(jax.tree.map(lambda a: a[4:12], batch), jnp.arange(4, 12))
    np.testing.assert_allclose(whole[4:12], half, rtol=1e-5)
    assert len(np.unique(np.round(whole, 5))) > 10


def test_the_fit_and_the_cross_entropy_have_gradients_apart():
    """That of the fit is none into the network, and that of the cross-entropy none into the law."""
    method = make()[1]
    params, batch = random_params(method), random_batch(16)

    @jax.jit
    def jacobian(params):
        def sums(params):
            inputs = batch, ~batch.is_cond, jnp.arange(16), context_of()
            return method.loss(params, {}, *inputs)[1]

        return jax.jacrev(sums)(params)

    for part, grads in jacobian(params).items():
        for name, tree in grads.items():
            size = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(tree))
            assert (size > 0) == ((name == "warp") == (part == "warp_loss")), (part, name)


def test_validation_has_the_same_times_whatever_is_learned():
    method = make()[1]
    params = random_params(method)
    warp = jax.tree.map(lambda leaf: leaf + jnp.arange(leaf.size) % 7, params["warp"])
    rows = training_rows(random_batch(16), jnp.arange(16), context_of(), 0.0)

    def times(params, is_training):
        return np.asarray(method.times(params, rows, context_of(is_training=is_training)))

    one, other = times(params, False), times({**params, "warp": warp}, False)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(np.diff(np.sort(np.log(one))), np.log(300) / 16, rtol=1e-3)
    assert np.any(times(params, True) != times({**params, "warp": warp}, True))


@pytest.mark.parametrize("cfg_scale", [1.0, 2.0])
def test_given_tokens_never_change_and_others_depend_on_them(cfg_scale):
    config, method = make(**{"sample.cfg_scale": cfg_scale, "sample.steps": 4})
    params, given = random_params(method), random_batch(8)
    run = jax.jit(method.sampler(config.sample, L))
    scales = {"cfg_scale": cfg_scale, "temperature": 1.0}
    key = jax.random.key(3)

    def sample(given, ids=8):
        return np.asarray(run(params, {}, jnp.arange(ids), given, key, scales))

    tokens = sample(given)
    assert tokens.dtype == np.int32 and tokens.max() < V
    np.testing.assert_array_equal(tokens[:, :2], given.tokens[:, :2])
    hidden = dataclasses.replace(given, tokens=given.tokens.at[:, 2:].set(0))
    np.testing.assert_array_equal(sample(hidden), tokens)
    other = dataclasses.replace(given, tokens=(given.tokens + 1) % V)
    assert np.any(sample(other)[:, 2:] != tokens[:, 2:])
    # A sample depends on its key and its id, not on the batch.
    few = jax.tree.map(lambda a: a[:3], given)
    np.testing.assert_array_equal(sample(few, 3), tokens[:3])


def test_a_dropped_condition_is_not_seen():
    """With condition_dropout 1, other tokens in the condition change nothing."""
    method = make(**{"tokens.condition_dropout": 1.0, "cdcd.self_cond_fraction": 1.0})[1]
    params, batch = random_params(method), random_batch(8)
    other = dataclasses.replace(batch, tokens=batch.tokens.at[:, :2].set(0))

    def loss(method, batch):
        inputs = batch, ~batch.is_cond, jnp.arange(8), context_of(rows=8)
        return float(jax.jit(lambda params: method.loss(params, {}, *inputs)[0])(params))

    assert loss(method, batch) == loss(method, other)
    seen = dataclasses.replace(method, condition_dropout=0.0)
    assert loss(seen, batch) != loss(seen, other)


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_samples_have_an_estimate_if_training_had(fraction):
    config, method = make(**{"cdcd.self_cond_fraction": fraction, "sample.steps": 4})
    params = random_params(method)
    kernel = params["stem"]["kernel"]
    other = {**params, "stem": {**params["stem"], "kernel": kernel.at[8:].multiply(-2)}}
    run = jax.jit(method.sampler(config.sample, L))
    one, two = (run(p, {}, jnp.arange(8), None, jax.random.key(0), SCALES) for p in (params, other))
    assert np.all(one == two) == (fraction == 0)
