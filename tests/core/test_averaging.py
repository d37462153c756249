"""The moving average of the parameters: its decay, the share of the first weights, the warning."""

import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.core import averaging
from elf_jax.core.averaging import decay_at, share_of_first, warn_of_first_weights
from elf_jax.training.optimizer import average
from tests.tiny import tiny_config


@pytest.mark.parametrize("step, decay", [(0, 1 / 10), (1, 2 / 11), (2, 3 / 12), (90, 0.9)])
def test_the_decay_with_warmup(step, decay):
    """(1 + n) / (10 + n); at n = 90 it is 0.91, and config.optimizer.ema is less."""
    assert decay_at(jnp.int32(step), 0.9, True) == pytest.approx(decay, rel=1e-6)


def test_the_decay_without_warmup_is_the_number_itself():
    assert decay_at(jnp.int32(0), 0.9999, False) == 0.9999


@pytest.mark.parametrize(
    "steps, decay, warmup, share",
    [
        (0, 0.9, False, 1.0),
        (100, 0.9999, False, 0.9900),
        (6, 0.9, False, 0.531441),
        (3, 0.9999, True, 1 / 10 * 2 / 11 * 3 / 12),
        (3, 0.15, True, 1 / 10 * 0.15 * 0.15),
    ],
)
def test_the_share_of_the_first_weights(steps, decay, warmup, share):
    assert share_of_first(steps, decay, warmup) == pytest.approx(share, rel=1e-4)


@pytest.mark.parametrize("warmup", [False, True])
def test_the_share_is_that_of_the_average(warmup):
    """Weights that are 1 at first and 0 after every step: the average is the share."""
    ema = {"kernel": jnp.ones(())}
    for step in range(12):
        ema = average(ema, {"kernel": jnp.zeros(())}, decay_at(jnp.int32(step), 0.5, warmup))
    np.testing.assert_allclose(ema["kernel"], share_of_first(12, 0.5, warmup), rtol=1e-5)


@pytest.mark.parametrize(
    "step, keys, share",
    [
        (100, {"optimizer.ema": 0.9999}, "99%"),
        (21, {}, "11%"),  # 0.9 to the power of 21
        (22, {}, None),
        (100, {"optimizer.ema": 0.9999, "optimizer.ema_warmup": True}, None),
        (100, {"optimizer.ema": 0.9999, "sample.weights": "live"}, None),
        (0, {"optimizer.ema": 0.9999}, None),  # the step is not known
    ],
)
def test_samples_of_little_more_than_the_first_weights(step, keys, share, capsys):
    averaging._print_once.cache_clear()
    for _ in range(2):  # a command that samples and evaluates says it once
        warn_of_first_weights(tiny_config(**keys), step)
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == (share is not None)
    if share:
        assert f"step {step} still hold {share} of the weights that the training" in error
        assert "--weights=live" in error
