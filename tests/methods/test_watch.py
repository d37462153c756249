"""Watched samplers: what is seen of each step, for all methods and samplers."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core import rng, sharding
from elf_jax.core.allowed import SAMPLERS
from elf_jax.core.types import Batch, Never
from elf_jax.generation.generate import scales
from elf_jax.methods.ar import beam
from elf_jax.methods.elf import flow
from elf_jax.methods.method import Seen
from elf_jax.methods.registry import METHODS, build_method
from elf_jax.methods.watching import Rewriting, View
from tests.methods.ar import exact
from tests.methods.test_every_method import (
    BLOCKS,
    EVERY,
    V,
    mesh_of,
    random_params,
    samplers_of,
    settings,
)
from tests.methods.toy import Toy
from tests.tiny import tiny_config

ALL = sorted(METHODS)
# Of LLaDA only its own sampler: the others, and all else, are those of MDLM.
CASES = [(name, s) for name in ALL for s in SAMPLERS[name] if name != "llada" or s == "confidence"]
CASES += [(BLOCKS, s) for s in SAMPLERS["elf"]]
OWN = [name for name in EVERY if name != "llada"]
REWRITE = [name for name in OWN if name not in ("ar", BLOCKS)]
ROWS, LENGTH, STEPS = 8, 8, 4
FORBIDDEN, GROUP = (2, 3), (4, 5, 6)


def make(name, sampler=None, **keys):
    """(config, method, the arguments of its sampler without what is given)."""
    sampler = sampler or samplers_of(name)[0]
    keys = {"sampler": sampler, "steps": STEPS, "gamma": 0.5, "beams": 2, **keys}
    values = {f"sample.{key}": value for key, value in keys.items()}
    config = tiny_config(**{**settings(name), **values})
    method, frozen = build_method(config, V, mesh_of(1), eos_id=1)
    inputs = jax.random.key(0), scales(method, config.sample)
    return config, method, (random_params(method, LENGTH), frozen, jnp.arange(ROWS), *inputs)


@functools.cache
def seen_of(name, sampler=None, has_given=False, **keys):
    """(samples without a watcher, samples with one, a `Seen` of all states, costs, method, config).

    With `has_given`, the rows are `templates`.
    """
    config, method, (params, frozen, ids, *inputs) = make(name, sampler, **keys)
    plain = method.sampler(config.sample, LENGTH)
    watched = method.sampler(config.sample, LENGTH, lambda seen: seen)
    arguments = params, frozen, ids, templates(name == "ar") if has_given else None, *inputs
    samples, (tokens, seen) = jax.jit(plain)(*arguments), jax.jit(watched)(*arguments)
    costs = method.costs(config.sample, LENGTH)
    seen = jax.tree.map(np.asarray, seen)
    return np.asarray(samples), np.asarray(tokens), seen, costs, method, config


def templates(is_prefix):
    """A `Batch` of rows with given tokens, some of them followed by what must not be written."""
    draw = np.random.default_rng(1)
    tokens = draw.integers(7, V, (ROWS, LENGTH)).astype(np.int32)
    prefix = np.arange(LENGTH) < draw.integers(1, 4, (ROWS, 1))
    is_cond = prefix if is_prefix else draw.random((ROWS, LENGTH)) < 0.4
    where = np.repeat(~is_cond[..., None], len(FORBIDDEN) + 1, axis=2)
    return Batch(tokens, is_cond, is_cond, never=Never(where, FORBIDDEN, GROUP))


@pytest.mark.parametrize("name, sampler", CASES)
def test_the_last_state_is_the_sample_and_given_tokens_stay(name, sampler):
    given = templates(name == "ar")
    samples, tokens, seen, costs, method, config = seen_of(name, sampler, True, cfg_scale=1.5)
    np.testing.assert_array_equal(tokens, samples)
    np.testing.assert_array_equal(seen.tokens[-1], samples)
    assert not seen.is_open[-1].any() and not seen.is_open[:, given.is_cond].any()
    assert (seen.tokens[:, given.is_cond] == given.tokens[given.is_cond]).all()
    assert (seen.entropy[:, given.is_cond] == 0).all()
    np.testing.assert_array_equal(seen.tokens == -1, seen.is_open)
    assert not np.isin(seen.tokens[:, ~given.is_cond], FORBIDDEN + GROUP).any()
    assert seen.tokens.dtype == np.int32 and seen.tokens.max() < V

    assert len(costs) == len(seen.step) == len(seen.tokens)
    assert costs[-1] == method.evaluations(config.sample, LENGTH)
    assert (np.diff(costs) > 0).all() and all(isinstance(cost, int) for cost in costs)
    np.testing.assert_array_equal(seen.step, np.arange(len(costs)))
    assert seen.time.dtype == np.float32 and seen.time.shape == (len(costs),)
    assert len({int(sign) for sign in np.sign(np.diff(seen.time))}) == 1


@pytest.mark.parametrize("name", OWN)
def test_nothing_is_given(name):
    samples, tokens, seen, *_ = seen_of(name)
    np.testing.assert_array_equal(tokens, samples)
    np.testing.assert_array_equal(seen.tokens[-1], samples)
    assert (seen.entropy >= -1e-6).all() and (seen.entropy <= np.log(V) + 1e-5).all()
    assert (seen.tokens[0] != seen.tokens[-1]).any()
    ends = {"elf": 1, BLOCKS: LENGTH / 2, "flm": 1, "ar": LENGTH, "mdlm": 0, "duo": 0, "cdcd": 1}
    np.testing.assert_allclose(seen.time[-1], ends[name], atol=1e-6)


@pytest.mark.parametrize("name", OWN)
def test_without_a_watcher_the_program_has_nothing_of_it(name, monkeypatch):
    def program():
        config, method, (params, frozen, ids, *inputs) = make(name)
        arguments = params, frozen, ids, templates(name == "ar"), *inputs
        traced = [jax.make_jaxpr(method.sampler(config.sample, LENGTH))(*arguments)]
        if name in REWRITE:
            run = method.rewriter(config.sample, LENGTH)
            traced.append(jax.make_jaxpr(run)(*arguments, np.float32(0.5)))
        return str(traced)

    before = program()
    for hook in ("only", "entropy", "show", "show_likeliest"):
        monkeypatch.setattr(View, hook, lambda self, *arguments: None)
    monkeypatch.setattr(View, "result", lambda self, tokens, *arguments: tokens)
    assert program() == before


@pytest.mark.parametrize("name", REWRITE)
def test_the_states_of_a_rewriting(name):
    """The text itself at strength 0, the sampler's states at 1, and the new text at the end."""
    config, method, (params, frozen, ids, *inputs) = make(name)
    text = templates(False)
    text = text.replace(is_valid=np.ones_like(text.is_valid), never=None)
    arguments = params, frozen, ids, text, *inputs
    plain = jax.jit(method.rewriter(config.sample, LENGTH))
    watched = jax.jit(method.rewriter(config.sample, LENGTH, lambda seen: seen))
    (same, kept), (new, seen), (_, all_new) = (
        jax.tree.map(np.asarray, watched(*arguments, np.float32(strength)))
        for strength in (0, 0.4, 1)
    )
    assert (same == text.tokens).all() and (kept.tokens == text.tokens).all()
    assert not kept.is_open.any() and not kept.entropy.any() and np.isfinite(kept.time).all()
    np.testing.assert_array_equal(new, plain(*arguments, np.float32(0.4)))
    np.testing.assert_array_equal(new, seen.tokens[-1])
    assert (new != text.tokens).any() and (seen.tokens[0] != new).any()
    assert not seen.is_open[-1].any() and np.isfinite(seen.entropy).all()
    *_, sampled, costs, _, _ = seen_of(name)
    assert len(kept.step) == len(costs)
    np.testing.assert_array_equal(all_new.tokens, sampled.tokens)
    np.testing.assert_allclose(all_new.time, sampled.time, atol=1e-6)
    np.testing.assert_allclose(all_new.entropy, sampled.entropy, atol=1e-4)


