"""The distillation as a method: its target on a known distribution, its draws, which rows go
through the teacher, and equal results on one device and on eight.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core import checks, sharding
from elf_jax.core.errors import UserError
from elf_jax.core.types import Batch, counted_positions
from elf_jax.methods.distilled import objective
from elf_jax.methods.distilled.method import distilled, plan
from elf_jax.methods.elf import flow
from elf_jax.methods.method import Context
from elf_jax.methods.registry import build_method
from tests.methods.elf import test_toy as toy
from tests.methods.test_every_method import V, mesh_of, random_params
from tests.tiny import tiny_config

LENGTH = 8


def scattered(rows):
    """A `Batch` in which any positions are given."""
    draw = np.random.default_rng(1)
    tokens = draw.integers(0, V, (rows, LENGTH)).astype(np.int32)
    is_valid = np.arange(LENGTH) < draw.integers(4, LENGTH + 1, (rows, 1))
    return Batch(tokens, (draw.random((rows, LENGTH)) < 0.3) & is_valid, is_valid)


def build(devices=1, steps=4, substeps=4, **keys):
    mesh = mesh_of(devices)
    config = tiny_config(**{"objective.condition_dropout": 0.5, **keys})
    method, frozen = build_method(config, V, mesh)
    made = distilled(method, config.distill, steps, substeps)
    return made, {**frozen, "teacher": random_teacher(made, mesh)}, mesh


def random_teacher(method, mesh):
    params = jax.tree.map(lambda leaf: leaf + 0.1, random_params(method, LENGTH))
    return jax.device_put(params, sharding.of_tree(params, mesh))


def loss_and_gradient(method, frozen, mesh, rows=16, context=None):
    batch = sharding.share_rows(scattered(rows), mesh)
    params = random_params(method, LENGTH)
    context = context or Context(jax.random.key(3), jnp.zeros((), jnp.int32), is_training=True)

    def loss(params):
        counted = counted_positions(batch, True)
        return method.loss(params, frozen, batch, counted, jnp.arange(rows), context)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


@pytest.mark.parametrize("kind", ["x", "velocity"])
def test_eight_devices_equal_one(kind):
    """The loss, all its parts and the gradient, with given positions anywhere."""

    def found(devices):
        return jax.tree.leaves(loss_and_gradient(*build(devices, **{"distill.loss": kind})))

    for a, b in zip(found(1), found(8), strict=True):
        scale = float(np.max(np.abs(a))) + 1e-6
        np.testing.assert_allclose(np.asarray(b) / scale, np.asarray(a) / scale, atol=2e-4)


def test_a_perfect_teacher_of_a_known_distribution():
    """One Euler step of the student to the target ends where K Euler steps of the sampler with the
    exact x-prediction end, from any z.
    """
    z = jax.random.normal(jax.random.key(0), (64, toy.TOY.length, 2))
    start = jax.random.uniform(jax.random.key(1), (64,), maxval=0.75)
    times = objective.span_times(start, 0.25, jax.random.uniform(jax.random.key(2), (64, 7)))
    inputs = z, jnp.zeros_like(z), times, lambda latents: latents, 1e-6
    x = objective.progressive(toy.exact, None, *inputs)
    ours = z + 0.25 * flow.velocity(x, z, start, 1e-6)
    theirs = np.asarray(z)
    for k in range(8):
        t, t_next = times[:, k], times[:, k + 1]
        v = flow.velocity(toy.exact(jnp.asarray(theirs), t, None), theirs, t, 1e-6)
        theirs = theirs + np.asarray(flow.expand(t_next - t, z) * v)
    assert np.all(np.diff(times, axis=1) >= 0)
    np.testing.assert_allclose(times[:, [0, -1]], np.stack([start, start + 0.25], 1), rtol=1e-6)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    # It is another point than that of one step of the teacher.
    once = z + 0.25 * flow.velocity(toy.exact(z, start, None), z, start, 1e-6)
    assert float(jnp.max(jnp.abs(once - theirs))) > 0.05


def test_the_target_of_consistency_is_the_end_of_the_path():
    """With a student that goes to the end by the teacher's steps, the target at s is the end of the
    teacher's path from s. Where the span ends at t = 1, it is the teacher's last x-prediction.
    """
    z = jax.random.normal(jax.random.key(0), (64, toy.TOY.length, 2))
    start = jnp.where(jnp.arange(64) < 32, 0.25, 0.75)
    inner = jnp.tile(jnp.arange(1, 4) / 4, (64, 1))
    times = objective.span_times(start, 0.25, inner)

    def euler(z, t, t_next):
        x = toy.exact(z, t, None)
        return z + flow.expand(t_next - t, z) * flow.velocity(x, z, t, 1e-6), x

    def to_the_end(z, t, x_prev):
        for k in range(8):  # from t = 1/2, in steps as long as the teacher's
            z, x = euler(z, t + k / 16, t + (k + 1) / 16)
        return x

    x = objective.consistency(
        toy.exact, to_the_end, z, jnp.zeros_like(z), times, lambda latents: latents, 1e-6
    )
    t, steps = start, 0
    while steps < 12:  # 4 + 8 steps from t = 1/4; those from 3/4 are at the end after 4
        after, last = euler(z, t, jnp.minimum(t + 1 / 16, 1))
        is_on = t < 1 - 1e-6
        z = jnp.where(flow.expand(is_on, z), after, z)
        end = last if steps == 0 else jnp.where(flow.expand(is_on, z), last, end)
        t, steps = jnp.minimum(t + 1 / 16, 1), steps + 1
    np.testing.assert_allclose(x, end, atol=2e-5)


def test_consistency_learns_from_the_averaged_student():
    method, frozen, mesh = build(steps=4, substeps=2, **{"distill.objective": "consistency"})
    context = Context(jax.random.key(3), jnp.zeros((), jnp.int32), is_training=True)
    losses = [
        float(loss_and_gradient(method, frozen, mesh, context=context.replace(ema=ema))[0][0])
        for ema in (None, random_params(method, LENGTH), frozen["teacher"])
    ]
    assert losses[0] == losses[1] != losses[2]


def test_a_student_that_is_the_teacher_has_no_loss_with_one_substep():
    """With K = 1 the target is the teacher's x-prediction, with its self-condition."""
    method, frozen, mesh = build(steps=64, substeps=1)
    frozen["teacher"] = random_params(method, LENGTH)
    (_, same), _ = loss_and_gradient(method, frozen, mesh)
    frozen["teacher"] = random_teacher(method, mesh)
    (_, other), _ = loss_and_gradient(method, frozen, mesh)
    assert float(same["denoise"]) < 1e-9 < float(other["denoise"])
    assert float(same["decode"]) == float(other["decode"]) > 0


