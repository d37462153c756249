"""The network compared with outputs of the reference, its exact sizes, and its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elf_jax.methods.elf.predictor import Predictor
from elf_jax.networks.elf import ELF
from elf_jax.networks.layers import rotary_angles, rotate

# Some entries of the initial parameters for key 0.
VERSION_0_1 = (
    0.00152285, 0.01676555, 0.02289863, -0.0009565179,
    -0.02425597, -0.1119105, -0.01988412, -0.4318522,
)  # fmt: skip


def relative_error(ours, reference):
    return np.max(np.abs(ours - reference)) / np.max(np.abs(reference))


def test_forward_matches_the_reference(golden, golden_predictor, golden_params):
    data = golden("forward")
    z, x_prev = np.split(data["x"], 2, axis=-1)
    x_hat = golden_predictor.denoise(golden_params, z, x_prev, data["t"], data["w"])
    assert relative_error(x_hat, data["denoise_x_pred"]) < 1e-5
    ones = jnp.ones(len(z))
    hidden = golden_predictor.network.apply(
        {"params": golden_params}, data["x"], ones, data["w"], ones > 0
    )
    logits = golden_predictor.logit_head(golden_params, hidden)
    assert relative_error(logits, data["decode_logits"]) < 1e-5


@pytest.mark.parametrize(
    "depth, width, heads, count",
    [(12, 768, 12, 104_579_940), (24, 1056, 16, 342_540_036), (32, 1280, 16, 652_103_332)],
)
def test_parameter_counts(depth, width, heads, count):
    network = ELF(latent_width=512, vocab_size=32100, depth=depth, width=width, heads=heads)
    shapes = jax.eval_shape(lambda key: Predictor(network).init(key, 8), jax.random.key(0))
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count


def test_initial_values():
    network = ELF(latent_width=8, vocab_size=16, depth=2, width=64, heads=2)
    params = jax.jit(Predictor(network).init, static_argnums=1)(jax.random.key(0), 8)
    assert not np.any(params["x_out"]["kernel"])
    bound = np.sqrt(6 / (64 + 3 * 64))
    qkv = params["blocks"]["attn"]["qkv"]["kernel"]
    assert 0.95 * bound < np.max(np.abs(qkv)) <= bound
    assert np.any(qkv[0] != qkv[1])
    assert abs(np.std(params["time_embedder"]["in"]["kernel"]) - 0.02) < 0.001
    assert abs(np.std(params["mode_token"]) - 0.02) < 0.003


def test_initial_values_are_those_of_version_0_1():
    """The same key gives the same parameters, so that a seed means the same training run."""
    network = ELF(latent_width=8, vocab_size=16, depth=2, width=64, heads=2)
    params = jax.jit(Predictor(network).init, static_argnums=1)(jax.random.key(0), 8)
    found = [
        params["time_token"][0, 0],
        params["guidance_token"][1, 2],
        params["mode_token"][3, 63],
        params["time_embedder"]["in"]["kernel"][5, 6],
        params["guidance_embedder"]["out"]["kernel"][7, 8],
        params["blocks"]["attn"]["qkv"]["kernel"][1, 2, 3],
        params["blocks"]["mlp"]["out"]["kernel"][0, 4, 5],
        params["unembed"]["kernel"][0, 1],
    ]
    np.testing.assert_allclose(found, VERSION_0_1, rtol=1e-5)


def test_rows_of_both_modes_mix(golden, golden_predictor, golden_params):
    data = golden("forward")
    z, x_prev = np.split(data["x"], 2, axis=-1)
    w = jnp.asarray(data["w"])
    is_decode = jnp.array([True, False, True, False])
    hidden = golden_predictor.hidden(
        golden_params, jnp.asarray(z), jnp.asarray(x_prev), jnp.asarray(data["t"]), w, is_decode
    )
    x_hat = golden_predictor.x_head(golden_params, hidden)
    logits = golden_predictor.logit_head(golden_params, hidden)
    denoise = golden_predictor.denoise(golden_params, z, x_prev, data["t"], w)
    np.testing.assert_allclose(x_hat[1::2], denoise[1::2], atol=1e-5)
    decode = golden_predictor.logit_head(
        golden_params, golden_predictor.decode_hidden(golden_params, z, w)
    )
    np.testing.assert_allclose(logits[::2], decode[::2], atol=1e-5)


def test_rotation_depends_on_distance_only_and_spares_control_positions():
    angles = rotary_angles(2, 6, 8)
    x = jax.random.normal(jax.random.key(0), (1, 1, 1, 8))
    rotated = rotate(jnp.tile(x, (1, 8, 1, 1)), angles)[0, :, 0]
    np.testing.assert_array_equal(rotated[:3], np.tile(x[0, 0], (3, 1)))
    products = rotated[2:] @ rotated[2:].T
    np.testing.assert_allclose(np.diag(products, 1), products[0, 1], rtol=1e-4)
    assert abs(products[0, 1] - products[0, 2]) > 1e-3


@pytest.mark.parametrize("remat", ["none", "full"])
def test_dropout_and_remat(remat):
    network = ELF(8, 16, depth=4, width=16, heads=2, dropout=0.5, remat=remat)
    predictor = Predictor(network)
    params = jax.jit(predictor.init, static_argnums=1)(jax.random.key(0), 4)
    z = jax.random.normal(jax.random.key(1), (2, 4, 8))
    t = jnp.ones(2) * 0.5
    args = (params, z, z, t, t, t < 0)
    hidden = jax.jit(predictor.hidden)
    plain = hidden(*args)
    one, two = (hidden(*args, jax.random.key(seed)) for seed in (0, 1))
    assert np.any(one != two) and np.any(one != plain)
    np.testing.assert_array_equal(hidden(*args), plain)
    # The dropout of a row follows its name, not its place.
    ids, swap = jnp.array([7, 3]), jnp.array([1, 0])
    named = hidden(*args, jax.random.key(0), ids)
    swapped = [arg[swap] for arg in args[1:]]
    moved = hidden(params, *swapped, jax.random.key(0), ids[swap])
    np.testing.assert_allclose(moved[swap], named, rtol=1e-5, atol=1e-5)
    assert np.any(np.abs(named - one) > 1e-2)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(hidden(p, *args[1:]) ** 2)))(params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
