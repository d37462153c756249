"""FLM as a method: what it computes in parts, in the width of the network, equals the formulas with
whole arrays over the vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from ml_collections import FrozenConfigDict

from elf_jax.core import defaults, rng, sharding
from elf_jax.core.types import Batch
from elf_jax.methods.flm.method import FLM
from elf_jax.methods.flm.time_map import share_of_signal
from elf_jax.methods.method import Context
from elf_jax.methods.tokens.draws import stratified
from elf_jax.methods.tokens.predictor import TokenPredictor
from elf_jax.networks import vocabulary
from elf_jax.networks.tokens import TokenNetwork

ROWS, LENGTH, VOCAB, WIDTH = 8, 6, 30, 16
KEY = jax.random.key(5)


def make(vocab_size=VOCAB, parts=1, drop=0.0, depth=1):
    """A tiny method with random parameters; its head, which starts at zero, is random, too."""
    network = TokenNetwork(
        vocab_size=vocab_size, extra_tokens=0, depth=depth, width=WIDTH, heads=2, time_tokens=1
    )
    method = FLM(TokenPredictor(network, parts), FrozenConfigDict(), drop)
    params = jax.jit(method.init, static_argnums=1)(jax.random.key(0), LENGTH)
    params["unembed"]["kernel"] = 0.3 * jax.random.normal(jax.random.key(1), (WIDTH, vocab_size))
    params["token_table"] *= 20
    return method, params


def make_batch(rows=ROWS, length=LENGTH, vocab_size=VOCAB, given=2):
    tokens = jax.random.randint(jax.random.key(2), (rows, length), 0, vocab_size)
    is_cond = jnp.broadcast_to(jnp.arange(length) < given, tokens.shape)
    return Batch(tokens, is_cond=is_cond, is_valid=jnp.ones(tokens.shape, bool))


def settings(**keys):
    section = defaults.get_config().sample
    section.update({"sampler": "ode", "steps": 4, "cfg_scale": 1.0, **keys})
    return section


@pytest.fixture(params=["whole", "parts"])
def parts(request, monkeypatch):
    """All positions at once, or one position of each row at a time."""
    if request.param == "parts":
        monkeypatch.setattr(vocabulary, "LOGIT_BYTES", ROWS * VOCAB * 4)
    return request.param


def loss_of(method, batch, rows=None, ids=None):
    """The function from parameters to the sum of the losses at positions that are not given."""
    ids = jnp.arange(len(batch.tokens)) if ids is None else ids
    context = Context(KEY, jnp.int32(0), rows=rows, is_training=True)
    return lambda params: method.loss(params, {}, batch, ~batch.is_cond, ids, context)[0]


def direct_loss(method, batch):
    """The same with x [B, L, V] and its product with the table."""
    keys = rng.per_example(KEY, jnp.arange(ROWS))
    noise = jax.jit(lambda: method.noise(keys, LENGTH, lambda noise: noise))()
    t = stratified(keys, jnp.arange(ROWS), ROWS)
    gamma = share_of_signal(t, VOCAB)[:, None, None]
    onehot = jax.nn.one_hot(batch.tokens, VOCAB)
    x = jnp.where(batch.is_cond[..., None], onehot, (1 - gamma) * noise + gamma * onehot)

    def loss(params):
        logits = run_network(method, params, x, t, batch.is_cond)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.tokens[..., None], -1)
        return -jnp.sum(jnp.where(batch.is_cond, 0, log_p[..., 0]))

    return loss


def run_network(method, params, x, t, is_given, is_dropped=None):
    network, variables = method.predictor.network, {"params": params}
    hidden = network.apply(variables, x @ params["token_table"], t, is_given, is_dropped)
    return network.apply(variables, hidden, method="logits")


def test_loss_and_gradient_are_those_of_the_formula(parts):
    method, params = make()
    batch = make_batch()
    ours, theirs = (
        jax.jit(jax.value_and_grad(loss))(params)
        for loss in (loss_of(method, batch), direct_loss(method, batch))
    )
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (ours[1], theirs[1])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.max(jnp.abs(b))))


def test_noise_is_standard_normal_and_new_at_each_position(parts):
    method, _ = make()
    noise = method.noise(rng.per_example(KEY, jnp.arange(ROWS)), LENGTH, lambda noise: noise)
    assert noise.shape == (ROWS, LENGTH, VOCAB)
    assert abs(jnp.mean(noise)) < 0.1 and abs(jnp.std(noise) - 1) < 0.05
    assert len(jnp.unique(noise)) > 0.99 * noise.size


def test_noise_does_not_depend_on_batch_or_parts(monkeypatch):
    method, _ = make()
    keys = rng.per_example(KEY, jnp.arange(ROWS))
    whole = method.noise(keys, LENGTH, lambda noise: noise)
    monkeypatch.setattr(vocabulary, "LOGIT_BYTES", 3 * VOCAB * 4)
    np.testing.assert_array_equal(method.noise(keys[3:], LENGTH, lambda noise: noise), whole[3:])


def test_a_dropped_condition_is_not_seen():
    method, params = make(drop=1.0)
    batch, other = make_batch(), make_batch()
    other = other.replace(tokens=jnp.where(batch.is_cond, 0, batch.tokens))
    for kind, is_equal in ((method, True), (make()[0], False)):
        loss = jax.jit(lambda params, batch, kind=kind: loss_of(kind, batch)(params))
        assert (loss(params, batch) == loss(params, other)) == is_equal


def test_two_halves_of_a_batch_are_the_whole():
    method, params = make()
    batch = make_batch()
    part = jax.jit(lambda batch, ids: loss_of(method, batch, ROWS, ids)(params))
    halves = [
        part(jax.tree.map(lambda array, i=i: array[i : i + 4], batch), jnp.arange(i, i + 4))
        for i in (0, 4)
    ]
    np.testing.assert_allclose(sum(halves), part(batch, jnp.arange(ROWS)), rtol=1e-5)


def test_eight_devices_equal_one(parts):
    mesh = sharding.make_mesh(FrozenConfigDict({"data": 4, "fsdp": 2, "tensor": 1}))
    method, params = make()
    batch = make_batch()
    one = jax.jit(jax.value_and_grad(loss_of(method, batch)))(params)
    split, _ = make(parts=8)
    rows = jax.sharding.NamedSharding(mesh, P(("data", "fsdp")))

    def loss(params, batch):
        return loss_of(split, batch)(params)

    eight = jax.jit(jax.value_and_grad(loss), in_shardings=(sharding.of_tree(params, mesh), rows))(
        params, batch
    )
    np.testing.assert_allclose(one[0], eight[0], rtol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (one[1], eight[1])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def sample(method, params, ids, given=None, **keys):
    section = settings(**keys)
    scales = {name: jnp.float32(section[name]) for name in method.traced}
    run = jax.jit(method.sampler(section, LENGTH))
    return run(params, {}, jnp.asarray(ids), given, KEY, scales)


def direct_sample(method, params, given, steps, cfg_scale, temperature):
    """Euler's method on z [B, L, V], in a Python loop."""
    clean, is_given = jax.nn.one_hot(given.tokens, VOCAB), given.is_cond
    keys = rng.per_example(KEY, jnp.arange(len(clean)))
    z = jax.jit(lambda: method.noise(keys, LENGTH, lambda noise: noise))()

    @jax.jit
    def denoised(z, t):
        cond = run_network(method, params, z, t, is_given)
        uncond = run_network(method, params, z, t, None, is_given)
        return jax.nn.softmax((uncond + cfg_scale * (cond - uncond)) / temperature)

    grid = np.linspace(0, 1, steps + 1)
    for index in range(steps):
        z = jnp.where(is_given[..., None], clean, z)
        d = denoised(z, jnp.full(len(z), grid[index], jnp.float32))
        now, after = (float(share_of_signal(grid[i], VOCAB)) for i in (index, index + 1))
        z = d if index == steps - 1 else z + (after - now) / (1 - now + 1e-5) * (d - z)
    return jnp.where(is_given, given.tokens, jnp.argmax(z, -1))


