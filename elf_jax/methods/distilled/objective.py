"""Distillation of ELF: the target that a teacher gives, and the loss of the student.

The student learns to go in one step over a span h of time, which the teacher goes in K Euler steps:

    (1)  s = (1 - h) u,  r = s + h                     u has the law of the times of training
    (2)  s = t_0 < t_1 < ... < t_K = r                 the inner times: sorted draws of that law,
                                                       scaled into [s, r]
    (3)  z_{k+1} = z_k + (t_{k+1} - t_k) v(x_k, z_k)   x_k: the teacher's x-prediction at z_k, t_k,
                                                       which is x_prev of the next step
    (4)  x~ = z_s + (1 - s) / (r - s) (z_K - z_s)      the target: with this x-prediction one Euler
                                                       step of the student ends at z_K
    (5)  x~ = x_0                                      if K = 1

That is progressive distillation. With the objective "consistency" the student learns to go to the
end of the path from everywhere. It is its own teacher for the rest of the path, with its averaged
parameters:

    (6)  x~ = x(z_K, r), with x_prev = x_{K-1}         x: the x-prediction of the averaged student
    (7)  x~ = x_{K-1}                                  if r = 1

Half of the rows that denoise have the teacher's x-prediction at (z_s, s) as the self-condition of
teacher and student; the others have none. Both get the same guidance scale w. The loss is the mean
square of x_hat - x~, or of the velocities that belong to them. Beside it stands ELF's cross-entropy
of decode rows, mixed as in `elf.objective`: only rows that denoise go through the teacher.

Equation (3) divides by max(1 - t, t_eps), and (4) does not: near t = 1 the teacher's steps fall
short, and the student learns to fall short as well.

Source: the second release of ELF, arXiv 2605.10938; for (6) and (7), Consistency Models, arXiv
2303.01469, section 3, here with K steps of the teacher and a squared error.
"""

import jax
import jax.numpy as jnp

from elf_jax.methods.elf import flow
from elf_jax.methods.elf.objective import noisy
from elf_jax.methods.elf.roles import spread, take

LOSSES = ("x", "velocity")
TIMES = ("logit_normal", "grid")
SHORTEST = 1e-3  # a shorter span has the teacher's last x-prediction as its target


def span_times(start, span, inner):
    """Equation (2): the times of the teacher's steps, [B, K + 1].

    Args:
      start: s, [B]. span: h, a number, or [B]. inner: [B, K - 1], values in [0, 1] in any order.
    """
    span = jnp.broadcast_to(jnp.asarray(span, start.dtype), start.shape)[:, None]
    start = start[:, None]
    return jnp.concatenate([start, start + span * jnp.sort(inner, axis=1), start + span], axis=1)


def start_times(law, t, uniform, steps):
    """Equation (1): s, [B], for a student with so many steps from 0 to 1.

    Args:
      law: "logit_normal": (1 - h) t; "grid": a whole number of steps.
      t: [B], draws of the law of the times of training. uniform: [B], on [0, 1).
    """
    if law == "grid":
        return jnp.floor(uniform * steps) / steps
    return (1 - 1 / steps) * t


def progressive(predict, average, z, x_prev, times, restore, t_eps):
    """Equations (3) to (5): x~, [B, L, C], without gradient.

    Args:
      predict: the teacher, a function of z [B, L, C], t [B], x_prev [B, L, C] to x [B, L, C].
      average: the same of the averaged student, which is not used here.
      z: z_s, with clean latents at given positions. x_prev: the self-condition at s.
      times: [B, K + 1], from s to r.
      restore: function of latents that sets given positions to their clean latents.
      t_eps: see `flow.velocity`.
    """
    del average
    if times.shape[1] == 2:
        return jax.lax.stop_gradient(predict(z, times[:, 0], x_prev))
    end, last = _path(predict, z, x_prev, times, restore, t_eps)
    s, length = times[:, 0], times[:, -1] - times[:, 0]
    ratio = flow.expand((1 - s) / jnp.maximum(length, 1e-6), z)
    found = jnp.where(flow.expand(length < SHORTEST, z), last, z + ratio * (end - z))
    return jax.lax.stop_gradient(found)


