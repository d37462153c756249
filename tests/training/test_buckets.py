"""Training in buckets: the loss of cut rows is that of whole rows, on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core import checks, sharding
from elf_jax.core.errors import UserError
from elf_jax.core.types import Batch, counted_positions
from elf_jax.data.packing import Rows
from elf_jax.generation.generate import scales
from elf_jax.methods.cdcd import method as cdcd
from elf_jax.methods.duo import method as duo
from elf_jax.methods.elf import objective
from elf_jax.methods.flm import method as flm
from elf_jax.methods.method import Context
from elf_jax.methods.registry import build_method
from elf_jax.methods.tokens import method as tokens
from elf_jax.training import trainer
from elf_jax.training.optimizer import make_optimizer, make_schedule
from tests.methods.test_every_method import random_params
from tests.tiny import tiny_config

V, WIDTH, LENGTH, ROWS = 40, 16, 32, 8
PAIRS = {
    "data.source_field": "source",
    "data.source_length": WIDTH,
    "data.length": LENGTH,
    "data.pad_source": True,
    "data.pad": "pad",
    "model.depth": 2,
    "model.hide_padding": True,
    "optimizer.name": "adamw",
    "train.batch_size": 8 * ROWS,
    "train.length_buckets": 3,
}
SEEN = {"model.hide_padding": False, "train.length_buckets": 1}  # the padding, by all
METHODS = {
    "ar": {"method": "ar", "sample.sampler": "sample"},
    "elf": {"model.block_length": 1, "model.token_table": True, "objective.token_weight": 0.5},
    "elf, blocks of 4": {"model.block_length": 4},
    "mdlm": {"method": "mdlm", "sample.sampler": "ancestral"},
    "llada": {"method": "llada", "sample.sampler": "confidence"},
    "duo": {"method": "duo", "sample.sampler": "ancestral"},
    "cdcd": {"method": "cdcd", "sample.sampler": "ode"},
    "flm": {"method": "flm", "sample.sampler": "ode"},
}
SEES_ALL = ("mdlm", "llada", "duo", "cdcd", "flm")  # of a row, so targets are never cut
# The places of a whole row that a short bucket keeps.
PLACES = *range(8), *range(WIDTH, WIDTH + 8)
ONLY_SOURCE = *range(8), *range(WIDTH, LENGTH)


def build(name, **keys):
    """(config, method, parameters, frozen arrays, mesh)"""
    config = tiny_config(**{**PAIRS, **METHODS[name], **keys})
    checks.check(config)
    mesh = sharding.make_mesh(config.mesh)
    method, frozen = build_method(config, V, mesh, eos_id=1)
    return config, method, random_params(method, LENGTH), frozen, mesh


def pairs(rows=ROWS, seed=0, longest=8):
    """A `Batch` of whole rows, whose halves have less than `longest` tokens."""
    draw = np.random.default_rng(seed)
    place = np.arange(LENGTH)
    source, target = draw.integers(1, longest, (2, rows, 1))
    is_cond = np.broadcast_to(place < WIDTH, (rows, LENGTH))
    is_valid = np.where(is_cond, place < source, place - WIDTH < target)
    tokens = np.where(is_valid, draw.integers(2, V, (rows, LENGTH)), 0)
    return Batch(tokens.astype(np.int32), is_cond, is_valid)


def cut(batch, places=PLACES):
    index = np.asarray(places)
    return jax.tree.map(lambda array: array[:, index], batch).replace(places=places)


def gradient(loss, params):
    return jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(params))


def assert_same(one, two):
    largest = max(np.max(np.abs(array)) for array in one)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest)


def test_a_cut_row_has_the_loss_of_the_whole_one():
    _, method, params, frozen, _ = build("ar")
    context = Context(jax.random.key(0), jnp.int32(0))

    def loss_of(batch):
        counted = counted_positions(batch, False)
        inputs = frozen, batch, counted, jnp.arange(ROWS), context
        return gradient(lambda params: method.loss(params, *inputs)[0], params)

    assert_same(loss_of(pairs()), loss_of(cut(pairs())))


@pytest.mark.parametrize("name", SEES_ALL)
def test_a_row_without_the_padding_of_its_source_has_the_same_loss(name, monkeypatch):
    """With the same noise. The draws of a row depend on its length, so they are cut too."""
    _, method, params, frozen, _ = build(name)
    batch, ids, index = pairs(), jnp.arange(ROWS), np.asarray(ONLY_SOURCE)
    context = Context(jax.random.key(0), jnp.int32(0))

    def cut_draws(draw, axis):
        """The function `draw`, whose draws for so many positions are those of whole rows, cut."""

        def drawn(*inputs):
            shape = inputs[axis]
            if shape[:1] != (len(index),):
                return draw(*inputs)
            return draw(*inputs[:axis], (LENGTH, *shape[1:]), *inputs[axis + 1 :])[:, index]

        return drawn

    def loss_of(batch):
        counted = counted_positions(batch, True)
        inputs = frozen, batch, counted, ids, context
        return gradient(lambda params: method.loss(params, *inputs)[0], params)

    whole = loss_of(batch)
    monkeypatch.setattr(tokens, "uniforms", cut_draws(tokens.uniforms, 1))
    monkeypatch.setattr(duo, "_uniform_tokens", cut_draws(duo._uniform_tokens, 1))
    monkeypatch.setattr(cdcd.rng, "normal", cut_draws(cdcd.rng.normal, 1))
    places = flm.draws.positions
    monkeypatch.setattr(flm.draws, "positions", lambda keys, length: places(keys, LENGTH)[:, index])
    assert_same(whole, loss_of(cut(batch, ONLY_SOURCE)))


@pytest.mark.parametrize("name", SEES_ALL)
def test_the_length_of_a_target_is_learned_from_its_padding(name):
    """So buckets leave it."""
    config, *_ = build(name)
    is_cond = np.arange(LENGTH) < WIDTH
    found = trainer.buckets_of(config, short_and_long())
    assert [sum(~is_cond[list(one.places)]) for one in found.each] == [LENGTH - WIDTH] * 2
    assert [sum(is_cond[list(one.places)]) for one in found.each] == [8, WIDTH]


def short_and_long():
    """`Rows` of two lengths."""
    source = np.repeat(np.int32([4, WIDTH]), 32)
    target = np.repeat(np.int32([4, LENGTH - WIDTH]), 32)
    return Rows(np.ones((64, LENGTH), np.int32), source, source + target, WIDTH)


@pytest.mark.parametrize("name", ["elf", "elf, blocks of 4"])
def test_a_cut_row_of_elf_has_the_loss_of_the_whole_one(name):
    """With the same noise. The draws of a row depend on its length, so they are cut too."""
    _, method, params, frozen, _ = build(name)
    batch, ids = pairs(), jnp.arange(ROWS)
    counted = counted_positions(batch, False)
    whole = method.dealt(frozen, batch, counted, ids, Context(jax.random.key(0), jnp.int32(0)))
    assert {bool(one) for one in whole.draws.is_decode} == {True, False}
    index, draws = np.asarray(PLACES), whole.draws
    short = whole._replace(
        batch=cut(whole.batch),
        counted=whole.counted[:, index],
        x=whole.x[:, index],
        draws=draws.replace(
            noise=draws.noise[:, index], decode_lambda=draws.decode_lambda[:, index]
        ),
    )

    def loss_of(dealt, first):
        inputs = dealt.x, dealt.batch, dealt.counted, dealt.draws, dealt.split, method.law

        def loss(params):
            where = None, dealt.ids, first, method.blocks
            sums = objective.mixed_loss(method.predictor, params, *inputs, *where)
            return sums.denoise + sums.decode + sums.tokens + sums.next

        return gradient(loss, params)

    assert_same(loss_of(whole, WIDTH), loss_of(short, 8))


def test_the_loss_of_elf_begins_where_the_bucket_does(monkeypatch):
    _, method, params, frozen, _ = build("elf")
    real, seen = objective.mixed_loss, []

    def spy(*inputs):
        seen.append(inputs[-2])
        return real(*inputs)

    monkeypatch.setattr(objective, "mixed_loss", spy)
    for batch in (pairs(), cut(pairs())):
        context = Context(jax.random.key(0), jnp.int32(0))
        inputs = batch, counted_positions(batch, False), jnp.arange(ROWS), context
        jax.eval_shape(lambda params, inputs=inputs: method.loss(params, frozen, *inputs), params)
    assert seen == [WIDTH, 8]


@pytest.mark.parametrize("hides", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_nobody_sees_hidden_padding(name, hides):
    """Other tokens there change no loss."""
    keys = {} if hides else SEEN
    _, method, params, frozen, _ = build(name, **keys)

    @jax.jit
    def loss_of(batch):
        inputs = counted_positions(batch, False), jnp.arange(ROWS)
        return method.loss(
            params, frozen, batch, *inputs, Context(jax.random.key(0), jnp.int32(0))
        )[0]

    batch = pairs()
    # From left to right, the last one is read at the start of the target.
    hidden = batch.source_padding & ((np.arange(LENGTH) < WIDTH - 1) | (name in SEES_ALL))
    other = batch.replace(tokens=np.where(hidden, 7, batch.tokens))
    assert (loss_of(batch) == loss_of(other)) == hides
    # The last token of a source is seen.
    size = np.sum(batch.is_cond & batch.is_valid, axis=1, keepdims=True)
    last = np.where(np.arange(LENGTH) == size - 1, 7, batch.tokens)
    assert loss_of(batch) != loss_of(batch.replace(tokens=last))


@pytest.mark.parametrize(
    "name, hides, cfg_scale",
    [(name, hides, 1.0) for name in ("ar", "elf", *SEES_ALL) for hides in (True, False)]
    + [(name, True, 2.0) for name in SEES_ALL],
)
def test_no_sample_sees_hidden_padding(name, hides, cfg_scale):
    keys = {"sample.cfg_scale": cfg_scale} | ({} if hides else SEEN)
    if name == "ar":
        keys["sample.sampler"] = "greedy"
    config, method, params, frozen, _ = build(name, **keys)
    run = jax.jit(method.sampler(config.sample, LENGTH))

    def sample(given):
        inputs = jnp.arange(ROWS), given, jax.random.key(0), scales(method, config.sample)
        return np.asarray(run(params, frozen, *inputs))[:, WIDTH:]

    given = pairs()
    hidden = given.source_padding & (np.arange(LENGTH) < WIDTH - 1)
    other = given.replace(tokens=np.where(hidden, 7, given.tokens))
    assert (sample(given) == sample(other)).all() == hides


@pytest.mark.parametrize("name", ["mdlm", "cdcd"])
def test_guidance_hides_padding_in_the_pass_without_the_condition_too(name):
    """As in training. At the scale 0 this pass is all that counts."""
    _, method, params, _, _ = build(name)
    given = pairs()
    is_key, inputs = method.which_keys(given), given.tokens
    if name == "cdcd":
        width = method.law.embedding_width
        inputs = tuple(jax.random.normal(jax.random.key(0), (2, ROWS, LENGTH, width)))
    t, predictor = jnp.full(ROWS, 0.5), method.predictor

    def logits(predict):
        return jax.jit(lambda: predict(inputs, t)(lambda values: values))()

    without = logits(predictor.predict(params, None, given.is_cond, is_key=is_key))
    guided = logits(predictor.guided(params, given.is_cond, 0.0, is_key=is_key))
    np.testing.assert_allclose(guided, without, atol=1e-5 * np.max(np.abs(without)))
    seen = logits(predictor.predict(params, None, given.is_cond))
    assert np.max(np.abs(seen - without)) > 1e-3 * np.max(np.abs(without))


def steps_of(name, steps=2, batch=None, **keys):
    """The metrics of the first steps of a training in buckets."""
    config, method, _, frozen, mesh = build(name, **keys)
    schedule = make_schedule(config.optimizer, 16, 0, 10)
    optimizer = make_optimizer(config.optimizer, schedule, jnp.float32, mesh)
    state, shardings = trainer.new_state(config, method, optimizer, mesh)
    step = trainer.jit_train_step(config, method, optimizer, schedule, mesh, shardings)
    batch = batch or [cut(pairs(3 * ROWS, 1)), pairs(5 * ROWS, 2, WIDTH)]
    batch = [sharding.share_rows(one, mesh) for one in batch]
    found = []
    for _ in range(steps):
        state, metrics = step(state, frozen, batch, jax.random.key(1))
        found.append(jax.device_get(metrics))
    return found


@pytest.fixture(scope="module")
def alone():
    return steps_of("elf")


@pytest.mark.parametrize("keys", [{"mesh.data": 8}, {"train.accumulate": 2, "mesh.fsdp": 4}])
def test_devices_and_micro_batches_change_nothing(keys, alone):
    for one, two in zip(alone, steps_of("elf", **keys), strict=True):
        for name, value in one.items():
            np.testing.assert_allclose(two[name], value, rtol=1e-5, err_msg=name)


def test_every_position_of_a_batch_counts_once():
    """The loss is the mean over all buckets. A new head gives every token the same probability."""
    (metrics,) = steps_of("ar", steps=1)
    assert metrics["nll_bound"] == pytest.approx(np.log(V), rel=1e-5)


def test_every_bucket_has_random_numbers_of_its_own():
    once, twice = (steps_of("elf", 1, [pairs()] * count)[0] for count in (1, 2))
    # What does not depend on them is the same.
    assert twice["next_loss"] == pytest.approx(once["next_loss"], rel=1e-5)
    assert twice["denoise_loss"] != pytest.approx(once["denoise_loss"], rel=1e-3)


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"model.block_length": 0}, "an elf that writes whole rows sees all padding"),
        (
            {"method": "flm", "data.pad_source": False},
            "flm sees the padding after a text",
        ),
        ({"train.length_buckets": 9}, "at most 8"),
        ({"model.hide_padding": False}, "sees the padding of sources"),
    ],
)
def test_what_does_not_go_together(keys, words):
    of_method = METHODS[keys.get("method", "elf")]
    config = tiny_config(**{**PAIRS, **of_method, **keys})
    with pytest.raises(UserError, match=words):
        checks.check(config)


def test_a_batch_has_whole_parts(tmp_path):
    config = tiny_config(**{**PAIRS, **METHODS["elf"], "train.batch_size": 12})
    with pytest.raises(UserError, match="8 parts .*use a multiple of 8, such as 16"):
        trainer.build_training(config, tmp_path)


def test_a_training_goes_on_where_it_stopped(tmp_path, capsys):
    keys = {
        "data.source_field": "text",
        "data.field": "text",
        "data.length": 48,
        "data.source_length": 24,
        "train.duration.steps": 4,
        "train.checkpoint_every": 2,
        "optimizer.ema": 0.5,
    }
    config = tiny_config(**{**PAIRS, **METHODS["ar"], **keys})
    whole, _ = trainer.train(config, tmp_path / "whole")
    said = capsys.readouterr().out
    assert str(whole.buckets) in said and len(whole.buckets.each) > 1
    trainer.train(config, tmp_path / "parts", until=2)
    parts, _ = trainer.train(config, tmp_path / "parts")
    for one, two in zip(
        jax.tree.leaves(whole.run.state.params),
        jax.tree.leaves(parts.run.state.params),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)
