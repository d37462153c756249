"""Programs compiled for GPUs that are not there, and what the report says of them."""

import collections
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from elf_jax.core import processes
from elf_jax.core.errors import UserError
from elf_jax.hardware import figures, gpu_calls, topologies
from elf_jax.hardware.chips import CHIPS
from elf_jax.hardware.compile_report import attention_compiled, compile_report
from elf_jax.hardware.gpu_targets import GPUS
from elf_jax.hardware.program_cost import Cost, _Program, program_cost
from tests.hardware import by_hand
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[2]
needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None
    or importlib.util.find_spec("jax_plugins.xla_cuda13") is None,
    reason="pip install -e '.[gpu-compile]'",
)
KEYS = {
    "model.dtype": "bfloat16",
    "model.attention": "xla",
    "model.remat": "matmuls",
    "model.depth": 3,
    "model.unroll": 1,
    "model.width": 256,
    "model.heads": 4,
    "model.bottleneck": 32,
    "encoder.width": 128,
    "data.length": 128,
    "data.vocab_size": 1000,
    "train.batch_size": 8,
    "optimizer.name": "adamw",
    "sample.batch_size": 8,
    "sample.steps": 3,
}


@needs_compiler
@pytest.mark.parametrize("program", ["train", "sample"])
def test_operations_on_a_gpu_that_is_not_there(program):
    """They agree with a count by hand: layers and sampling steps count as often as they run."""
    config = tiny_config(**KEYS)
    if program == "train":
        flops = by_hand.step_flops(config, rows=8, latent=128, vocab=1000)
    else:
        flops = by_hand.sampling_flops(config, latent=128, vocab=1000)
    report = compile_report(config, "h100", program)
    # 140 positions are padded to 144 in products.
    assert flops < report["flops_per_device"] < 1.04 * flops
    assert report["device"] == "NVIDIA H100 80GB HBM3" and report["attention"] == "xla"
    assert report["fits"] is True and 0 < report["memory_fraction"] < 0.01
    assert report["unknown_loops"] == report["unknown_calls"] == 0
    # Seven or more products of every block are made by cuBLAS, in every layer and pass.
    assert report["launches"] > report["cublas_calls"] > 3 * 4 * 4
    assert report["estimated_step_seconds"] >= report["roofline_seconds"] > 0
    assert report["estimate"].startswith("floor") and "unknown without a GPU" in report["estimate"]
    json.dumps(report)


@needs_compiler
def test_gpus_of_all_kinds():
    for name, gpu in GPUS.items():
        (device,) = topologies.topology_devices(name)
        assert device.platform == "gpu" and device.device_kind == gpu.kind in CHIPS
    devices = topologies.topology_devices("h100:2x4")
    assert [device.process_index for device in devices] == [0] * 4 + [1] * 4


@needs_compiler
def test_pallas_kernels_count_their_estimates_in_loops():
    (device,) = topologies.topology_devices("h100")
    mesh = jax.sharding.Mesh([[[device]]], ("data", "fsdp", "tensor"))
    spec = jax.sharding.PartitionSpec()

    def kernel(x, out):
        out[...] = x[...] + 1

    def attend(x):
        return pl.pallas_call(
            kernel,
            out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
            compiler_params=triton.CompilerParams(),
            cost_estimate=pl.CostEstimate(flops=10**9, transcendentals=0, bytes_accessed=0),
            name="attention_of_a_test",
        )(x)

    attend = jax.shard_map(attend, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)

    def run(x):
        return jax.lax.scan(lambda c, _: (attend(c), None), x, None, 5)[0]

    at = jax.sharding.NamedSharding(mesh, spec)
    traced = jax.jit(run).trace(jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=at))
    text = traced.lower().compile(topologies.compiler_options("h100")).as_text()
    cost = program_cost(text, gpu_calls.kernel_costs(traced.jaxpr))
    assert cost.kernel_flops == 5e9
    ((call, count),) = cost.calls.items()
    assert (call.kind, call.name, count) == ("pallas", "attention_of_a_test", 5)
    assert call.bytes == 2 * 64 * 64 * 4
    unknown = program_cost(text)
    assert next(iter(unknown.calls)).flops is None and unknown.kernel_flops == 0
    config = tiny_config(**{**KEYS, "model.attention": "fused"})
    assert attention_compiled(config, mesh, text) == "fused"
    assert attention_compiled(config, mesh, "") == "xla"


CALLS = """
ENTRY %main (a: bf16[4,32,64], b: bf16[4,64,16]) -> f32[] {
  %a = bf16[4,32,64]{2,1,0} parameter(0)
  %b = bf16[4,64,16]{2,1,0} parameter(1)
  %q = bf16[2,100,3,64]{3,2,1,0} parameter(2)
  %s = f32[2,3,100]{2,1,0} parameter(3)
  %product.1 = (bf16[4,32,16]{2,1,0}, s8[33554432]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"beta":0,"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],"rhs_contracting_dimensions":["1"]}}}
  %fwd.1 = (bf16[2,3,100,64]{3,1,2,0}, f32[2,3,100]{2,1,0}, u8[0]{0}) custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmax", backend_config={"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["2", "3", "100", "100"]}, "mask_type": "NO_MASK"}
  %bwd.1 = (bf16[2,3,100,64]{3,1,2,0}, bf16[2,3,100,64]{3,1,2,0}, bf16[2,3,100,64]{3,1,2,0}, u8[64]{0}) custom-call(%q, %q, %q, %s, %q, /*index=5*/%q), custom_call_target="__cudnn$fmhaSoftmaxBackward", backend_config={"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["2", "3", "100", "100"]}, "mask_type": "CAUSAL"}
  %first = bf16[4,32,16]{2,1,0} get-tuple-element(%product.1), index=0
  ROOT %sum = f32[] fusion(%first), kind=kLoop, calls=%none
}
"""  # noqa: E501


