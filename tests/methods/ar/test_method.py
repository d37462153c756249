"""Autoregression with its network: what it sees, its cache, and its settings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core import rng, sharding
from elf_jax.core.types import Batch
from elf_jax.methods.ar import objective
from elf_jax.methods.ar.method import AR
from elf_jax.methods.method import Context
from elf_jax.methods.registry import build_method
from elf_jax.methods.tokens.draws import categorical
from elf_jax.methods.tokens.method import training_rows
from tests.tiny import tiny_config

B, L, V, EOS = 8, 6, 11, 1


def build(mesh=None, **keys):
    """(the method, random parameters with a random head)."""
    keys = {"data.length": L, "model.depth": 2, **keys}
    config = tiny_config(method="ar", **{"sample.sampler": "sample"}, **keys)
    mesh = sharding.make_mesh(config.mesh) if mesh is None else mesh
    method, frozen = build_method(config, V, mesh, eos_id=EOS)
    assert isinstance(method, AR) and frozen == {} and method.eos_id == EOS
    shapes = jax.eval_shape(lambda key: method.init(key, L), jax.random.key(0))
    draw = np.random.default_rng(2).standard_normal
    params = jax.tree.map(lambda leaf: np.float32(0.3) * draw(leaf.shape, np.float32), shapes)
    params["blocks"]["norm1"]["scale"] += 1
    params["blocks"]["norm2"]["scale"] += 1
    return method, params, config


def batch(rows=B, prefixes=None, seed=0):
    tokens = np.random.default_rng(seed).integers(2, V, (rows, L)).astype(np.int32)
    prefixes = np.zeros(rows, int) if prefixes is None else prefixes
    is_cond = np.arange(L) < prefixes[:, None]
    return Batch(tokens, is_cond, np.ones((rows, L), bool))


def nll(method, params, rows, drop=0.0, context=None):
    """The loss of each position, [B, L]."""
    if context is None:
        context = Context(jax.random.key(0), jnp.int32(0), is_training=drop > 0)
    inputs = training_rows(rows, jnp.arange(len(rows.tokens)), context, drop)
    return np.asarray(method.position_losses(params, inputs, context)["loss"])


@pytest.fixture(scope="module")
def made():
    return build()


def test_a_position_sees_the_tokens_before_it_and_no_others(made):
    method, params, _ = made
    tokens = jnp.asarray(batch(2).tokens)

    def logits(tokens):
        inputs = objective.shifted(tokens, method.start_id)
        return method.predictor.predict(params)(inputs)(lambda values: values)

    plain = logits(tokens)
    for index in range(L):
        changed = logits(tokens.at[:, index].set((tokens[:, index] + 1) % V))
        difference = np.max(np.abs(changed - plain), axis=(0, 2))
        np.testing.assert_array_equal(difference[: index + 1], 0)
        assert np.all(difference[index + 1 :] > 1e-4)


def test_the_loss_is_the_sum_over_the_counted_positions(made):
    method, params, _ = made
    rows = batch(prefixes=np.arange(B) % 4)
    counted = ~rows.is_cond
    context = Context(jax.random.key(0), jnp.int32(0))
    loss, sums = method.loss(params, {}, rows, counted, jnp.arange(B), context)
    np.testing.assert_allclose(loss, np.sum(nll(method, params, rows)[counted]), rtol=1e-5)
    np.testing.assert_array_equal(sums["nll_bound"], loss)
    metrics = method.metrics(loss / counted.sum(), sums, counted.sum())
    assert metrics.keys() == {"loss", "nll_bound"}
    np.testing.assert_allclose(metrics["loss"], metrics["nll_bound"])


def test_flags_of_the_condition_move_with_the_inputs(made):
    method, params, _ = made
    rows, prefixes = batch(), np.full(B, 3)
    cond = dataclasses.replace(rows, is_cond=np.arange(L) < prefixes[:, None])
    plain, given = nll(method, params, rows), nll(method, params, cond)
    # Position 1 is the first that sees a given token.
    np.testing.assert_array_equal(plain[:, 0], given[:, 0])
    assert np.all(np.abs(plain - given)[:, 1:].max(0) > 1e-4)
    # A dropped condition is not seen: other tokens in its place change nothing after it.
    other = dataclasses.replace(cond, tokens=np.where(cond.is_cond, 5, cond.tokens))
    seen, dropped = (
        [nll(method, params, one, drop)[:, 3:] for one in (cond, other)] for drop in (0.0, 1.0)
    )
    assert np.all(np.abs(seen[0] - seen[1]).max(1) > 1e-4)
    np.testing.assert_array_equal(dropped[0], dropped[1])
    # The token at position 3 is no condition, so it is seen from position 4 on.
    other.tokens[:, 3] = (other.tokens[:, 3] + 1) % V
    changed = np.abs(nll(method, params, other, 1.0)[:, 4:] - dropped[0][:, 1:])
    assert np.all(changed.max(0) > 1e-4)


def test_dropout_is_of_training_alone():
    method, params, _ = build(**{"model.dropout": 0.5, "model.depth": 4})
    rows, key = batch(), jax.random.key(0)
    contexts = [Context(key, jnp.int32(0), is_training=value) for value in (False, True)]
    losses = [nll(method, params, rows, context=context) for context in contexts]
    assert np.max(np.abs(losses[0] - losses[1])) > 1e-3
    assert np.max(np.abs(losses[0] - nll(method, params, rows))) == 0


def run(method, params, config, given=None, ids=None, seed=3, **values):
    settings = config.copy_and_resolve_references().sample
    settings.update(values)
    scales = {name: np.float32(settings[name]) for name in method.traced}
    ids = np.arange(B, dtype=np.int32) if ids is None else ids
    inputs = ids, given, jax.random.key(seed), scales
    return np.asarray(jax.jit(method.sampler(settings, L))(params, {}, *inputs))


def recomputed(method, params, given, seed=3):
    """Samples without a cache: for each position the network runs on the whole row."""
    keys = rng.per_example(jax.random.key(seed), jnp.arange(B))
    predict = method.predictor.predict(params, objective.shifted(jnp.asarray(given.is_cond), False))
    tokens, ended = np.where(given.is_cond, given.tokens, 0), np.zeros(B, bool)
    for index in range(L):
        inputs = objective.shifted(jnp.asarray(tokens), method.start_id)
        logits = predict(inputs)(lambda values: values)[:, index]
        for row in range(B):
            if given.is_cond[row, index]:
                continue
            u = jax.random.uniform(rng.stream(keys[row], "token", index), (2,))
            tokens[row, index] = EOS if ended[row] else categorical(logits[row], u)
            ended[row] |= tokens[row, index] == EOS
    return tokens


def test_samples_with_a_cache_are_those_without(made):
    method, params, config = made
    given = batch(prefixes=np.array([0, 1, 2, 3, 6, 2, 3, 1]))
    plain = recomputed(method, params, given)
    np.testing.assert_array_equal(run(method, params, config, given), plain)
    later = batch(prefixes=np.arange(B) % 3 + 2)  # the first passes are left out
    plain = recomputed(method, params, later)
    np.testing.assert_array_equal(run(method, params, config, later), plain)
    plain = recomputed(method, params, batch())
    np.testing.assert_array_equal(run(method, params, config), plain)


@pytest.mark.parametrize(
    "values", [{"sampler": "sample"}, {"sampler": "beam", "beams": 3}], ids=str
)
def test_samples_do_not_depend_on_the_batch(values, made):
    method, params, config = made
    given = batch(prefixes=np.arange(B) % 4)
    whole = run(method, params, config, given, **values)
    some = np.array([6, 1, 3], np.int32)
    part = jax.tree.map(lambda array: array[some], given)
    np.testing.assert_array_equal(run(method, params, config, part, some, **values), whole[some])
    assert np.all(whole[given.is_cond] == given.tokens[given.is_cond])


def test_a_beam_of_one_is_greedy_and_a_wider_one_is_likelier(made):
    method, params, config = made
    given = batch(prefixes=np.full(B, 2))

    def log_p(tokens):
        rows = dataclasses.replace(given, tokens=tokens)
        after = np.cumsum(np.cumsum((tokens == EOS) & ~given.is_cond, axis=1), axis=1) > 1
        return -np.sum(np.where(given.is_cond | after, 0, nll(method, params, rows)), axis=1)

    beam = {"sampler": "beam", "length_penalty": 0.0}
    greedy = run(method, params, config, given, sampler="greedy")
    np.testing.assert_array_equal(run(method, params, config, given, beams=1, **beam), greedy)
    wide = run(method, params, config, given, beams=8, **beam)
    assert np.mean(log_p(wide)) > np.mean(log_p(greedy)) + 0.01


MESHES = [{"data": 2, "fsdp": 2, "tensor": 2}]  # rows alone: see `test_every_method`


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_eight_devices_equal_one(sizes, made):
    method, params, config = made
    mesh = sharding.make_mesh(sizes)
    many, _, _ = build(mesh)
    rows = batch(prefixes=np.arange(B) % 4)
    ids, context = np.arange(B, dtype=np.int32), Context(jax.random.key(0), jnp.int32(0))
    split = jax.device_put(params, sharding.of_tree(params, mesh))
    shared, shared_ids = sharding.share_rows(rows, mesh), sharding.share_rows(ids, mesh)

    def value(method):
        return jax.jit(
            jax.value_and_grad(
                lambda params, rows, ids: method.loss(
                    params, {}, rows, ~rows.is_cond, ids, context
                )[0]
            )
        )

    one, d_one = value(method)(params, rows, ids)
    eight, d_eight = value(many)(split, shared, shared_ids)
    np.testing.assert_allclose(eight, one, rtol=2e-5)
    for a, b in zip(jax.tree.leaves(d_one), jax.tree.leaves(d_eight), strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-4, atol=2e-5)
    for values in ({"sampler": "sample"}, {"sampler": "beam", "beams": 2}):
        expected = run(method, params, config, rows, ids, **values)
        ours = run(many, split, config, shared, shared_ids, **values)
        np.testing.assert_array_equal(ours, expected)


def test_settings():
    method, _, config = build()
    settings = config.sample
    assert not {"steps", "cfg_scale", "guidance_scale"} & method.settings.keys()
    assert set(method.traced) | set(method.scales) <= method.settings.keys()
    assert method.evaluations(settings, 17) == 17

    def programs(**values):
        changed = config.copy_and_resolve_references().sample
        changed.update(values)
        return method.compiled_for(changed), method.effective(changed)

    plain, used = programs()
    assert programs(temperature=0.5, steps=9, cfg_scale=2.0, beams=7)[0] == plain
    assert programs(beams=7, length_penalty=0.3)[1] == used
    assert programs(top_p=0.5)[0] == programs(top_p=0.9)[0] != plain
    greedy = programs(sampler="greedy")
    assert greedy == programs(sampler="greedy", temperature=0.5, top_p=0.5, beams=2)
    beam = programs(sampler="beam")
    assert beam[0] not in (plain, greedy[0]) and beam[0] != programs(sampler="beam", beams=2)[0]
    assert beam[0] == programs(sampler="beam", length_penalty=0.5, temperature=0.5)[0]
    assert beam[1] != programs(sampler="beam", length_penalty=0.5)[1]


def test_a_new_network_knows_nothing(made):
    method, _, _ = made
    params = jax.jit(lambda key: method.init(key, L))(jax.random.key(0))
    np.testing.assert_allclose(nll(method, params, batch()), np.log(V), rtol=1e-6)
    rows = params["token_table"].shape[0], params["unembed"]["kernel"].shape[-1]
    assert rows == (V + 1, V) and "time_token" not in params