def test_a_rewriting_shows_no_noise_that_must_not_be_written():
    batch = templates(False)
    tokens = batch.tokens.copy()
    tokens[:, ::2] = FORBIDDEN[0]
    is_noise = (tokens == FORBIDDEN[0]) & batch.never.where[..., 0]
    entropy = jnp.ones(tokens.shape)
    seen = Seen(jnp.int32(0), jnp.float32(0.5), tokens, np.zeros(tokens.shape, bool), entropy)
    shown = Rewriting(lambda seen: seen, batch, jnp.float32(0.5)).watch(seen)
    np.testing.assert_array_equal(shown.is_open, is_noise)
    np.testing.assert_array_equal(shown.tokens, np.where(is_noise, -1, tokens))
    assert is_noise.any() and (shown.entropy == 1).all()


@pytest.mark.parametrize("name", ["mdlm", "llada", "ar"])
def test_a_token_that_is_there_never_changes(name):
    *_, seen, costs, _, _ = seen_of(name)
    assert seen.is_open[0].any()
    for before, after in itertools.pairwise(range(len(costs))):
        was_there = ~seen.is_open[before]
        assert not seen.is_open[after][was_there].any()
        np.testing.assert_array_equal(seen.tokens[after][was_there], seen.tokens[before][was_there])
        np.testing.assert_array_equal(
            seen.entropy[after][was_there], seen.entropy[before][was_there]
        )


