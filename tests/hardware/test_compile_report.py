"""Costs of compiled programs, and the compile report for a TPU slice that is not available."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from configs import owt
from elf_jax.checkpoints.weights import params_shapes
from elf_jax.core import sharding
from elf_jax.core.errors import UserError
from elf_jax.hardware.chips import CHIPS
from elf_jax.hardware.compile_report import (
    attention_compiled,
    compile_report,
    topology_devices,
)
from elf_jax.hardware.program_cost import _Program, program_cost
from elf_jax.methods.registry import describe_method
from elf_jax.networks.attention import Cache, cached_attention, self_attention
from elf_jax.networks.block_mask import BlockMask
from tests.hardware import by_hand
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[2]
SIZE = {
    "model.depth": 3,
    "model.unroll": 1,
    "model.width": 256,
    "model.heads": 4,
    "data.length": 500,
    "train.batch_size": 64,
}


def compiled_loop(unroll):
    """Eight products of [64, 64] matrices in a scan, compiled, as text."""

    def run(x, w):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, 8, unroll=unroll)[0]

    x = jnp.ones((64, 64))
    return jax.jit(run).lower(x, x).compile().as_text()


def test_loop_bodies_count_as_often_as_they_run():
    scanned, unrolled = program_cost(compiled_loop(1)), program_cost(compiled_loop(8))
    products = 8 * 2 * 64**3
    assert scanned.unknown_loops == 0
    assert products <= scanned.flops < 1.01 * products
    assert scanned.flops == pytest.approx(unrolled.flops, rel=0.01)
    assert scanned.hbm_bytes > 8 * 2 * 64 * 64 * 4


COLLECTIVES = """
%fused_computation.1 (p: bf16[8,4]) -> bf16[64,4] {
  ROOT %all-gather.1 = bf16[64,4]{1,0} all-gather(%p), channel_id=1
}

%async_collective_fusion.2 (p: bf16[8,4]) -> bf16[64,4] {
  ROOT %all-gather.2 = bf16[64,4]{1,0} all-gather(%p), channel_id=1
}

%all-reduce-scatter.3 (p: bf16[16,4]) -> bf16[2,4] {
  %all-reduce.3 = bf16[16,4]{1,0} all-reduce(%p), channel_id=2
}