def consistency(predict, average, z, x_prev, times, restore, t_eps):
    """Equations (3), (6) and (7): x~, [B, L, C], without gradient. See `progressive`."""
    end, last = _path(predict, z, x_prev, times, restore, t_eps)
    r = times[:, -1]
    found = jnp.where(
        flow.expand(1 - r < SHORTEST, z), last, average(end, jnp.minimum(r, 1), restore(last))
    )
    return jax.lax.stop_gradient(found)


def _path(predict, z, x_prev, times, restore, t_eps):
    """Equation (3): z_K and x_{K-1}, [B, L, C] each."""

    def step(carry, span):
        z_k, x = carry
        t, t_next = span
        x = predict(z_k, t, restore(x))
        z_k = z_k + flow.expand(t_next - t, z_k) * flow.velocity(x, z_k, t, t_eps)
        return (restore(z_k), x), None

    return jax.lax.scan(step, (z, x_prev), (times[:, :-1].T, times[:, 1:].T))[0]


# config.distill.objective -> the target of the student
TARGETS = {"progressive": progressive, "consistency": consistency}


def squared_error(x_hat, x, t, kind, t_eps):
    """[B, L], the mean over channels of the squared error of x-predictions (`kind` "x"), or of the
    velocities that belong to them at time t [B] ("velocity").
    """
    error = jnp.mean((x_hat - x) ** 2, axis=-1)
    if kind == "velocity":
        error = error / jnp.maximum(1 - t, t_eps)[:, None] ** 2
    return error


def self_condition(predict, z, clean, draws, split):
    """[B, L, C], the teacher's x-prediction at (z_s, s) in the self-conditioned rows, zero in the
    others. Given positions have no special values.

    Args:
      predict: the teacher, a function of rows of z, x_prev, t and w. z: z_s.
      clean: [B, L, C], the clean latents at given positions, zero elsewhere.
      draws: the batch's `Draws`; t is s. split: the `Split` of a group.
    """
    rows = 0, split.self_cond
    x = predict(*(take(a, split, *rows) for a in (z, clean, draws.t, draws.w)))
    return jnp.where(draws.self_cond[:, None, None], spread(x, split, *rows, len(z)), 0.0)


def errors(
    predictor,
    params,
    teacher,
    dealt,
    times,
    law,
    kind,
    dropout_key=None,
    target=progressive,
    ema=None,
):
    """(hidden states [B, L, D] of the student, its squared error [B, L]) of a batch in the dealt
    order. The error is that of the rows that denoise.

    Args:
      predictor: a `Predictor`. params: the student's parameters. teacher: the teacher's.
      dealt: a `Dealt`; its draws have s as their t.
      times: [B, K + 1], see `span_times`; those of decode rows are not used.
      law: config section `objective`. kind: see `squared_error`.
      dropout_key: of the student, see `Predictor.hidden`.
      target: a function of TARGETS. ema: the student's averaged parameters; None: `params`.
    """
    batch, draws, split = dealt.batch, dealt.draws, dealt.split
    is_given = batch.is_cond[..., None]
    z, clean = noisy(dealt.x, batch.is_cond, draws, law), jnp.where(is_given, dealt.x, 0.0)

    def teach(z, x_prev, t, w):
        return predictor.denoise(teacher, z, x_prev, t, w)

    x_prev = self_condition(teach, z, clean, draws, split)
    x_prev = jax.lax.stop_gradient(jnp.where(is_given, clean, x_prev))

    rows = 0, split.denoise
    some = (take(a, split, *rows) for a in (z, x_prev, times, draws.w, is_given, clean))
    z_s, x_s, times, w, is_given, clean = some
    average = params if ema is None else ema
    x = target(
        lambda z, t, x_prev: teach(z, x_prev, t, w),
        lambda z, t, x_prev: predictor.denoise(average, z, x_prev, t, w),
        z_s,
        x_s,
        times,
        lambda latents: jnp.where(is_given, clean, latents),
        law.t_eps,
    )
    inputs = z, x_prev, draws.t, draws.w, draws.is_decode
    hidden = predictor.hidden(params, *inputs, dropout_key, dealt.ids)
    x_hat = predictor.x_head(params, take(hidden, split, *rows))
    error = squared_error(x_hat, x, times[:, 0], kind, law.t_eps)
    return hidden, spread(error, split, *rows, len(z))