def test_samples_are_those_of_the_formula(parts):
    method, params = make()
    given = make_batch()
    keys = {"cfg_scale": 2.0, "temperature": 0.7}
    tokens = sample(method, params, range(ROWS), given, **keys)
    assert tokens.dtype == jnp.int32
    np.testing.assert_array_equal(tokens, direct_sample(method, params, given, 4, **keys))
    np.testing.assert_array_equal(tokens[:, :2], given.tokens[:, :2])
    for changed in ({"temperature": 0.2}, {"cfg_scale": 4.0}):
        assert (tokens != sample(method, params, range(ROWS), given, **{**keys, **changed})).any()


def test_a_sample_depends_on_its_id_only():
    method, params = make()
    whole = sample(method, params, range(ROWS))
    np.testing.assert_array_equal(sample(method, params, [5, 2]), whole[jnp.array([5, 2])])
    assert len(np.unique(whole, axis=0)) > 1


def bytes_of(function, *inputs):
    return jax.jit(function).lower(*inputs).compile().memory_analysis().temp_size_in_bytes


def test_no_array_over_the_vocabulary_is_whole(monkeypatch):
    """Memory of the gradient and of the sampler, against one array [B, L, V]."""
    size, length = 4096, 64
    method, params = make(size)
    batch = make_batch(length=length, vocab_size=size)
    array = ROWS * length * size * 4
    scales = {name: jnp.float32(1) for name in method.traced}

    def measured():
        run = method.sampler(settings(), length)
        gradient = bytes_of(jax.grad(loss_of(method, batch)), params)
        sampler = bytes_of(run, params, {}, jnp.arange(ROWS), batch, KEY, scales)
        return gradient / array, sampler / array

    assert min(measured()) > 1  # in one part
    monkeypatch.setattr(vocabulary, "LOGIT_BYTES", array // 32)
    assert max(measured()) < 0.6