ENTRY %main (a: bf16[8,4], b: bf16[16,4]) -> f32[3] {
  %async-collective-start.1 = (bf16[8,4]) fusion(%a), calls=%fused_computation.1
  %fusion.2 = bf16[64,4]{1,0} fusion(%a), kind=kCustom, calls=%async_collective_fusion.2
  %async-collective-done.1 = bf16[64,4]{1,0} fusion(%a), kind=kCustom, calls=%fused_computation.1
  %fusion.3 = bf16[2,4]{1,0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter.3
  %all-reduce.4 = (f32[5]{0}, f32[3]{0}) all-reduce(%c, %d), channel_id=3
  %all-gather-start.5 = (bf16[8,4]{1,0}, bf16[64,4]{1,0}) all-gather-start(%a), channel_id=4
}
"""


def test_every_collective_counts_once_with_all_its_results():
    program = _Program(COLLECTIVES)
    cost = program.unseen(program.entry)
    gathered, scattered, summed = 64 * 4 * 2, 16 * 4 * 2, (5 + 3) * 4
    assert cost.collective_bytes == 2 * gathered + scattered + summed
    assert cost.sent_bytes == 2 * gathered + scattered + 2 * summed


@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_the_cycles_of_a_large_product_agree_with_the_data_sheet(topology):
    devices = topology_devices(topology)
    assert len(devices) == 4
    mesh = sharding.make_mesh(tiny_config(**{"mesh.data": 1}).mesh, devices[:1])
    x = jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16, sharding=sharding.replicated(mesh))
    options = sharding.compiler_options(mesh)  # every kind of TPU has them
    cost = program_cost(jax.jit(jnp.dot).lower(x, x).compile(options).as_text())
    chip = CHIPS[devices[0].device_kind]
    assert cost.flops == pytest.approx(2 * 4096**3, rel=0.01)
    # The compiler expects a greater loss on chips with 256-wide matrix units than on others.
    assert 1 < (cost.cycles / chip.clock) / (cost.flops / chip.flops) < 1.25


def flops_by_hand(rows, config, devices):
    """FLOPs of matrix products in one device's step: ELF (three passes), T5-small, heads, Muon."""
    length, width, latent, vocab = config.data.length, config.model.width, 512, 32100
    hidden = int(4 * width * 2 / 3)
    t5 = rows * 6 * (2 * length * (4 * 512**2 + 2 * 512 * 2048) + 4 * length**2 * 512)

    def newton_schulz(m, n):
        return 5 * (4 * m**2 * n + 2 * m**3)

    # The largest shape comes first. With so few layers, the other kernels, except that of the
    # vocabulary, fit on devices that would be idle.
    muon = newton_schulz(width, 2 * hidden) + newton_schulz(512, 1024)
    muon += newton_schulz(latent, vocab) / devices
    return by_hand.step_flops(config, rows, latent, vocab) + t5 + muon


KERNEL = """HloModule part

ENTRY %main (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0} parameter(0)
  ROOT %k = f32[8,128]{1,0} custom-call(%p), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"cost_estimate":{"flops":"100","bytes_accessed":"8192"}}}
}
"""  # noqa: E501


def test_a_kernel_counts_with_its_estimate():
    cost = program_cost(KERNEL)
    assert cost.kernel_flops == 100
    # XLA's own analysis has -1 for what it does not know.
    assert (cost.flops, cost.hbm_bytes) == (100 - 1, 8192 - 1)


def test_a_kernel_without_an_estimate_is_unknown():
    bare = KERNEL.replace(KERNEL[KERNEL.index(", backend_config") : KERNEL.index("\n}")], "")
    assert program_cost(KERNEL).unknown_kernels == 0
    assert program_cost(bare).unknown_kernels == 1 and program_cost(bare).kernel_flops == 0


@pytest.mark.parametrize("hides", [False, True])
def test_text_in_blocks_has_kernels_too(hides):
    """Splash attention, forward and two kernels backward, with lengths and widths of no round size,
    also where some clean positions are hidden. The report finds it, and knows that it does not know
    what it costs.
    """
    devices = topology_devices("v5e:2x2")
    mesh = sharding.make_mesh(tiny_config(**{"mesh.data": 4}).mesh, devices)
    rows = sharding.rows(mesh)
    x = jax.ShapeDtypeStruct((4, 70, 132), jnp.bfloat16, sharding=rows)
    clean = jax.ShapeDtypeStruct((4, 60, 2, 66), jnp.bfloat16, sharding=rows)

    is_key = jax.ShapeDtypeStruct((4, 60), bool, sharding=rows)

    def attend(x, clean, is_key):
        cache = Cache(clean, clean, is_key if hides else None)
        weights = jnp.ones((132, 396), x.dtype), jnp.zeros(396), jnp.ones(66), jnp.ones(66)
        how = jnp.zeros((70, 33)), 2, "fused", cache, BlockMask(60, 10, 5, 20), mesh
        return jnp.sum(cached_attention(x, *weights, *how)[0].astype(jnp.float32))

    gradient = jax.jit(jax.grad(attend, argnums=(0, 1)), out_shardings=rows)
    text = gradient.lower(x, clean, is_key).compile().as_text()
    config = tiny_config(**{"model.attention": "fused"})
    assert attention_compiled(config, mesh, text) == "fused"
    assert program_cost(text).unknown_kernels == 3


def test_hidden_positions_have_kernels_too():
    """In a network that sees the others on both sides."""
    mesh = sharding.make_mesh(tiny_config(**{"mesh.data": 4}).mesh, topology_devices("v5e:2x2"))
    rows = sharding.rows(mesh)
    x = jax.ShapeDtypeStruct((4, 70, 132), jnp.bfloat16, sharding=rows)
    is_key = jax.ShapeDtypeStruct((4, 70), bool, sharding=rows)

    def attend(x, is_key):
        weights = jnp.ones((132, 396), x.dtype), jnp.zeros(396), jnp.ones(66), jnp.ones(66)
        how = jnp.zeros((70, 33)), 2, "fused", mesh, False, is_key
        return jnp.sum(self_attention(x, *weights, *how).astype(jnp.float32))

    text = jax.jit(jax.grad(attend), out_shardings=rows).lower(x, is_key).compile().as_text()
    assert program_cost(text).unknown_kernels == 3


def report_by_command(path):
    """The report of a step, from a separate process, because JAX has eight devices in this one."""
    command = [sys.executable, "main.py", "--mode=compile", "--config=configs/owt.py"]
    command += [f"--config.{key}={value}" for key, value in SIZE.items()]
    command += ["--topology=v5p:2x2x4", f"--output={path}"]
    env = {**os.environ, "JAX_EXEC_TIME_OPTIMIZATION_EFFORT": "-1.0", "XLA_FLAGS": ""}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "estimated_step_seconds" in done.stdout
    return json.loads(path.read_text())


def test_a_step_on_a_slice_that_is_not_there(tmp_path):
    """Its FLOPs agree with a count by hand, and the report is complete. Both are checked in one
    test, so that the step is compiled only once.
    """
    report = report_by_command(tmp_path / "report.json")
    config = owt.get_config()
    config.update_from_flattened_dict(SIZE)
    flops = flops_by_hand(4, config, 16)
    # Other operations than matrix products, and padding, are a few per cent at this size.
    assert flops < report["flops_per_device"] < 1.08 * flops
    assert report["attention"] == "fused"
    assert report["devices"] == 16 and report["fits"] is True
    assert report["unknown_loops"] == report["unknown_calls"] == 0
    for key in ("hbm_bytes_per_device", "temp_bytes_per_device", "argument_bytes_per_device",
                "hbm_capacity_bytes", "compile_seconds", "collective_bytes_per_device",
                "estimated_step_seconds", "tokens_per_second", "mfu_bound",
                "roofline_seconds", "collective_seconds"):  # fmt: skip
        assert report[key] > 0, key
    assert report["estimate"].startswith("the compiler's cycles")
    assert report["estimated_step_seconds"] > report["roofline_seconds"]
    # The gradients of all parameters are sent at least once, in float32.
    assert report["collective_bytes_per_device"] > 4 * 16e6


def test_the_teacher_of_a_distillation_is_split_like_the_parameters():
    """The report is that of the round with the most sub-steps. Beside the arguments of a training
    step it has the device's part of the teacher, without the head for tokens, which is not used.
    """
    keys = {"mesh.data": 2, "mesh.fsdp": 4, "optimizer.name": "adamw"}
    keys |= {"distill.steps": (4, 2), "distill.substeps": 8, "data.vocab_size": 304}
    config = tiny_config(**keys)
    train = compile_report(config)
    found = compile_report(config, program="distill")
    assert (found["student_steps"], found["teacher_substeps"]) == (2, 4)
    mesh = sharding.make_mesh(config.mesh)
    shapes = params_shapes(describe_method(config, mesh)[0], config.data.length)
    shapes = {name: one for name, one in shapes.items() if name not in ("decode_proj", "unembed")}
    parts = jax.tree.map(
        lambda leaf, at: 4 * math.prod(at.shard_shape(leaf.shape)),
        shapes,
        sharding.of_tree(shapes, mesh),
    )
    part, whole = sum(jax.tree.leaves(parts)), sum(4 * a.size for a in jax.tree.leaves(shapes))
    key = "argument_bytes_per_device"
    assert found[key] - train[key] == part < 0.6 * whole
    # Four passes over the 2 rows of a device that denoise, and no gradient of them.
    assert found["flops_per_device"] > 1.5 * train["flops_per_device"]
    assert found["unknown_loops"] == 0


def test_what_cannot_be_compiled_is_one_line():
    with pytest.raises(UserError, match="use one of train, sample, distill"):
        compile_report(owt.get_config(), program="dream")
    with pytest.raises(UserError, match="no TPU topology 'v5p:3'.*write it like v5p:2x4x4"):
        compile_report(owt.get_config(), "v5p:3")
