"""The published programs that the benchmarks compare with do the same mathematics as ours."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import plain
from elf_jax.core.sharding import make_mesh
from elf_jax.methods.registry import describe_method
from tests import tiny


def test_the_network_is_the_same():
    config = tiny.tiny_config(**{"model.depth": 2})
    method, _ = describe_method(config, make_mesh(config.mesh, jax.devices()[:1]))
    params = jax.jit(method.init, static_argnums=1)(jax.random.key(0), 4)
    wave = lambda leaf: 0.1 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape)  # noqa: E731
    params = jax.tree.map(lambda leaf: leaf + wave(leaf), params)
    network, rows = method.predictor.network, 3
    z, x_prev = jax.random.normal(jax.random.key(1), (2, rows, 4, network.latent_width))
    t, w, one = jnp.array([0.1, 0.5, 0.9]), jnp.array([1.0, 2.0, 3.0]), jnp.ones(rows)
    theirs = plain.Network(network)
    params_apart = {"params": plain.from_ours(params)}

    x_hat = theirs.apply(params_apart, jnp.concatenate([z, x_prev], -1), t, w, False)
    expected = method.predictor.denoise(params, z, x_prev, t, w)
    np.testing.assert_allclose(x_hat, expected, rtol=1e-4, atol=1e-5)

    inputs = jnp.concatenate([z, jnp.zeros_like(z)], -1)
    logits = theirs.apply(params_apart, inputs, one, w, True)
    hidden = method.predictor.decode_hidden(params, z, w)
    expected = method.predictor.logit_head(params, hidden)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_its_muon_updates_the_matrices_of_ours():
    """All kernels but those that match adam_kernels, which may be empty."""
    params = {"unembed": {"kernel": jnp.ones((2, 3))}, "out": {"kernel": jnp.ones((2, 2))}}
    for pattern, count in (("unembed", 1), ("", 2)):
        settings = tiny.tiny_config(**{"optimizer.adam_kernels": pattern}).optimizer
        state = plain.optimizer(settings, 1e-3).init(params)
        momenta = [leaf for leaf in jax.tree.leaves(state[1]) if leaf.ndim == 2]
        assert len(momenta) == count + 2 * (2 - count)  # Muon has one momentum, Adam two
