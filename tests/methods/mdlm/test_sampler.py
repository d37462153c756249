"""MDLM's and LLaDA's samplers against whole runs of the published implementations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.methods.mdlm import objective, sampler
from elf_jax.methods.tokens.predictor import reading
from tests.methods.stub import Group, agree, published_draw, stub, stub_logits

MASK = 10  # the last of 11 columns
EPS = objective.EPS


def update(p, z, t, s, rule):
    """q of the published rule at masked positions: `cache` is t times ours, `ddpm` (1 - eps) t."""
    q = sampler.update_probabilities(p, z, t, s, MASK)
    return q * {"v2": 1.0, "cache": t, "ddpm": t * (1 - EPS)}[rule]


@pytest.mark.parametrize("rule", ["ddpm", "cache", "v2"])
def test_one_update(rule):
    with jax.enable_x64(True):
        golden = Group("mdlm", rule)
        z, t = golden.x, golden.t[..., None]
        p = jnp.exp(objective.subs(golden.logits, z, MASK))
        if rule == "cache":
            assert agree(p, golden.p_x0, 1e-9)
        q = update(p, z, t, t - golden.dt, rule)
        masked = np.asarray(z == MASK)
        assert agree(q[masked], golden.q_xs[masked], 1e-9)
        drawn = published_draw(q, golden.u)
        if rule != "v2":
            assert (drawn == golden.sampled_before_copy)[masked].all()
        assert (jnp.where(z == MASK, drawn, z) == golden.x_next).all()


RUNS = {
    "run_ddpm": ("ddpm", "argmax", False),
    "run_ddpm_tc": ("ddpm", "argmax", True),
    "run_cache": ("cache", "argmax", False),
    "run_cache16": ("cache", "argmax", False),
    "v2_run_ancestral": ("v2", "ancestral", False),
    "v2_run_greedy": ("v2", "argmax", False),
}


@pytest.mark.parametrize("name", RUNS)
def test_whole_runs(name):
    rule, end, uses_time = RUNS[name]
    with jax.enable_x64(True):
        golden, net = Group("mdlm", name), Group("mdlm", "net")
        steps, calls = int(golden.num_steps), []

        def logits(z, t):
            tau = objective.sigma(t) if uses_time else jnp.zeros_like(t)
            jax.debug.callback(lambda tau: calls.append(np.asarray(tau)), tau)
            return stub_logits(net, z, tau)

        def probabilities(read, z):
            return read(lambda logits, z: jnp.exp(objective.subs(logits, z, MASK)), z)

        def unmask(step, read, z, t, s):
            q = update(probabilities(read, z), z, t, s, rule)
            return jnp.where(z == MASK, published_draw(q, golden.u[step]), z)

        def last(read, z, t):
            if end == "ancestral":
                return unmask(steps, read, z, t, 0.0)
            tokens = jnp.argmax(probabilities(read, z), axis=-1)
            return jnp.where(z == MASK, tokens, z).astype(jnp.int32)

        z = jnp.full(golden.tokens.shape, MASK, jnp.int32)
        tokens = sampler.ancestral(reading(logits), z, steps, unmask, last, MASK, uses_time)
        jax.effects_barrier()
        assert (tokens == golden.tokens).all()
        assert agree(sampler.times(steps), golden.timesteps, 1e-12)
        if uses_time:  # the first call only gives the loop's carry its shape
            assert agree(jnp.stack(calls[-steps - 1 :]), golden.sigma_to_network, 1e-9)
        elif "cache" in name:
            # The published code does not keep the prediction for the last step.
            assert len(calls) <= int(golden.network_calls)
            kept = int(np.sum(golden["cache_used"]))
            assert len(calls) in (steps + 1 - kept, steps - kept)


@pytest.mark.parametrize("steps", [2, 4])
def test_transfer_counts(steps):
    golden = Group("llada", "transfer")
    masks = jnp.sum(golden.mask, axis=1)
    counts = [sampler.transfer_count(masks, steps, step) for step in range(steps)]
    assert (jnp.stack(counts, axis=1) == golden[f"steps{steps}"]).all()


GENERATIONS = (
    "gen_full",
    "gen_semi",
    "gen_semi_uneven",
    "gen_cfg",
    "gen_temp",
    "gen_temp1_semi",
    "gen_random",
)


@pytest.mark.parametrize("name", GENERATIONS)
def test_llada_generates(name):
    with jax.enable_x64(True):
        golden, net, gen = (Group("llada", key) for key in (name, "net", "gen"))
        prompt, length = gen.prompt, int(gen.gen_length)
        masks = jnp.full((len(prompt), length), MASK, jnp.int32)
        z = jnp.concatenate([prompt.astype(jnp.int32), masks], axis=1)
        is_prompt = jnp.arange(z.shape[1]) < prompt.shape[1]
        temperature, cfg = float(golden.temperature), float(golden.cfg_scale)
        is_random = bool(golden["remasking_random"])
        seen = []

        def logits(z, t=None):
            jax.debug.callback(lambda z: seen.append(np.asarray(z)), z)
            cond = stub_logits(net, z)
            if not cfg:
                return cond
            uncond = stub_logits(net, jnp.where(is_prompt, MASK, z))
            return uncond + (cfg + 1) * (cond - uncond)

        def candidates(step, read):
            def choose(logits):
                if temperature:
                    noise = (-jnp.log(golden.u[step])) ** temperature
                    tokens = jnp.argmax(jnp.exp(logits) / noise, axis=-1)
                else:
                    tokens = jnp.argmax(logits, axis=-1)
                p = jax.nn.softmax(logits)
                sure = jnp.take_along_axis(p, tokens[..., None], axis=-1)[..., 0]
                return tokens.astype(jnp.int32), sure

            tokens, sure = read(choose)
            return tokens, golden.u[step] if is_random else sure

        tokens = sampler.by_confidence(
            reading(logits), z, int(golden.steps), int(golden.block_length), candidates, MASK
        )
        jax.effects_barrier()
        assert (tokens == golden.tokens).all()
        steps = np.stack([*seen, tokens])
        assert (steps == golden.x_steps).all()


def test_the_stub_predicts():
    net = Group("mdlm", "net")
    z = jnp.zeros((2, 7), jnp.int32)
    values = stub(net)(z)(lambda logits: logits)
    assert values.shape == (2, 7, 11)
