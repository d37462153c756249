"""The Transformer of all methods: control tokens, causal attention, dropout and remat."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from elf_jax.networks.backbone import REMAT, Backbone
from elf_jax.networks.elf import ELF

SIGNALS = {"scalars": (("time", 2),), "switches": (("mode", 1),)}


def build(length=12, rows=2, **options):
    """(network, parameters, text, signals)."""
    network = Backbone(depth=3, width=16, heads=2, **options)
    text = jax.random.normal(jax.random.key(1), (rows, length, 16))
    signals = (
        {name: jnp.linspace(0.2, 0.8, rows) for name, _ in network.scalars},
        {name: jnp.arange(rows) % 2 == 1 for name, _ in network.switches},
    )
    params = jax.jit(network.init)(jax.random.key(0), text, *signals)["params"]
    return network, params, text, signals


def apply(network, params, text, signals, **kwargs):
    return network.apply({"params": params}, text, *signals, **kwargs)


@pytest.mark.parametrize("attention", ["xla", "fused"])
@pytest.mark.parametrize("controls", [{}, SIGNALS], ids=["text alone", "control tokens"])
@pytest.mark.parametrize("causal", [True, False])
def test_a_causal_position_does_not_see_later_ones(causal, controls, attention):
    network, params, text, signals = build(causal=causal, attention=attention, **controls)
    changed = text.at[:, 7].add(1.0)
    one, two = (apply(network, params, x, signals) for x in (text, changed))
    before = np.abs(one - two)[:, :7]
    if causal:
        np.testing.assert_array_equal(before, 0)
    else:
        assert np.all(before.max(-1) > 1e-4)
    # In both cases, the output changes at the changed position and at all later ones.
    assert np.all(np.abs(one - two)[:, 7:].max(-1) > 1e-4)


@pytest.mark.parametrize("causal", [True, False])
def test_all_text_sees_the_control_tokens(causal):
    network, params, text, (scalars, switches) = build(causal=causal, **SIGNALS)
    plain = apply(network, params, text, (scalars, switches))
    for other in (
        ({"time": scalars["time"] + 0.1}, switches),
        (scalars, {"mode": ~switches["mode"]}),
    ):
        assert np.all(np.abs(apply(network, params, text, other) - plain).max(-1) > 1e-6)


def test_rows_have_their_own_signals():
    network, params, text, signals = build(**SIGNALS)
    both = apply(network, params, text, signals)
    for row in range(2):
        alone = jax.tree.map(lambda array: array[row : row + 1], (text, signals))  # noqa: B023
        np.testing.assert_allclose(apply(network, params, *alone)[0], both[row], atol=1e-5)


def test_the_parameters_are_flat_and_only_those_of_its_signals():
    _, params, *_ = build(**SIGNALS)
    assert params.keys() == {"time_token", "time_embedder", "mode_token", "blocks"}
    assert params["time_token"].shape == (2, 16) and params["mode_token"].shape == (1, 16)
    assert build()[1].keys() == {"blocks"}
    shapes = {leaf.shape[0] for leaf in jax.tree.leaves(params["blocks"])}
    assert shapes == {3}  # layers are stacked


def test_elf_has_the_parameters_of_a_backbone_beside_its_own():
    elf = ELF(latent_width=8, vocab_size=10, depth=3, width=16, heads=2)
    one = jnp.ones(1)
    inputs = jnp.zeros((1, 4, 16))
    params = elf.init(jax.random.key(0), inputs, one, one, one > 0, method=ELF.everything)
    scalars = (("time", 4), ("guidance", 4))
    backbone, *_ = (
        Backbone(3, 16, 2, scalars, (("mode", 4),))
        .init(jax.random.key(0), inputs, {"time": one, "guidance": one}, {"mode": one > 0})
        .values()
    )
    params, backbone = (
        traverse_util.flatten_dict(tree, sep="/") for tree in (params["params"], backbone)
    )
    assert backbone.keys() < params.keys()
    assert {path.split("/")[0] for path in params.keys() - backbone.keys()} == {
        "self_cond_proj", "text_in", "text_out", "final_norm", "x_out", "decode_proj", "unembed",
    }  # fmt: skip
    # The same key gives the same initial values.
    for path, leaf in backbone.items():
        np.testing.assert_array_equal(leaf, params[path])


@pytest.mark.parametrize("remat", REMAT)
@pytest.mark.parametrize("unroll", [1, 3])
def test_remat_and_unrolling_change_nothing(remat, unroll):
    def gradients(**options):
        network, params, text, signals = build(**SIGNALS, **options)

        def loss(params):
            return jnp.sum(apply(network, params, text, signals) ** 2)

        return jax.jit(jax.grad(loss))(params)

    ours, plain = gradients(remat=remat, unroll=unroll), gradients()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, plain)


def test_dropout_is_in_the_middle_half_only():
    network = Backbone(depth=8, width=16, heads=2, dropout=0.5)
    np.testing.assert_array_equal(network._dropout_rates(), [0, 0, 0.5, 0.5, 0.5, 0.5, 0, 0])
    network, params, text, signals = build(dropout=0.0)
    dropped = apply(network, params, text, signals, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(dropped, apply(network, params, text, signals))
