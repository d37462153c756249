"""The likelihood is exact."""

import jax.numpy as jnp
import numpy as np

from elf_jax.methods.ar import objective
from tests.methods.ar import exact
from tests.methods.toy import Toy

TOY = Toy(vocab_size=3, length=4)


def test_every_position_gets_the_token_before_it():
    x = jnp.array([[3, 1, 2], [4, 5, 6]])
    np.testing.assert_array_equal(objective.shifted(x, 9), [[9, 3, 1], [9, 4, 5]])
    is_given = jnp.array([[True, True, False]])
    np.testing.assert_array_equal(objective.shifted(is_given, False), [[False, True, True]])


def test_the_likelihood_of_every_row_is_exact():
    losses = objective.losses(exact.predict(exact.conditionals(TOY)), jnp.asarray(TOY.rows), 3)
    nll = np.sum(np.asarray(losses, np.float64), axis=1)
    np.testing.assert_allclose(nll, -np.log(TOY.p), rtol=1e-5)
    np.testing.assert_allclose(np.sum(TOY.p * nll), TOY.entropy, rtol=1e-6)
