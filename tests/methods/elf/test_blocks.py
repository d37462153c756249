"""Blocks from left to right: what a position may see, the loss, and the sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core import checks, sharding
from elf_jax.core.errors import UserError
from elf_jax.core.types import Batch
from elf_jax.generation.generate import scales
from elf_jax.methods.elf.blocks import Blocks, readable, shifted
from elf_jax.methods.elf.left_to_right import LeftToRight
from elf_jax.methods.method import Context
from elf_jax.methods.registry import build_method, kept_meaning
from tests.methods.test_every_method import V, random_params
from tests.tiny import tiny_config

FIRST, SIZE, LENGTH, ROWS = 2, 3, 8, 4
PAIRS = {"data.source_field": "source", "data.source_length": FIRST, "data.pad_source": True}


def build(**keys):
    """(config, method, parameters, frozen arrays)"""
    own = {"model.block_length": SIZE, "model.token_table": True, "model.depth": 2}
    config = tiny_config(**{**own, **PAIRS, **keys})
    method, frozen = build_method(config, V, sharding.make_mesh(config.mesh))
    return config, method, random_params(method, LENGTH), frozen


@pytest.fixture(scope="module")
def built():
    return build()


def batch():
    tokens = np.random.default_rng(0).integers(0, V, (ROWS, LENGTH)).astype(np.int32)
    is_cond = np.broadcast_to(np.arange(LENGTH) < FIRST, tokens.shape)
    return Batch(tokens, is_cond, np.ones(tokens.shape, bool))


def latents(method, name):
    shape = ROWS, LENGTH, method.encoder.width
    return jax.random.normal(jax.random.key({"x": 0, "z": 1, "x_prev": 2}[name]), shape)


@pytest.fixture(scope="module")
def hidden(built):
    """Function (x, z, x_prev) -> hidden states of all noisy blocks, as in training."""
    _, method, params, _ = built

    @jax.jit
    def run(x, z, x_prev):
        clean = method.predictor.read(params, *shifted(x, batch().tokens))
        signals = jnp.full(ROWS, 0.3), jnp.ones(ROWS), jnp.arange(ROWS) == 1
        before = method.blocks.before_all(*clean)
        return method.predictor.hidden(params, z, x_prev, *signals, before=before)

    return lambda *arrays: np.asarray(run(*arrays))


def test_a_noisy_block_sees_the_clean_text_before_it_and_itself(built, hidden):
    _, method, *_ = built
    x, z, x_prev = (latents(method, name) for name in ("x", "z", "x_prev"))
    plain = hidden(x, z, x_prev)
    assert (plain[:, :FIRST] == 0).all() and (plain[:, FIRST:] != 0).all()

    def changed(**arrays):
        other = hidden(*({"x": x, "z": z, "x_prev": x_prev} | arrays).values())
        return np.abs(other - plain).max(axis=(0, 2)) > 1e-6

    places = np.arange(LENGTH)
    for place in places:
        start = FIRST + (place - FIRST) // SIZE * SIZE
        later = places >= max(start + SIZE, FIRST)  # the blocks after that of the place
        np.testing.assert_array_equal(changed(x=x.at[:, place].add(1.0)), later)
        own = (places >= start) & (places < start + SIZE) & (place >= FIRST)
        np.testing.assert_array_equal(changed(z=z.at[:, place].add(1.0)), own)


def test_the_rows_of_a_context_are_those_of_its_arrays(built, hidden):
    _, method, params, _ = built
    x, z, x_prev = (latents(method, name) for name in ("x", "z", "x_prev"))

    @jax.jit
    def of_part(x, z, x_prev):
        clean = method.predictor.read(params, *shifted(x, batch().tokens))
        part = method.blocks.before_all(*clean).rows(lambda array: array[1:3])
        signals = jnp.full(2, 0.3), jnp.ones(2), jnp.arange(2) == 0
        return method.predictor.hidden(params, z, x_prev, *signals, before=part)

    ours = of_part(x, z[1:3], x_prev[1:3])
    np.testing.assert_allclose(ours, hidden(x, z, x_prev)[1:3], atol=1e-5)


def test_sampling_reads_what_training_reads(built, hidden):
    """One block after another, with a cache, gives the hidden states of all blocks at once."""
    _, method, params, _ = built
    x, z, x_prev = (latents(method, name) for name in ("x", "z", "x_prev"))
    whole = hidden(x, z, x_prev)

    @jax.jit
    def one_block(known, cache, start, z, x_prev):
        before = method.blocks.before_one(known, cache, start)
        signals = jnp.full(ROWS, 0.3), jnp.ones(ROWS), jnp.arange(ROWS) == 1
        return method.predictor.hidden(params, z, x_prev, *signals, before=before)

    @jax.jit
    def read_on(x, tokens, cache, position):
        return method.predictor.read(params, x, tokens, cache=cache, position=position)

    cache = method.predictor.empty_cache(ROWS, LENGTH + 1)
    source = jnp.where((jnp.arange(LENGTH) < FIRST)[:, None], x, 7.0)  # what comes is not known
    tokens = jnp.asarray(batch().tokens)
    read = shifted(source, jnp.where(jnp.arange(LENGTH) < FIRST, tokens, 7))
    known, cache = jax.jit(method.predictor.read)(params, *read, cache=cache)
    known = known[:, FIRST]
    for start in (2, 5):
        block = slice(start, start + SIZE)
        ours = one_block(known, cache, jnp.asarray(start), z[:, block], x_prev[:, block])
        np.testing.assert_allclose(ours, whole[:, block], rtol=1e-4, atol=1e-5)
        known, cache = read_on(x[:, block], tokens[:, block], cache, jnp.asarray(start + 1))
        known = known[:, -1]


@pytest.mark.parametrize("has_table", [True, False])
def test_a_clean_token_is_read_by_its_latent_and_by_its_learned_vector(has_table):
    _, method, params, _ = build(**{"model.token_table": has_table})
    x, tokens, place = latents(method, "x"), jnp.asarray(batch().tokens), 4

    @jax.jit
    def read(tokens):
        return method.predictor.read(params, *shifted(x, tokens))[0]

    plain = read(tokens)
    for other in ((tokens[:, place] + 1) % V, -1):  # another token, and none
        moved = np.abs(read(tokens.at[:, place].set(other)) - plain).max(axis=(0, 2)) > 1e-6
        np.testing.assert_array_equal(moved, (np.arange(LENGTH) > place) & has_table)
    last, none = (read(tokens.at[:, place].set(token)) for token in (V - 1, -1))
    assert (np.abs(last - none).max() > 1e-6) == has_table
    assert ("token_table" in params) == has_table
    # Before the first token there is none, neither its latent nor its vector.
    first = method.predictor.read(params, jnp.zeros_like(x), jnp.full_like(tokens, -1))[0]
    np.testing.assert_allclose(first[:, 0], plain[:, 0], atol=1e-6)


def test_the_table_is_the_last_layer_of_both_heads():
    _, method, params, _ = build()
    width = method.predictor.network.width
    hidden = jax.random.normal(jax.random.key(5), (ROWS, LENGTH, width))
    dense, norm, table = (params[name] for name in ("decode_proj", "before_norm", "token_table"))
    assert "unembed" not in params and "next_proj" not in params
    logits = jax.nn.gelu(hidden @ dense["kernel"] + dense["bias"]) @ table.T
    ours = method.predictor.logit_head(params, hidden)
    np.testing.assert_allclose(ours, logits, rtol=1e-4, atol=1e-5)
    scale = 1 / np.sqrt(np.mean(hidden**2, axis=-1, keepdims=True) + 1e-6)
    next_loss = -jax.nn.log_softmax((hidden * scale * norm["scale"]) @ table.T)[..., 3]
    tokens = jnp.full((ROWS, LENGTH), 3)
    ours, _ = method.predictor.next_losses(params, hidden, tokens)
    np.testing.assert_allclose(ours, next_loss, rtol=1e-4, atol=1e-5)


def test_the_table_is_a_part_of_what_a_model_is():
    """A model without it cannot go on with it, and the message names the key."""
    config, method, *_ = build()
    assert method.meaning()["model.token_table"] and kept_meaning(config, None) == method.meaning()
    assert not build(**{"model.token_table": False})[1].meaning()["model.token_table"]
    assert not build(**{"model.block_length": 0})[1].meaning()["model.token_table"]


def test_training_does_not_read_a_dropped_condition():
    tokens = batch().tokens
    other = np.where(batch().is_cond, (tokens + 1) % V, tokens)
    for dropout in (1.0, 0.0):
        _, method, params, frozen = build(**{"objective.condition_dropout": dropout})

        @jax.jit
        def loss(tokens, method=method, params=params, frozen=frozen):
            counted = jnp.broadcast_to(jnp.arange(LENGTH) >= FIRST, (ROWS, LENGTH))
            context = Context(jax.random.key(3), jnp.zeros((), jnp.int32), is_training=True)
            rows = batch().replace(tokens=tokens)
            return method.loss(params, frozen, rows, counted, jnp.arange(ROWS), context)[0]

        assert (loss(tokens) == loss(other)) == (dropout == 1)


def test_the_next_token_is_predicted_from_the_text_before_it(built):
    _, method, params, _ = built
    x, tokens = latents(method, "x"), jnp.asarray(batch().tokens)

    @jax.jit
    def losses(x):
        known, _ = method.predictor.read(params, *shifted(x, batch().tokens))
        return method.predictor.next_losses(params, known, tokens)[0]

    plain = losses(x)
    for place in range(LENGTH):
        moved = np.abs(losses(x.at[:, place].add(1.0)) - plain).max(axis=0) > 1e-6
        np.testing.assert_array_equal(moved, np.arange(LENGTH) > place)


def test_the_loss_has_the_next_token_and_only_counted_positions(built):
    def found(weight):
        _, method, params, frozen = build(**{"objective.next_weight": weight})
        counted = np.arange(LENGTH) >= FIRST + 1
        context = Context(jax.random.key(3), jnp.zeros((), jnp.int32), is_training=True)
        inputs = batch(), jnp.broadcast_to(counted, (ROWS, LENGTH)), jnp.arange(ROWS), context
        loss, sums = jax.jit(lambda: method.loss(params, frozen, *inputs))()
        x = method.encoder.encode(
            frozen["encoder"],
            *(getattr(batch(), n) for n in ("tokens", "is_cond", "is_valid")),
            np.zeros(ROWS, bool),
        )
        known, _ = jax.jit(method.predictor.read)(params, *shifted(x, batch().tokens))
        cross_entropy, _ = method.predictor.next_losses(params, known, batch().tokens)
        metrics = method.metrics(loss, sums, 1.0)
        return float(loss), sums, float(jnp.sum(cross_entropy[:, counted])), metrics

    (none, sums, expected, metrics), (some, *_) = found(0.0), found(0.25)
    np.testing.assert_allclose(sums["next"], expected, rtol=1e-5)
    np.testing.assert_allclose(some - none, 0.25 * expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["next_loss"], expected, rtol=1e-5)


def sampled(method, config, params, frozen, given, watch=None, ids=ROWS):
    run = jax.jit(method.sampler(config.sample, LENGTH, watch))
    values = scales(method, config.sample)
    return run(params, frozen, jnp.arange(ids), given, jax.random.key(0), values)


@pytest.mark.parametrize("cfg_scale", [1.0, 2.0])
def test_a_given_block_is_read_and_takes_no_steps(cfg_scale):
    """The first block given, the second one is as if the model had written the first."""
    keys = {"sample.steps": 3, "sample.sampler": "sde", "sample.cfg_scale": cfg_scale}
    config, method, params, frozen = build(**keys)
    rows = batch()
    free = np.asarray(sampled(method, config, params, frozen, rows))
    assert (free[:, :FIRST] == rows.tokens[:, :FIRST]).all()
    # No guidance sees the difference between what is given and what is written.
    if cfg_scale == 1:
        is_cond = np.broadcast_to(np.arange(LENGTH) < FIRST + SIZE, free.shape)
        given = rows.replace(tokens=free, is_cond=is_cond)
        np.testing.assert_array_equal(sampled(method, config, params, frozen, given), free)
    other = np.where(np.arange(LENGTH) == FIRST - 1, (rows.tokens + 1) % V, rows.tokens)
    made = np.asarray(sampled(method, config, params, frozen, rows.replace(tokens=other)))
    assert (made[:, FIRST:] != free[:, FIRST:]).any()


def test_later_tokens_do_not_change_earlier_ones():
    config, method, params, frozen = build(**{"sample.steps": 3})
    rows = batch()
    free = np.asarray(sampled(method, config, params, frozen, rows))
    is_cond = rows.is_cond | (np.arange(LENGTH) == LENGTH - 1)
    made = np.asarray(sampled(method, config, params, frozen, rows.replace(is_cond=is_cond)))
    np.testing.assert_array_equal(made[:, : FIRST + SIZE], free[:, : FIRST + SIZE])
    np.testing.assert_array_equal(made[:, -1], rows.tokens[:, -1])
    assert not method.fills_anywhere


def test_each_block_has_its_steps_and_what_comes_is_open():
    config, method, params, frozen = build(**{"sample.steps": 3})
    tokens, seen = sampled(method, config, params, frozen, batch(), lambda seen: seen)
    assert len(seen.step) == len(method.costs(config.sample, LENGTH)) == 6
    assert method.evaluations(config.sample, LENGTH) == 2 * (3 + 1)
    is_open = np.asarray(seen.is_open)
    assert is_open[:3, :, FIRST + SIZE :].all() and not is_open[:3, :, : FIRST + SIZE].any()
    assert not is_open[3:].any() and (np.asarray(seen.tokens)[2:, :, 2:5] == tokens[:, 2:5]).all()
    np.testing.assert_allclose(seen.time[2::3], [1.0, 2.0], atol=1e-6)
    # A token that was written keeps the entropy that it was read with.
    entropy = np.asarray(seen.entropy)
    np.testing.assert_array_equal(entropy[3:, :, 2:5], np.repeat(entropy[2:3, :, 2:5], 3, axis=0))


def test_text_without_sources():
    config, method, params, frozen = build(
        **{"data.source_field": "", "data.pad_source": False, "model.block_length": 4}
    )
    assert method.blocks == Blocks(0, 4)
    made = np.asarray(sampled(method, config, params, frozen, None))
    assert made.shape == (ROWS, LENGTH) and len(np.unique(made)) > 1
    nothing = batch().replace(is_cond=np.zeros((ROWS, LENGTH), bool))
    np.testing.assert_array_equal(sampled(method, config, params, frozen, nothing), made)


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"method": "mdlm"}, "mdlm has no such blocks: set it to 0, or train elf"),
        ({"encoder.kind": "t5"}, "whose vectors tell of the text after them"),
        ({"model.block_length": 4}, "does not divide config.data.length=8 - source_length=2: .*=6"),
        ({"model.block_length": 7}, "set config.data.length=9"),
        (
            {"data.given.spans": 0.5, "data.given.slack": 2},
            "a model that writes in blocks .* can only continue a text",
        ),
    ],
)
def test_what_does_not_go_with_blocks(keys, words):
    values = {"model.block_length": SIZE, "sample.sampler": "sde", **PAIRS, **keys}
    if keys.get("method"):
        values["sample.sampler"] = "ancestral"
    with pytest.raises(UserError, match=words):
        checks.check(tiny_config(**values))


def test_a_model_in_blocks_cannot_rewrite(built):
    config, method, *_ = built
    with pytest.raises(UserError, match="block_length is 3, and .* cannot rewrite"):
        method.rewriter(config.sample, LENGTH)


def test_what_is_written_is_read_as_in_training_with_and_without_the_condition():
    config, method, params, frozen = build(**{"sample.cfg_scale": 2.0})
    is_cond = np.broadcast_to(np.arange(LENGTH) < FIRST + 1, (ROWS, LENGTH))  # a part of a block
    rows, start = batch().replace(is_cond=is_cond), jnp.asarray(FIRST)
    other = np.where(rows.is_cond, (rows.tokens + 1) % V, rows.tokens)

    def read(rows, config=config):
        """The clean texts before the first block, and after it."""
        return jax.jit(lambda: both_texts(rows, config))()

    def both_texts(rows, config):
        inputs = params, frozen["encoder"], rows, True
        text = LeftToRight(method._writer(config.sample), method.blocks, *inputs)
        begun = text._begin().clean
        return begun, text._read_on(begun, text._block_of(rows, start), start)

    both = read(rows)
    for one, two in zip(both, read(rows.replace(tokens=other)), strict=True):
        (given, dropped), (changed, same) = one, two
        assert np.abs(given.hidden - changed.hidden).max() > 1e-3
        np.testing.assert_array_equal(dropped.hidden, same.hidden)
    for index, drop in enumerate((False, True)):
        fields = rows.tokens, rows.is_cond, rows.is_valid, np.full(ROWS, drop)
        x = method.encoder.encode(frozen["encoder"], *fields)
        text = shifted(x, readable(rows.tokens, rows.is_cond, drop))
        hidden, _ = jax.jit(method.predictor.read)(params, *text)
        for clean, place in zip(both, (FIRST, FIRST + SIZE), strict=True):
            np.testing.assert_allclose(clean[index].hidden, hidden[:, place], rtol=1e-4, atol=1e-5)
    assert len(read(rows, build(**{"sample.cfg_scale": 1.0})[0])[0]) == 1
