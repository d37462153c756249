"""The GPU kernels: compared with plain attention on the CPU, and compiled for a GPU."""

import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from elf_jax.networks import attention, gpu_attention
from elf_jax.networks.attention import Groups, choose, self_attention, softmax_attention
from elf_jax.networks.backbone import REMAT
from elf_jax.networks.gpu_biased_attention import flash_biased_attention
from elf_jax.networks.gpu_kernel_parts import columns, rest_size
from elf_jax.networks.layers import rotary_angles
from tests.networks.test_fused_attention import inputs, value_and_gradients


def assert_close(found, right, tolerance):
    """Every array differs by less than `tolerance` times its largest value."""
    for one, two in zip(found, right, strict=True):
        one, two = np.asarray(one, np.float32), np.asarray(two, np.float32)
        assert np.max(np.abs(one - two)) < tolerance * np.max(np.abs(two))


def heads_of(shape, dtype, count=3):
    """Random arrays [B, T, H, K]."""
    keys = jax.random.split(jax.random.key(0), count)
    return [jax.random.normal(key, shape).astype(dtype) for key in keys]


def run(attend, arrays):
    """(values, gradients of their weighted sum) of attention."""
    weight = jax.random.normal(jax.random.key(9), arrays[0].shape)

    def scalar(arrays):
        out = attend(*arrays)
        return jnp.sum(out.astype(jnp.float32) * weight), out

    (_, out), grads = jax.jit(jax.value_and_grad(scalar, has_aux=True))(arrays)
    return out, *grads


@pytest.mark.parametrize(
    "shape, dtype, causal",
    [
        ((2, 140, 2, 64), jnp.float32, False),
        ((1, 140, 2, 66), jnp.float32, True),
        ((1, 140, 1, 80), jnp.bfloat16, True),
        ((1, 1036, 1, 64), jnp.bfloat16, True),
        ((1, 1036, 1, 66), jnp.bfloat16, False),
        ((1, 1100, 1, 80), jnp.bfloat16, False),
        ((1, 12, 1, 64), jnp.bfloat16, True),
    ],
    ids=str,
)
def test_flash_attention_equals_plain(shape, dtype, causal):
    """Values and gradients. The plain attention is in float32."""
    arrays = heads_of(shape, dtype)
    found = run(lambda *a: gpu_attention.flash_attention(*a, causal, True), arrays)
    exact = [array.astype(jnp.float32) for array in arrays]
    right = run(lambda *a: softmax_attention(*a, causal=causal), exact)
    assert_close(found, right, 1e-5 if dtype == jnp.float32 else 1e-2)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(attention, "_platform", lambda mesh: "gpu")


@pytest.mark.parametrize("heads, width, length", [(2, 64, 70), (1, 66, 140), (1, 80, 28)])
def test_fused_equals_plain(as_on_a_gpu, heads, width, length):
    """The whole self-attention, with bias, norms and rotation and the gradients of all of them."""
    args = inputs(heads, width, length)
    plain = value_and_gradients(args, heads, "xla")
    assert_close(value_and_gradients(args, heads, "fused"), plain, 1e-5)


def test_fused_on_a_mesh_equals_plain(as_on_a_gpu):
    """Rows are split over data and fsdp, heads over tensor. Gradients of the scales are summed."""
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("data", "fsdp", "tensor"))
    args = inputs(2, 16, 20, rows=4)
    plain = value_and_gradients(args, 2, "xla", causal=True)
    assert_close(value_and_gradients(args, 2, "fused", mesh, causal=True), plain, 1e-5)


def test_biased_attention_equals_plain(as_on_a_gpu):
    shape = rows, length, heads, _ = 2, 140, 2, 64
    q, k, v = (0.3 * array for array in heads_of(shape, jnp.float32))
    keys = jax.random.split(jax.random.key(1), 3)
    bias = jax.random.normal(keys[0], (1, heads, length, length))
    groups = Groups(
        jax.random.randint(keys[1], (rows, length), 0, 4),  # 0: attends to no position
        jax.random.randint(keys[2], (rows, length), 0, 3),
    )
    plain = jax.nn.dot_product_attention(q, k, v, bias, groups.mask()[:, None], scale=1.0)
    np.testing.assert_allclose(
        flash_biased_attention(q, k, v, bias[0], *groups, True), plain, atol=2e-6
    )
    flat = [array.reshape(rows, length, -1) for array in (q, k, v)]
    assert attention.biased_attention(*flat, bias, groups, heads, None) is None  # float32: by XLA
    flat = [array.astype(jnp.bfloat16) for array in flat]
    found = attention.biased_attention(*flat, bias, groups, heads, None)
    assert_close([found], [plain.reshape(found.shape)], 1e-2)


def test_a_bias_reaches_its_own_pair():
    """Forward and backward of a head see no other row, head or position: sums of permutations."""
    q, k, v = heads_of((2, 70, 2, 16), jnp.float32)
    order = np.random.default_rng(0).permutation(70)
    found = gpu_attention.flash_attention(q, k[:, order], v[:, order], False, True)
    assert_close([found], [gpu_attention.flash_attention(q, k, v, False, True)], 1e-5)


def test_blocks_cover_everything():
    assert columns(80) == columns(66) == [(0, 64), (64, 16)]
    assert columns(64) == [(0, 64)] and columns(12) == [(0, 16)] and columns(96)[1] == (64, 32)
    assert [rest_size(length, 64) for length in (128, 129, 144, 1036, 190)] == [0, 16, 16, 16, 64]


def test_the_choice_without_cudnn(monkeypatch):
    monkeypatch.setattr(attention, "_has_cudnn", lambda: False)
    assert choose("auto", "gpu", jnp.bfloat16, 12, 64) == "fused"
    assert choose("auto", "gpu", jnp.bfloat16, 12, 64, tensor=8) == "xla"
    assert choose("auto", "gpu", jnp.float32, 12, 64) == "xla"


@pytest.mark.skipif(
    not importlib.util.find_spec("jax_plugins.xla_cuda13"), reason="needs .[gpu-compile]"
)
@pytest.mark.parametrize("width", [64, 66, 80])
def test_the_kernels_compile_for_a_gpu(width):
    """No GPU is needed. The backward pass computes q, k and v again, but not their attention."""
    from elf_jax.hardware.topologies import compiler_options, topology_devices

    devices = np.array(topology_devices("h100")).reshape(1, 1, 1)
    mesh = Mesh(devices, ("data", "fsdp", "tensor"))
    angles, size = rotary_angles(12, 128, width), 2 * width

    def scalar(*args):
        out = self_attention(*args, angles, 2, "fused", mesh)
        return jnp.sum(out.astype(jnp.float32))

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec()))

    large = array(jnp.bfloat16, 2, 140, size), array(jnp.bfloat16, size, 3 * size)
    small = [array(jnp.float32, *shape) for shape in ((3 * size,), (width,), (width,))]
    kept = jax.checkpoint(scalar, policy=REMAT["matmuls"])
    lowered = jax.jit(jax.grad(kept, range(5))).lower(*large, *small)
    lines = lowered.compile(compiler_options("h100")).as_text().splitlines()
    calls = [line for line in lines if " custom-call(" in line]
    names = [re.findall(r"(\w+)\)*/pallas_call", line) for line in calls]
    assert sorted(sum(names, [])) == [
        *("attention_forward", "attention_keys", "attention_queries"),
        *("heads_backward", "heads_forward", "heads_forward"),
    ]
