"""The target and the loss of the distillation against the numbers of the published implementation,
and against a known distribution.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core import defaults
from elf_jax.core.types import Batch, counted_positions
from elf_jax.methods.distilled import objective
from elf_jax.methods.elf import flow
from elf_jax.methods.elf.objective import Dealt, Draws
from elf_jax.methods.elf.roles import Split
from tests.methods.stub import GOLDEN, Group, agree

S = 2.0  # noise scale


def shared():
    with np.load(GOLDEN / "pd.npz") as arrays:
        return {name: jnp.asarray(arrays[name], float) for name in arrays if name.count("/") == 0}


def teacher(w=None):
    """The stub teacher, a function of z, x_prev, t, w."""
    net = Group("pd", "teacher")

    def predict(z, x_prev, t, w):
        inputs = z @ net.A + x_prev @ net.B + t[:, None, None] * net.c
        return jnp.tanh(inputs if w is None else inputs + w[:, None, None] * net.d)

    return predict


def even(start, end, steps):
    return start[:, None] + (end - start)[:, None] * jnp.linspace(0, 1, steps + 1)


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("given", ["uncond", "cond"])
@pytest.mark.parametrize("case", ["mid", "late", "whole"])
def test_published_targets(case, given, x64):
    with jax.enable_x64(x64):
        times, golden, tolerance = Group("pd", case), shared(), 1e-9 if x64 else 1e-5
        found = Group("pd", f"{case}/{given}")
        x0, w = golden["x0"], golden["w"]
        mask = (golden["cond_mask"] > 0) & (given == "cond")
        is_given = mask[..., None]
        clean = jnp.where(is_given, x0, 0.0)
        z = flow.interpolate(x0, golden["noise"], times.t_s, S)
        z = jnp.where(is_given, x0, z)
        assert agree(z, found.z_t_s, tolerance)
        x_u = teacher()(z, clean, times.t_s, w)
        assert agree(x_u, found.uncond_x_pred, tolerance)
        draws = Draws(None, golden["use_sc"] > 0, None, times.t_s, w, None, None)
        x_prev = objective.self_condition(teacher(), z, clean, draws, Split(3, 3, 3, 0, 0.0, 0.5))
        x_prev = jnp.where(is_given, clean, x_prev)
        assert agree(x_prev, found.sc_half, tolerance)

        def target(times, w=w):
            return objective.progressive(
                lambda z, t, x_prev: teacher()(z, x_prev, t, w),
                None,
                z,
                x_prev,
                times,
                lambda latents: jnp.where(is_given, x0, latents),
                0.05,
            )

        assert agree(target(even(times.t_s, times.t_t, 1)), found.steps1, tolerance)
        assert agree(target(even(times.t_s, times.t_t, 4)), found.steps4, tolerance)
        assert agree(target(times.sub_step_times), found.steps4_given, tolerance)
        assert agree(target(even(times.t_s, times.t_t, 4), None), found.steps4_no_w, tolerance)


class Stub:
    """The published stub student: x_pred = tanh(input W + t + w / 4), logits = input U. The hidden
    states are the input, t and w. The teacher's parameters are None.
    """

    def denoise(self, params, z, x_prev, t, w):
        assert params is None
        return teacher()(z, x_prev, t, w)

    def hidden(self, params, z, x_prev, t, w, is_decode, dropout_key, ids):
        assert dropout_key is None and len(ids) == len(z)
        x_prev = jnp.where(is_decode[:, None, None], 0.0, x_prev)
        scalars = [jnp.broadcast_to(a[:, None, None], (*z.shape[:2], 1)) for a in (t, w)]
        return jnp.concatenate([z, x_prev, *scalars], axis=-1)

    def x_head(self, params, hidden):
        return jnp.tanh(hidden[..., :12] @ params["W"] + hidden[..., 12:13] + hidden[..., 13:] / 4)


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("name", ["step", "step_pad"])
def test_published_step_with_its_gradients(name, x64):
    with jax.enable_x64(x64):
        golden, tolerance = Group("pd", name), 1e-9 if x64 else 1e-5
        with np.load(GOLDEN / "pd.npz") as arrays:
            h, n, q, p, mean, std, s, low, high, _, lambda_mean, s_d, t_eps = arrays["step_config"]
            lambda_std = arrays["step_config"][9]
        law = defaults.get_config().objective
        law.noise_scale, law.decode_noise_scale, law.t_eps = float(s), float(s_d), float(t_eps)
        is_decode = golden.decoder_mask > 0
        t = flow.logit_normal(golden.n_time, mean, std)
        start = objective.start_times("logit_normal", t, None, 1 / h)
        inner = flow.logit_normal(golden.n_substeps.reshape(6, -1), mean, std)
        times = objective.span_times(start, h, inner)
        denoises = np.asarray(~is_decode)
        assert inner.shape[1] == n - 1
        assert agree(times[denoises], golden.sub_step_times[denoises], tolerance)
        assert agree(times[denoises, 0], golden.t_s[denoises], tolerance)
        assert agree(times[denoises, -1], golden.t_t[denoises], tolerance)
        w = flow.guidance_law(golden.u_cfg, low, high)
        assert agree(w, golden.w, tolerance)
        lambdas = golden.n_decoder_lambda.reshape(6, 5)
        draws = Draws(
            is_decode=is_decode,
            self_cond=~is_decode & (golden.sc_coin > 0),  # the result of the coin
            weight=None,
            t=start,
            w=w,
            noise=jnp.where(is_decode[:, None, None], golden.n_decoder_noise, golden.n_noise),
            decode_lambda=flow.logit_normal(lambdas, lambda_mean, lambda_std),
        )
        is_cond, is_valid = golden.cond_mask > 0, golden.attention_mask > 0
        batch = Batch(golden.input_ids, is_cond, is_valid)
        counted = counted_positions(batch, bool(golden.pad_counts))
        dealt = Dealt(
            batch, counted, jnp.arange(6), None, golden.x0, draws, Split(6, 6, 6, 6, q, p)
        )

        def loss(params):
            hidden, error = objective.errors(Stub(), params, None, dealt, times, law, "x")
            logits = hidden[..., :12] @ params["U"]
            chosen = jnp.take_along_axis(logits, golden.input_ids[..., None], axis=-1)[..., 0]
            cross_entropy = jax.nn.logsumexp(logits, axis=-1) - chosen
            per_token = jnp.where(is_decode[:, None], cross_entropy, error)
            # Published: the mean over the tokens of an example, then the mean over the examples.
            each = jnp.sum(per_token * counted, axis=1) / jnp.sum(counted, axis=1)
            parts = [jnp.sum(each * some) / jnp.sum(some) for some in (is_decode, ~is_decode)]
            return jnp.mean(each), (hidden[..., :12], *parts)

        params = {"W": golden.student_W, "U": golden.student_U}
        (value, (student_input, ce, l2)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        published = golden.student_input
        assert agree(student_input[denoises], published[denoises], tolerance)
        # In decode rows the published code keeps the clean latents of conditions in x_prev. In the
        # training of ELF and in the last step of sampling x_prev is zero there, and so it is here.
        kept = jnp.where(is_cond[..., None], golden.x0, 0.0)
        decodes = np.asarray(is_decode)
        assert agree(student_input[decodes, :, :6], published[decodes, :, :6], tolerance)
        assert not np.any(student_input[decodes, :, 6:])
        assert agree(kept[decodes], published[decodes, :, 6:], tolerance)
        for ours, theirs in ((value, golden.loss), (ce, golden.ce_loss), (l2, golden.l2_loss)):
            assert agree(ours, theirs, tolerance)
        assert agree(grads["W"], golden.grad_W, tolerance)
        assert agree(grads["U"], golden.grad_U, tolerance)