def test_the_teacher_gets_no_gradient_and_is_not_changed():
    method, frozen, mesh = build()
    batch = sharding.share_rows(scattered(16), mesh)
    context = Context(jax.random.key(3), jnp.zeros((), jnp.int32), is_training=True)

    def loss(teacher):
        counted, ids = counted_positions(batch, True), jnp.arange(16)
        params = random_params(method, LENGTH)
        return method.loss(params, {**frozen, "teacher": teacher}, batch, counted, ids, context)[0]

    grads = jax.jit(jax.grad(loss))(frozen["teacher"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))


class Counting:
    """A predictor that notes how many rows its calls have."""

    def __init__(self, predictor):
        self.predictor, self.rows = predictor, []

    def __getattr__(self, name):
        return getattr(self.predictor, name)

    def denoise(self, params, z, *others):
        self.rows.append(len(z))
        return self.predictor.denoise(params, z, *others)


def test_only_rows_that_denoise_go_through_the_teacher():
    method, frozen, mesh = build()
    counting = Counting(method.predictor)
    counted = dataclasses.replace(method, predictor=counting)
    loss_and_gradient(counted, frozen, mesh, rows=20)
    # 4 of 20 rows decode, and half of the others are self-conditioned. The scan traces its body
    # once for its sub-steps (and once more for its type).
    assert counting.rows[0] == 8 and set(counting.rows[1:]) == {16}


