"""MDLM's and LLaDA's losses against the numbers of the published implementations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.methods.mdlm import objective
from elf_jax.methods.tokens.draws import antithetic
from tests.methods.stub import Group, agree

MASK = 10  # the last of 11 columns


@pytest.mark.parametrize("name", ["time", "time8"])
def test_low_discrepancy_times(name):
    with jax.enable_x64(True):
        golden = Group("mdlm", name)
        rows = len(golden.u)
        t = objective.time_of(antithetic(golden.u, jnp.arange(rows), rows))
        assert agree(t, golden.t_antithetic, 1e-12)
        assert agree(objective.time_of(golden.u), golden.t_plain, 1e-12)


@pytest.mark.parametrize("name", ["loss", "loss_edge"])
@pytest.mark.parametrize("x64", [True, False])
def test_mdlm_loss(name, x64):
    with jax.enable_x64(x64):
        golden, tolerance = Group("mdlm", name), 1e-9 if x64 else 1e-5
        u = golden.u_t if "edge" in name else antithetic(golden.u_t, jnp.arange(3), 3)
        t = objective.time_of(u)
        assert agree(t, golden.t, tolerance)
        assert agree(objective.sigma(t), golden.sigma, tolerance)
        if x64:  # not in our code: the published weight, which is 1 / t
            assert agree(golden.dsigma / jnp.expm1(golden.sigma), 1 / t, 1e-6)
        chance = objective.mask_probability(t)[:, None]
        assert agree(chance, golden.move_chance, tolerance)
        z = jnp.where(golden.u_mask < chance, MASK, golden.x0)
        assert (z == golden.zt).all()
        log_p = objective.subs(golden.logits, z, MASK)
        assert agree(jnp.exp(log_p), jnp.exp(golden.log_p), tolerance)

        def loss(logits):
            weight = jnp.broadcast_to(1 / t[:, None], z.shape)
            per_token = objective.masked_loss(logits, golden.x0, z, weight, MASK)
            counted = golden.attention_mask
            return jnp.sum(per_token * counted) / jnp.sum(counted), per_token

        (value, per_token), grad = jax.value_and_grad(loss, has_aux=True)(golden.logits)
        assert agree(per_token, golden.loss_per_token, tolerance)
        assert agree(per_token * golden.attention_mask, golden.nlls, tolerance)
        assert agree(value, golden.loss, tolerance)
        assert agree(grad, golden.grad_logits, tolerance)


def test_a_head_without_the_mask_has_the_same_loss():
    golden = Group("mdlm", "loss")
    weight = jnp.broadcast_to(1 / golden.t[:, None], golden.x0.shape)
    losses = [
        objective.masked_loss(logits, golden.x0, golden.zt, weight, MASK)
        for logits in (golden.logits, golden.logits[..., :MASK])
    ]
    np.testing.assert_allclose(*losses, rtol=1e-6)


@pytest.mark.parametrize("name", ["pretrain", "pretrain_edge", "sft"])
def test_llada_loss(name):
    with jax.enable_x64(True):
        golden = Group("llada", name)
        p_mask = jnp.broadcast_to(objective.time_of(golden.u_t)[:, None], golden.x0.shape)
        assert agree(p_mask, golden.p_mask, 1e-9)
        is_noise = golden.u_mask < p_mask
        if name == "sft":  # the prompt is never masked
            is_noise &= jnp.arange(7) >= golden.prompt_lengths[:, None]
        z = jnp.where(is_noise, MASK, golden.x0)
        assert (z == golden.zt).all()

        def loss(logits):
            per_token = objective.masked_loss(logits, golden.x0, z, 1 / p_mask, MASK, False)
            if name == "sft":
                # The mean over the answer of each row, then over rows. Ours is over all positions.
                lengths = golden.answer_lengths[:, None]
                return jnp.sum(per_token / lengths) / len(per_token), per_token
            return jnp.mean(per_token), per_token

        (value, per_token), grad = jax.value_and_grad(loss, has_aux=True)(golden.logits)
        assert agree(per_token, golden.token_loss, 1e-9) and agree(value, golden.loss, 1e-9)
        assert agree(grad, golden.grad_logits, 1e-9)