def test_library_calls_are_counted_by_their_shapes():
    lines = CALLS.splitlines()
    found = [one for one in map(gpu_calls.instruction, lines) if one]
    types = {one.name: one.type for one in found}
    product, forward, backward = (
        call for line in lines if (call := gpu_calls.call_of(line, types, {}))
    )
    assert product.kind == "cublas" and product.flops == 2 * 4 * 32 * 64 * 16
    assert product.bytes == 2 * 4 * (32 * 64 + 64 * 16 + 32 * 16)  # without room to work in
    one = 2 * 2 * 3 * 64  # operations of one product for one pair of positions
    assert forward.kind == "cudnn" and forward.flops == 2 * one * 100 * 100
    assert backward.flops == 5 * one * 100 * 101 / 2
    assert sum(map(gpu_calls.starts_work, found)) == 4


def test_an_estimate_puts_one_kernel_after_another():
    """A call at the bandwidth and one at peak do not overlap, as a roofline of sums supposes."""
    chip = dataclasses.replace(CHIPS["NVIDIA H100 80GB HBM3"], flops=100.0, bandwidth=10.0)
    slow, busy = (
        gpu_calls.Call("cublas", "product", 100.0, 1000.0),
        gpu_calls.Call("cublas", "product", 10000.0, 10.0),
    )
    calls = collections.Counter({slow: 2, busy: 1})
    cost = Cost(flops=10200.0, kernel_flops=10200.0, hbm_bytes=2010.0 + 50.0, calls=calls)
    mesh = SimpleNamespace(devices=SimpleNamespace(flat=[SimpleNamespace(process_index=0)]))
    times = figures._times(cost, chip, mesh, gpu=True)
    assert times["estimated_step_seconds"] == pytest.approx(2 * 100 + 100 + 5)
    assert times["roofline_seconds"] == pytest.approx(206)


def test_a_ring_over_hosts_is_as_fast_as_their_network():
    chip = CHIPS["NVIDIA H100 80GB HBM3"]

    def rate(hosts, gpus):
        flat = [SimpleNamespace(process_index=i) for i in range(hosts) for _ in range(gpus)]
        return figures.link_rate(
            chip, SimpleNamespace(size=hosts * gpus, devices=SimpleNamespace(flat=flat))
        )

    assert rate(1, 8) == chip.links
    assert rate(2, 4) == 4 * chip.network < chip.links
    assert rate(2, 16) == chip.links


STARTED = """
ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %g = ((bf16[4,8]{1,0}), bf16[16,8]{1,0}) all-gather-start(%a), channel_id=1
  %r = ((f32[8,4]{1,0}), f32[2,4]{1,0}) reduce-scatter-start(%a), channel_id=2
  %s = (f32[8,4]{1,0}, f32[3]{0}) all-reduce-start(%a, %b), channel_id=3
}
"""


def test_collectives_that_are_started_early():
    program = _Program(STARTED)
    cost = program.unseen(program.entry)
    gathered, whole, part, summed = 16 * 8 * 2, 8 * 4 * 4, 2 * 4 * 4, (8 * 4 + 3) * 4
    assert cost.collective_bytes == gathered + part + summed
    assert cost.sent_bytes == gathered + whole + 2 * summed


def test_what_cannot_be_compiled_is_one_line(monkeypatch):
    for name in ("h10", "gpu", "rtx:1x1"):
        with pytest.raises(UserError, match=rf"no topology '{name}'.*a100.*b200"):
            topologies.topology_devices(name)
    with pytest.raises(UserError, match="no GPU topology 'h100:8': write it like h100 or h100:2x4"):
        topologies.topology_devices("h100:8")
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="no CUDA compiler.*gpu-compile"):
        topologies.topology_devices("h100")


@needs_compiler
@pytest.mark.skipif(importlib.util.find_spec("nvidia.cudnn") is not None, reason="cuDNN is here")
def test_missing_cudnn_is_one_line():
    config = tiny_config(**{**KEYS, "model.attention": "cudnn"})
    with pytest.raises(UserError, match="no cuDNN.*model.attention=xla"):
        compile_report(config, "h100", "sample")


@needs_compiler
def test_the_compiler_alone_changes_nothing_without_a_gpu():
    """With no platform chosen, JAX would look for the GPU, and print errors."""
    if processes.has_accelerator():
        pytest.skip("there is an accelerator here")
    environ = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    code = "from elf_jax import commands; import jax; print(jax.devices()[0].platform)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert (done.stdout.strip(), done.stderr) == ("cpu", "")