@pytest.mark.parametrize("law", ["logit_normal", "grid"])
def test_the_times_of_the_student(law):
    method, frozen, _ = build(steps=4, substeps=16, **{"distill.times": law})
    batch, ids = jax.tree.map(jnp.asarray, scattered(512)), jnp.arange(512)
    context = Context(jax.random.key(0), jnp.zeros((), jnp.int32), is_training=True)
    dealt, times = method._drawn(
        method.dealt(frozen, batch, counted_positions(batch, True), ids, context)
    )
    start = np.asarray(times[:, 0])
    np.testing.assert_array_equal(start, dealt.draws.t)
    assert times.shape == (512, 17) and np.all(np.diff(times, axis=1) >= 0)
    np.testing.assert_allclose(times[:, -1], start + 0.25, rtol=1e-6)
    if law == "grid":
        assert set(start) == {0.0, 0.25, 0.5, 0.75}
        assert np.bincount((4 * start).astype(int)).min() > 90
    else:
        assert np.median(start) == pytest.approx(0.75 / (1 + np.exp(1.5)), rel=0.1)
        middle = np.median((np.asarray(times[:, 8]) - start) / 0.25)
        assert middle == pytest.approx(1 / (1 + np.exp(1.5)), rel=0.1)


def test_the_velocity_loss_weights_late_times():
    x_hat, x = jnp.ones((2, 3, 4)), jnp.zeros((2, 3, 4))
    t = jnp.asarray([0.5, 0.99])
    np.testing.assert_allclose(objective.squared_error(x_hat, x, t, "x", 0.05), 1.0)
    found = objective.squared_error(x_hat, x, t, "velocity", 0.05)
    np.testing.assert_allclose(found, np.array([[4.0], [400.0]]) * np.ones((2, 3)), rtol=1e-5)
    z = jax.random.normal(jax.random.key(0), x.shape)
    v_hat, v = (flow.velocity(one, z, t, 0.05) for one in (x_hat, x))
    np.testing.assert_allclose(found, jnp.mean((v_hat - v) ** 2, axis=-1), rtol=1e-4)


def test_the_rounds():
    settings = tiny_config().distill
    assert plan(settings) == [(8, 8)]
    settings.steps = (16, 8, 4, 2, 1)  # as published
    assert plan(settings) == [(16, 4), (8, 8), (4, 16), (2, 32), (1, 64)]
    settings.teacher = "previous"
    assert plan(settings) == [(16, 4), (8, 2), (4, 2), (2, 2), (1, 2)]


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"steps": ()}, "config.distill.steps is empty: name falling numbers"),
        ({"steps": (4, 8)}, "config.distill.steps is 4,8: name falling numbers"),
        ({"steps": (4, 0)}, "config.distill.steps is 4,0: name falling numbers"),
        ({"steps": (12,)}, "substeps is 64, which does not divide into 12 steps"),
        ({"steps": (16, 6), "teacher": "previous"}, "steps has 6 after 16, which is no multiple"),
        ({"steps": (24,), "teacher": "previous"}, "substeps is 64, which does not divide into 24"),
        ({"duration.epochs": 0.0}, "config.distill.duration is 0"),
        ({"duration.steps": 3}, "config.distill.duration has epochs=2.0, steps=3"),
    ],
)
def test_settings_that_do_not_go_together(keys, message):
    with pytest.raises(UserError, match=message):
        checks.check(tiny_config(**{f"distill.{name}": value for name, value in keys.items()}))


def test_another_method_is_refused():
    config = tiny_config(**{"method": "mdlm", "sample.sampler": "ancestral"})
    method, _ = build_method(config, V, mesh_of(1))
    with pytest.raises(UserError, match="method is mdlm, and only elf can be distilled"):
        distilled(method, config.distill, 4, 4)


def test_metrics_and_curves_name_the_distillation():
    method, frozen, mesh = build(**{"distill.loss": "velocity"})
    (loss, sums), _ = loss_and_gradient(method, frozen, mesh)
    metrics = method.metrics(loss / 50, sums, 50.0)
    assert set(method.curves) == set(method.shown) == set(metrics) - {"loss"}
    total = 0.8 * metrics["distill_loss"] + 0.2 * metrics["decode_loss"]
    assert float(total) == pytest.approx(float(metrics["loss"]), rel=1e-5)
    assert "velocities" in method.curves["distill_loss"]
    assert method.loss_settings()["substeps"] == 4