def test_elf_shows_the_prediction_of_each_step_in_decode_mode():
    """Against a loop in Python."""
    *_, seen, costs, method, _ = seen_of("elf", "ode", time_grid="uniform")
    _, _, (params, _, ids, key, values) = make("elf", "ode")
    assert costs == [2, 3, 4, 5] and seen.time.tolist() == [0.25, 0.5, 0.75, 1.0]
    predictor, w, law = method.predictor, values["guidance_scale"], method.law

    @jax.jit
    def states():
        keys = rng.per_example(key, ids)
        start = rng.normal(jax.vmap(lambda k: rng.stream(k, "start"))(keys), (LENGTH, 8))
        z, x_hat, found = law.noise_scale * start, jnp.zeros_like(start), []
        for t in (0.0, 0.25, 0.5, 0.75):
            x_hat = predictor.guided(params, w)(z, jnp.full(ROWS, t), x_hat)
            z = z + 0.25 * flow.velocity(x_hat, z, t, law.t_eps)
            found.append(x_hat)
        hidden = [predictor.decode_hidden(params, x, jnp.full(ROWS, w)) for x in (*found[:-1], z)]
        return jnp.stack([predictor.logit_head(params, one) for one in hidden])

    log_p = np.asarray(jax.nn.log_softmax(states()))
    np.testing.assert_array_equal(seen.tokens, np.argmax(log_p, axis=-1))
    entropy = -np.sum(np.exp(log_p) * log_p, axis=-1)
    np.testing.assert_allclose(seen.entropy, entropy, atol=1e-4)


@pytest.mark.parametrize("name", ["ar", "mdlm", "duo", "cdcd", "flm"])
def test_the_entropy_is_that_of_what_tokens_are_drawn_from(name):
    *_, hot, _, _, _ = seen_of(name, temperature=1e6)
    is_drawn = ~hot.is_open if name == "ar" else np.ones(hot.is_open.shape, bool)
    np.testing.assert_allclose(hot.entropy[is_drawn], np.log(V), atol=1e-3)
    if name in ("ar", "mdlm"):
        *_, narrow, _, _, _ = seen_of(name, top_p=1e-6)
        np.testing.assert_allclose(narrow.entropy, 0, atol=1e-6)


def test_the_states_of_masked_diffusion_are_counted_by_their_predictions():
    for name, count in (("mdlm", STEPS + 1), ("llada", STEPS)):
        *_, costs, _, _ = seen_of(name)
        assert costs == list(range(1, count + 1))
        config, method, _ = make(name, cfg_scale=2.0)
        assert method.costs(config.sample, LENGTH) == list(range(2, 2 * count + 1, 2))
    config, method, _ = make("ar", "sample", cfg_scale=2.0)
    assert method.costs(config.sample, LENGTH) == list(range(1, LENGTH + 1))


def test_the_states_of_ar_are_the_beginnings_of_its_text():
    samples, _, seen, *_ = seen_of("ar")
    for state, tokens in enumerate(seen.tokens):
        np.testing.assert_array_equal(tokens[:, : state + 1], samples[:, : state + 1])
        assert (tokens[:, state + 1 :] == -1).all()


def test_a_search_shows_the_result_of_a_search_that_ends_there():
    toy, end = Toy(vocab_size=3, length=4), 2
    decoder = exact.decoder(exact.conditionals(toy))

    def search(length, **view):
        return beam.search(decoder, None, 1, length, 3, 2, jnp.float32(1.0), end, **view)

    tokens, seen = search(4, view=View(lambda seen: seen))
    np.testing.assert_array_equal(tokens, search(4))
    for count in (1, 2, 3, 4):
        short = np.asarray(search(count))[0]
        shown = np.asarray(seen.tokens[count - 1])[0]
        np.testing.assert_array_equal(shown[:count], short)
        rest = end if end in short else -1
        assert (shown[count:] == rest).all()
    np.testing.assert_array_equal(seen.entropy[0, 0, 1:], 0)


def test_eight_devices_show_what_one_shows():
    config, _, (params, _, _, key, values) = make("elf")
    mesh, config.mesh.data = mesh_of(8), 8
    method, frozen = build_method(config, V, mesh)
    watched = method.sampler(config.sample, LENGTH, lambda seen: seen.tokens)
    watched = jax.jit(watched, out_shardings=sharding.replicated(mesh))
    ids = sharding.share_rows(np.arange(ROWS, dtype=np.int32), mesh)
    _, tokens = watched(params, frozen, ids, None, key, values)
    *_, seen, _, _, _ = seen_of("elf")
    np.testing.assert_array_equal(tokens, seen.tokens)
