"""Duo's samplers against whole runs of the published implementation, and draws in stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from elf_jax.methods.duo import sampler
from elf_jax.methods.mdlm.objective import mask_probability, sigma
from elf_jax.methods.tokens.draws import nucleus
from elf_jax.methods.tokens.predictor import reading
from tests.methods.stub import Group, agree, published_draw, stub_logits


def test_posterior():
    for x64, tolerance in ((True, 1e-9), (False, 1e-5)):
        with jax.enable_x64(x64):
            golden = Group("duo", "posterior")
            p, z = jax.nn.softmax(golden.logits), golden.zt
            noise_t, noise_s = 1 - golden.alpha_t, 1 - golden.alpha_s
            assert agree(sampler.posterior(p, z, noise_t, noise_s), golden.q_model, tolerance)
            last = sampler.posterior(p, z, noise_t, jnp.zeros_like(noise_s))
            assert agree(last, golden.q_model_final, tolerance)
            true = jax.nn.one_hot(golden.x0, 11, dtype=p.dtype)
            assert agree(sampler.posterior(true, z, noise_t, noise_s), golden.q_true, tolerance)


def test_one_ancestral_update():
    with jax.enable_x64(True):
        golden = Group("duo", "ancestral")
        noise_t, noise_s = (mask_probability(t) for t in (golden.t, golden.t - golden.dt))
        assert agree(sigma(golden.t[:, 0]), golden.sigma_to_network, 1e-9)
        q = sampler.posterior(jax.nn.softmax(golden.logits), golden.x, noise_t, noise_s)
        assert agree(q, golden.q_xs, 1e-9)
        assert (published_draw(q, golden.u) == golden.x_next).all()


def test_nucleus():
    with jax.enable_x64(True):
        golden = Group("duo", "nucleus")
        noise_t, noise_s = (mask_probability(t) for t in (golden.t, golden.t - golden.dt))
        p = jax.nn.softmax(nucleus(golden.logits, golden.top_p))
        assert agree(p, golden.p_x0, 1e-9)
        assert agree(sampler.posterior(p, golden.x, noise_t, noise_s), golden.q_xs, 1e-9)


def test_the_posteriors_of_another_sampler():
    """The psi sampler mixes the posteriors at s and at 0. It is not built; its numbers are."""
    with jax.enable_x64(True):
        golden = Group("duo", "psi")
        noise_t, noise_s = (mask_probability(t) for t in (golden.t, golden.t - golden.dt))
        p = jax.nn.softmax(golden.logits)
        near, far = (sampler.posterior(p, golden.x, noise_t, s) for s in (noise_s, 0 * noise_s))
        again = (1 - noise_s[..., None]) * far + noise_s[..., None] / 11
        q = golden.kappa * near + (1 - golden.kappa) * again
        assert agree(q, golden.q_xs, 1e-9)
        assert (published_draw(q, golden.u) == golden.x_next).all()


@pytest.mark.parametrize("end", ["ancestral", "greedy", "none"])
def test_whole_runs(end):
    with jax.enable_x64(True):
        golden, net = Group("duo", f"run_{end}"), Group("duo", "net")
        steps, seen = int(golden.num_steps), {"q": [], "z": [], "tau": []}

        def record(**arrays):
            jax.debug.callback(lambda a: [seen[key].append(a[key]) for key in a], arrays)

        def logits(z, t):
            record(tau=sigma(t))
            return stub_logits(net, z, sigma(t))

        def update(step, read, z, noise_t, noise_s):
            def draw(logits, z):
                q = sampler.posterior(jax.nn.softmax(logits), z, noise_t, noise_s)
                return q, published_draw(q, golden.u[step])

            q, after = read(draw, z)
            record(q=q, z=after)
            return after

        def last(step, read, z, noise_t):
            if end == "ancestral":
                return update(step, read, z, noise_t, 0.0)
            return z if end == "none" else read(lambda logits: jnp.argmax(logits, axis=-1))

        start = golden.x_init.astype(jnp.int32)
        tokens = sampler.ancestral(reading(logits), start, steps, update, last)
        jax.effects_barrier()
        assert (tokens == golden.tokens).all()
        assert agree(sampler.times(steps), golden.timesteps, 1e-12)
        assert (np.stack([start, *seen["z"]]) == golden.x_steps).all()
        assert agree(np.stack(seen["q"]), golden.q_xs, 1e-9)
        told = np.stack(seen["tau"])[: len(golden.sigma_to_network)]  # `none` needs no last one
        assert agree(told, golden.sigma_to_network, 1e-9)


def drawn(p, z, noise_t, noise_s, count):
    """How often each token is drawn in stages, [V]."""
    keys = jax.random.split(jax.random.key(0))
    u = jax.random.uniform(keys[0], (1, count, 3))
    tokens = jax.random.randint(keys[1], (1, count), 0, len(p))
    log_p = jnp.broadcast_to(jnp.log(p), (1, count, len(p)))
    z = jnp.full((1, count), z)
    return np.bincount(sampler.draw(log_p, z, u, tokens, noise_t, noise_s)[0], minlength=len(p))


@pytest.mark.parametrize("noise_t, noise_s", [(0.6, 0.4), (0.95, 0.05), (0.1, 0.0)])
def test_draws_in_stages_follow_the_posterior(noise_t, noise_s):
    p, z, count = jax.nn.softmax(jnp.array([0.0, -1.5, 2.0, -4.0, 0.5, 1.0])), 1, 200_000
    q = sampler.posterior(p[None, None], jnp.array([[z]]), noise_t, noise_s)
    expected = count * np.asarray(q[0, 0], float)
    counts = drawn(p, z, noise_t, noise_s, count)
    assert stats.chisquare(counts, expected * (count / expected.sum())).pvalue > 0.01
    wrong = sampler.posterior(p[None, None], jnp.array([[z]]), noise_t, noise_s * 0.9 + 0.02)
    wrong = count * np.asarray(wrong[0, 0], float)
    assert stats.chisquare(counts, wrong * (count / wrong.sum())).pvalue < 1e-6


def test_one_draw_over_a_large_vocabulary_would_be_too_cold():
    """A step of 1,000 from t = 0.5, with 50,258 tokens: a rare token v replaces a likely one with
    the probability w = q_v / q_z. By exponential variables it does where E_v < w E_z. Float32
    uniforms are multiples of 2^-23, so E_v has a smallest value, far above w. Stages lose nothing.
    """
    vocab_size, noise_t, noise_s = 50_258, 0.5, 0.499
    stays, new, uniform = (
        float(one) for one in sampler.weights(1e-3, noise_t, noise_s, vocab_size)
    )
    w = uniform / vocab_size / stays
    assert w < 1e-9
    grid = np.arange(1, 2**23 + 1) / 2**23  # values of 1 - u
    assert jnp.max(jax.random.uniform(jax.random.key(0), (2**20,))) <= 1 - 2.0**-23
    assert abs(np.mean(-np.log(grid)) - 1) < 1e-5
    # The mean over E_v of P(E_z > E_v / w), without the value u = 0, which codes exclude.
    found = np.mean(np.exp(np.log1p(-grid[:-1]) / w))
    assert found < 1e-6 * w
    share = uniform / (stays + new + uniform)  # of the coin that stands for all rare tokens
    assert abs(np.ceil(share * 2**23) / 2**23 / share - 1) < 1e-2
