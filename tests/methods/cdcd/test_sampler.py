"""The sampler against whole runs of the published loop, and against a toy distribution."""

import jax
import jax.numpy as jnp
import pytest

from elf_jax.methods.cdcd import objective, sampler, warping
from elf_jax.methods.tokens.predictor import reading
from tests.methods.cdcd import golden
from tests.methods.stub import Group, agree


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("name", ["sampler4", "sampler9"])
def test_whole_runs(name, x64):
    with jax.enable_x64(x64):
        data, net, table = Group("cdcd", name), Group("cdcd", "net"), Group("cdcd", "sampler").E
        tolerance, seen = 1e-10 if x64 else 1e-5, []
        times = warping.time_of(golden.warp(), jnp.linspace(1.0, 0.0, len(data["t"])))

        def logits(inputs, t):
            x, estimate = inputs
            jax.debug.callback(lambda *values: seen.append(values), x, estimate, ordered=True)
            pair = objective.scaled(x, t), jnp.zeros_like(x)
            return golden.stub(net, pair, jnp.log(t))

        def mean(logits):
            return objective.mean_embedding(logits, table)

        start = golden.RANGE[1] * data.noise
        tokens = sampler.probability_flow(reading(logits), start, times, mean)
        jax.effects_barrier()
        calls = [[jnp.asarray(value) for value in call] for call in seen]
        assert agree(times, data.t, tolerance)
        assert agree(jnp.stack([x for x, _ in calls]), data.x_steps, tolerance)
        assert (tokens == data.tokens).all()

        def again(call):
            x, t = calls[call][0], jnp.full(len(start), times[call])
            return golden.stub(net, (objective.scaled(x, t), jnp.zeros_like(x)), jnp.log(t))

        assert agree(again(-1), data.final_logits, tolerance)
        # The golden network does not use the estimate, which is E[e] of the call before.
        assert (calls[0][1] == 0).all()
        for call in range(1, len(calls)):
            assert agree(calls[call][1], mean(again(call - 1)), tolerance)


def test_one_step_only_reads():
    x = jnp.ones((2, 3, 4))
    predict = reading(lambda inputs, t: inputs[0] * t[:, None, None])
    tokens = sampler.probability_flow(predict, x.at[..., 2].set(5.0), jnp.array([3.0]), lambda z: z)
    assert (tokens == 2).all() and tokens.dtype == jnp.int32
