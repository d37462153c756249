"""The TPU kernels, interpreted on the CPU, compared with plain attention, also on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from elf_jax.networks import attention, fused_attention
from elf_jax.networks.attention import Groups, choose, self_attention, softmax_attention
from elf_jax.networks.kernel_parts import HeadLayout
from elf_jax.networks.layers import rotary_angles


def inputs(heads, width, length, rows=2):
    """x and the parameters of `self_attention`, with heads of this width."""
    keys = jax.random.split(jax.random.key(0), 6)
    size = heads * width
    return (
        jax.random.normal(keys[0], (rows, length, size)),
        0.2 * jax.random.normal(keys[1], (size, 3 * size)),
        0.1 * jax.random.normal(keys[2], (3 * size,)),
        1 + 0.3 * jax.random.normal(keys[3], (width,)),
        1 + 0.3 * jax.random.normal(keys[4], (width,)),
    )


def value_and_gradients(args, heads, how, mesh=None, causal=False):
    length, width = args[0].shape[1], len(args[3])
    angles = rotary_angles(5, length - 5, width)
    weight = jax.random.normal(jax.random.key(9), args[0].shape)

    def scalar(args):
        out = self_attention(*args, angles, heads, how, mesh, causal)
        return jnp.sum(out * weight), out

    (_, out), grads = jax.jit(jax.value_and_grad(scalar, has_aux=True))(args)
    return out, *grads


@pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
@pytest.mark.parametrize(
    "heads, width, length",
    [(2, 64, 300), (1, 66, 140), (4, 12, 28)],
    ids=["two heads a block, loop and rest", "padded", "narrow"],
)
def test_fused_equals_plain(heads, width, length, causal):
    """Values and all gradients differ by less than 1e-5 times the largest value."""
    args = inputs(heads, width, length)
    plain = value_and_gradients(args, heads, "xla", causal=causal)
    fused = value_and_gradients(args, heads, "fused", causal=causal)
    for one, two in zip(plain, fused, strict=True):
        assert np.max(np.abs(one - two)) < 1e-5 * np.max(np.abs(one))


@pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
def test_fused_on_a_mesh_equals_plain(causal):
    """Rows are split over data and fsdp, heads over tensor. Gradients of the scales are summed."""
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("data", "fsdp", "tensor"))
    args = inputs(4, 64, 20, rows=4)
    plain = value_and_gradients(args, 4, "xla", causal=causal)
    fused = value_and_gradients(args, 4, "fused", mesh, causal)
    for one, two in zip(plain, fused, strict=True):
        assert np.max(np.abs(one - two)) < 1e-5 * np.max(np.abs(one))


def test_rows_that_do_not_split_fall_back():
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4, 1), ("data", "fsdp", "tensor"))
    args = inputs(2, 64, 20, rows=1)
    angles = rotary_angles(5, 15, 64)
    one, two = (self_attention(*args, angles, 2, how, mesh) for how in ("xla", "fused"))
    np.testing.assert_array_equal(one, two)


def test_biased_attention_equals_plain():
    rows, length, heads, width = 2, 300, 2, 64
    keys = jax.random.split(jax.random.key(0), 6)
    q, k, v = (0.3 * jax.random.normal(key, (rows, length, heads * width)) for key in keys[:3])
    bias = jax.random.normal(keys[3], (1, heads, length, length))
    groups = Groups(
        jax.random.randint(keys[4], (rows, length), 0, 4),  # 0: attends to no position
        jax.random.randint(keys[5], (rows, length), 0, 3),
    )
    fused = attention.biased_attention(q, k, v, bias, groups, heads, None)
    split = (array.reshape(rows, length, heads, width) for array in (q, k, v))
    plain = jax.nn.dot_product_attention(
        *split, bias=bias, mask=groups.mask()[:, None], scale=1.0
    ).reshape(fused.shape)
    np.testing.assert_allclose(fused, plain, atol=2e-6)
    assert attention.biased_attention(q, k, v, bias, groups, 1, None) is not None
    odd = (array[..., :66] for array in (q, k, v))  # a head whose width does not fit the lanes
    assert attention.biased_attention(*odd, bias[:, :1], groups, 1, None) is None


@pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
def test_padding_for_cudnn_changes_nothing(monkeypatch, causal):
    """For cuDNN, heads of width 66 are padded to 72. Here XLA takes the place of cuDNN."""
    q, k, v = (
        jax.random.normal(key, (1, 9, 2, 66)) for key in jax.random.split(jax.random.key(0), 3)
    )
    plain, seen = softmax_attention(q, k, v, causal=causal), []
    real = jax.nn.dot_product_attention

    def stand_in(q, k, v, scale, is_causal, implementation, mask):
        assert mask is None
        seen.append((q.shape[-1], is_causal, implementation))
        return real(q, k, v, scale=scale, is_causal=is_causal)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    found = softmax_attention(q, k, v, "cudnn", causal)
    np.testing.assert_allclose(found, plain, atol=1e-6)
    assert seen == [(72, causal, "cudnn")]


@pytest.mark.parametrize(
    "platform, dtype, heads, width, tensor, chosen",
    [
        ("tpu", jnp.bfloat16, 12, 64, 1, "fused"),
        ("tpu", jnp.bfloat16, 12, 64, 4, "xla"),  # six blocks cannot be split over four devices
        ("tpu", jnp.bfloat16, 4, 192, 1, "xla"),  # a head is wider than a block
        ("gpu", jnp.bfloat16, 12, 64, 1, "cudnn"),
        ("gpu", jnp.float32, 12, 64, 1, "xla"),
        ("cpu", jnp.float32, 12, 64, 1, "xla"),
    ],
)
def test_the_choice(monkeypatch, platform, dtype, heads, width, tensor, chosen):
    monkeypatch.setattr(attention, "_has_cudnn", lambda: True)
    assert choose("auto", platform, dtype, heads, width, tensor) == chosen
    assert choose("xla", platform, dtype, heads, width, tensor) == "xla"


def test_costs_are_those_of_the_products():
    layout = HeadLayout(12, 64)
    forward = fused_attention.cost(2, 1036, layout, 2, backward=False)
    assert forward.flops == 4 * 2 * 1036**2 * 768
    assert fused_attention.cost(2, 1036, layout, 2, backward=True).flops == 2.5 * forward.flops
