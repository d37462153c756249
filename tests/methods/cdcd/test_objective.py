"""The noise, the loss and its gradients against the published code."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.methods.cdcd import objective, warping
from tests.methods.cdcd import golden
from tests.methods.stub import Group, agree


def losses(params, data, net, has_estimate):
    """(loss, everything that leads to it), with the special row of the published code: its time is
    time_min, and only the time warping is fitted to it.
    """
    warp, rows = warping.make(params["warp"], *golden.RANGE), len(data["x"]) - 1
    u = objective.quantiles(data.u_offset / rows, jnp.arange(rows), rows)
    u = jnp.concatenate([jnp.zeros(1), u])
    t = jax.lax.stop_gradient(warping.time_of(warp, u))
    table = objective.embeddings(params["table"])
    x = objective.noisy(table[data.x], data.noise, t * golden.UNIT)
    scaled = objective.scaled(x, t * golden.UNIT)
    estimate = jnp.zeros_like(x)
    if has_estimate:
        first = golden.stub(net, (scaled, estimate), jnp.log(t))
        estimate = jax.lax.stop_gradient(objective.mean_embedding(first, table))
    logits = golden.stub(net, (scaled, estimate), jnp.log(t))
    per_token = objective.cross_entropy(logits, data.x)
    fit = jnp.mean(warping.fit_loss(warp, t, jnp.mean(per_token, axis=1)))
    loss = jnp.mean(per_token[1:])
    found = {"t": t, "x": x, "estimate": estimate, "logits": logits, "per_token": per_token}
    return loss + fit, {**found, "loss": loss, "fit": fit}


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("name", ["train", "train_selfcond"])
def test_loss_and_gradients(name, x64):
    with jax.enable_x64(x64):
        tolerance = 1e-10 if x64 else 1e-5
        data, net, cdf = Group("cdcd", name), Group("cdcd", "net"), Group("cdcd", "cdf")
        params = {
            "warp": {"times": cdf.l_t, "heights": cdf.l_u},
            "table": jnp.asarray(golden.TABLE),
        }
        run = partial(losses, data=data, net=net, has_estimate=name == "train_selfcond")
        (loss, found), grads = jax.jit(jax.value_and_grad(run, has_aux=True))(params)
        gamma = np.log(data["t"] ** 2 / 256)[:, None, None]
        shrunk = 1 / np.sqrt(1 + np.exp(gamma)) / np.sqrt(golden.WIDTH)
        for ours, theirs in [
            (found["t"], data.t),
            (gamma[:, 0, 0], data.gamma),
            (found["x"] * shrunk, data.z),
            (found["estimate"], data.self_cond * np.sqrt(golden.WIDTH)),
            (found["logits"], data.logits),
            (found["per_token"], data.xent_per_token),
            (found["loss"], data.diffusion_loss),
            (found["fit"], data.cdf_loss),
            (loss, data.loss),
            (grads["warp"]["times"], data.grad_l_t),
            (grads["warp"]["heights"], data.grad_l_u),
            (grads["table"], data.grad_embedding_raw),
        ]:
            assert agree(ours, theirs, tolerance)


def test_the_input_has_variance_one_and_given_tokens_stay():
    key, t = jax.random.key(0), jnp.array([0.5, 3.0, 100.0])
    table = objective.embeddings(jax.random.normal(key, (64, 256)))
    clean = table[jax.random.randint(key, (3, 40), 0, 64)]
    x = objective.noisy(clean, jax.random.normal(jax.random.key(1), clean.shape), t)
    is_given = jnp.zeros((3, 40), bool).at[:, :3].set(True)
    scaled = objective.scaled(x, t, is_given)
    np.testing.assert_allclose(jnp.mean(scaled[:, 3:] ** 2, axis=(1, 2)), 1, atol=0.05)
    np.testing.assert_array_equal(scaled[:, :3], x[:, :3])


def test_quantiles_are_evenly_spaced_and_each_is_uniform():
    u = jax.vmap(lambda start: objective.quantiles(start, jnp.arange(8), 8))(
        (jnp.arange(1000) + 0.5) / 1000
    )
    np.testing.assert_allclose(jnp.diff(jnp.sort(u, axis=1), axis=1), 1 / 8, atol=1e-5)
    for row in range(8):
        counts = np.histogram(u[:, row], bins=10, range=(0, 1))[0]
        assert np.all(counts == 100)


@pytest.mark.parametrize("rows, fraction", [(8, 0.5), (1, 1.0), (20, 0.3), (3, 0.0), (1024, 0.25)])
def test_the_chosen_places_are_the_same_share_of_every_part(rows, fraction):
    places = objective.chosen_places(rows, fraction)
    assert places.sum() == round(rows * fraction)
    for parts in (2, 4):
        part = objective.chosen_places(rows // parts, fraction) if rows % parts == 0 else None
        if part is not None:
            np.testing.assert_array_equal(np.tile(part, parts), places)


def test_no_places_are_chosen_where_the_share_is_no_whole_number():
    assert objective.chosen_places(3, 0.5) is None and objective.chosen_places(1, 0.3) is None
