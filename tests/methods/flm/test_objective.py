"""FLM's noise and loss against the numbers of the published implementation."""

import jax
import jax.numpy as jnp
import pytest

from elf_jax.methods.flm import objective
from elf_jax.methods.flm.time_map import share_of_signal
from elf_jax.methods.tokens.draws import antithetic
from tests.methods.stub import Group, agree, stub

SIZE = 11


@pytest.mark.parametrize("x64", [True, False])
def test_published_loss(x64):
    with jax.enable_x64(x64):
        golden, tolerance = Group("flm", "loss"), 1e-9 if x64 else 1e-5
        t = antithetic(golden.u_t, jnp.arange(3), 3)[golden.perm]
        assert agree(t, golden.t, tolerance)
        assert agree(golden.t_to_network, golden.t, 1e-12)
        # The published time map is a spline.
        assert agree(share_of_signal(t, SIZE), golden.gamma, max(tolerance, 1e-6))
        onehot = jax.nn.one_hot(golden.x0, SIZE)
        x = objective.between(golden.noise, onehot, golden.gamma)
        assert agree(x, golden.x_t, tolerance)
        read = stub(Group("flm", "net"))(x, t)
        assert agree(read(jax.nn.log_softmax), golden.log_p, tolerance)
        losses = read(objective.cross_entropy, golden.x0)
        assert agree(losses, golden.loss_per_token, tolerance)
        counted = golden.valid_tokens
        assert agree(jnp.sum(losses * counted) / jnp.sum(counted), golden.loss, tolerance)


def test_the_gradient_of_the_loss():
    with jax.enable_x64(True):
        logits = jax.random.normal(jax.random.key(0), (2, 3, SIZE))
        tokens = jax.random.randint(jax.random.key(1), (2, 3), 0, SIZE)
        grad = jax.grad(lambda logits: jnp.sum(objective.cross_entropy(logits, tokens)))(logits)
        expected = jax.nn.softmax(logits) - jax.nn.one_hot(tokens, SIZE)
        assert agree(grad, expected, 1e-12)
