"""What the methods on tokens share: the rows of a training, and held-out rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core import sharding
from elf_jax.core.types import Batch, counted_positions
from elf_jax.generation.generate import scales
from elf_jax.methods.method import Context
from elf_jax.methods.registry import build_method
from elf_jax.methods.tokens.method import training_rows
from elf_jax.methods.tokens.predictor import TokenPredictor
from elf_jax.training.step import make_eval_step
from tests.tiny import tiny_config

V, LENGTH, REAL = 12, 6, 5


def make(name, **keys):
    """(method, random parameters)."""
    keys = {"cdcd.self_cond_fraction": 0.0, "tokens.condition_dropout": 1.0, **keys}
    config = tiny_config(**{"method": name, **keys})
    method, _ = build_method(config, V, sharding.make_mesh(config.mesh))
    draw = np.random.default_rng(0)
    params = jax.eval_shape(lambda key: method.init(key, LENGTH), jax.random.key(0))
    return method, jax.tree.map(lambda leaf: jnp.float32(draw.normal(0, 0.3, leaf.shape)), params)


def batch_of(count):
    """Pairs; rows after REAL ones repeat the last one, as `Rows.batches` does."""
    tokens = np.random.default_rng(1).integers(0, V, (REAL, LENGTH)).astype(np.int32)
    tokens = tokens[np.minimum(np.arange(count), REAL - 1)]
    is_cond = np.broadcast_to(np.arange(LENGTH) < 2, tokens.shape)
    return Batch(tokens, is_cond, np.ones_like(is_cond))


def held_out(method, params, count):
    """(loss, sums, positions) of a batch of `count` rows, of which REAL ones are real."""
    step = jax.jit(make_eval_step(method, lambda batch: counted_positions(batch, True)))
    return step(params, {}, batch_of(count), jax.random.key(0), np.arange(count) < REAL)


@pytest.mark.parametrize("name", ["mdlm", "duo", "cdcd", "flm"])
def test_rows_that_fill_up_a_batch_change_nothing(name):
    """Not the times of the others either: the last batch would have only those near 0."""
    method, params = make(name)
    few, many = (jax.tree.leaves(held_out(method, params, count)) for count in (REAL, 8 * REAL))
    np.testing.assert_allclose(many, few, rtol=1e-5)


PAIRS = {"data.pad_source": True, "data.source_field": "source", "data.source_length": 2}


@pytest.mark.parametrize("name", ["ar", "mdlm", "llada", "duo", "cdcd", "flm"])
def test_no_logits_of_padded_sources_are_computed(name, monkeypatch):
    """The losses, their gradients and the samples are the same as with them."""
    sampler = {"ar": "greedy", "cdcd": "ode", "flm": "ode"}.get(name, "ancestral")
    keys = {"cdcd.self_cond_fraction": 0.5, "duo.curriculum.steps": 1, "sample.cfg_scale": 2.0}
    keys |= {"data.length": LENGTH, "sample.sampler": sampler, "tokens.condition_dropout": 0.5}
    method, params = make(name, **keys, **PAIRS)
    with_all, context = dataclasses.replace(method, first=0), Context(jax.random.key(0), 0, True)
    settings, widths = tiny_config(**keys).sample, []

    def watched(real):
        """The function `real` of the predictor. What has the size of the vocabulary is noted."""

        def call(self, params, inputs, *how):
            made = real(self, params, inputs, *how)
            widths.extend(a.shape[1] for a in (inputs, made) if a.shape[2:] == (V,))
            return made

        return call

    for name in ("_logits", "embed"):
        monkeypatch.setattr(TokenPredictor, name, watched(getattr(TokenPredictor, name)))

    def found(method):
        batch, ids = batch_of(8), jnp.arange(8)
        counted = counted_positions(batch, True)

        def loss(params):
            return method.loss(params, {}, batch, counted, ids, context)[0]

        run = jax.jit(method.sampler(settings, LENGTH))
        tokens = run(params, {}, ids, batch, jax.random.key(1), scales(method, settings))
        return *jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(params)), tokens

    ours = found(method)
    assert set(widths) == {LENGTH - 2}
    widths.clear()
    for one, other in zip(ours, found(with_all), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert set(widths) == {LENGTH}


def test_only_training_drops_conditions():
    context = Context(jax.random.key(0), jnp.int32(0))
    batch = batch_of(64)
    rows = training_rows(batch, jnp.arange(64), context, 0.5)
    assert (rows.is_given == batch.is_cond).all() and not rows.is_dropped.any()
    context = context.replace(is_training=True)
    rows = training_rows(batch, jnp.arange(64), context, 0.5)
    is_dropped = np.asarray(rows.is_dropped).any(axis=1)
    assert 16 < is_dropped.sum() < 48
    assert (rows.is_given == batch.is_cond & ~is_dropped[:, None]).all()
    assert (rows.is_dropped == batch.is_cond & is_dropped[:, None]).all()
