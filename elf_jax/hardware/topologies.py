"""Devices that need not exist: TPU slices and GPUs to compile programs for.

v5p:2x4x4    a TPU slice, compiled for by libtpu
h100         one GPU, compiled for by JAX's CUDA plugin
h100:2x4     2 hosts with 4 GPUs each
"""

import importlib.util
import os
import re

import jax
from jax.experimental import topologies

from elf_jax.core.errors import UserError
from elf_jax.hardware.gpu_targets import GPUS

EXAMPLES = f"v5p:2x4x4 or v5e:8x8 for TPUs, h100 or h100:2x4 for GPUs ({', '.join(GPUS)})"
_SIZES = re.compile(r"[1-9]\d*x[1-9]\d*")


def topology_devices(topology):
    """The devices of a topology, which need not exist; for "", the devices of this machine.

    Programs for them are compiled with `compiler_options(topology)`.

    Raises:
      UserError: there is no such topology, or no compiler for it.
    """
    if not topology:
        return jax.devices()
    # Otherwise JAX looks for devices of the compilers that are installed, and prints long errors.
    jax.config.update("jax_platforms", "cpu")
    return _gpus(topology) if _is_gpu(topology) else _slice(topology)


def compiler_options(topology):
    """The options that a program for `topology_devices(topology)` needs, beside those of its mesh,
    for `Lowered.compile`.
    """
    if not _is_gpu(topology):
        return {}
    return {
        # Tiles cannot be timed here. Without times the generator of products finds none.
        "xla_gpu_autotune_level": "0",
        "xla_gpu_enable_triton_gemm": "False",
        "xla_gpu_cuda_data_dir": _cuda_directory(),
    }


def _is_gpu(topology):
    return topology.partition(":")[0] in GPUS


def _gpus(topology):
    name, colon, sizes = topology.partition(":")
    if colon and not _SIZES.fullmatch(sizes):
        raise UserError(f"no GPU topology {topology!r}: write it like {name} or {name}:2x4")
    directory = _cuda_directory()
    if not importlib.util.find_spec("jax_plugins.xla_cuda13") or not directory:
        raise UserError(
            f"no CUDA compiler for {topology!r}: install it with pip install -e '.[gpu-compile]' "
            "(a GPU is not needed)"
        )
    tools = os.path.join(directory, "bin")
    if tools not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([tools, os.environ.get("PATH", "")])
    # Partitions are groups of hosts with fast links between them. One has all hosts here.
    description = topologies.get_topology_desc(
        "",
        platform="cuda",
        topology=f"1x{sizes or '1x1'}",
        target_config=GPUS[name].target_config(),
    )
    return description.devices


def _cuda_directory():
    """The directory of CUDA's assembler and device library, of NVIDIA's wheels; None without."""
    found = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.cu13")
    for directory in found.submodule_search_locations if found else ():
        if os.path.exists(os.path.join(directory, "bin", "ptxas")):
            return directory
    return None


def _slice(topology):
    # Otherwise libtpu asks this machine for these values, and prints errors without an answer.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5p-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no machine to ask
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # there is no device to lock
    # The two cores of a v4 chip are one device in JAX on Cloud TPU, but not by default here.
    options = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
    try:
        return topologies.get_topology_desc(topology, platform="tpu", **options).devices
    except (RuntimeError, ValueError, jax.errors.JaxRuntimeError) as error:
        if not re.match(r"(v|tpu)\d", topology):
            raise UserError(f"no topology {topology!r}: write it like {EXAMPLES}") from None
        raise UserError(
            f"no TPU topology {topology!r} ({' '.join(str(error).split())[:120]}): write it like "
            "v5p:2x4x4 or v5e:8x8, and install the compiler with pip install -e '.[tpu]'"
        ) from None
