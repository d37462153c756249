"""What the CUDA compiler must know of a GPU to compile for it on a machine without one.

The figures are published: the limits of a compute capability in NVIDIA's CUDA programming guide,
the sizes of a chip in its data sheet and in what its driver reports.
"""

import dataclasses

from elf_jax.hardware.chips import CHIPS

# The version of cuDNN that the program is compiled for.
DNN_VERSION = (9, 12, 0)
# The same on all GPUs since compute capability 8.0.
LIMITS = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "threads_per_core_limit": 2048,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
    "shared_memory_per_block": 48 * 1024,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "thread_dim_limit_x": 1024,
    "thread_dim_limit_y": 1024,
    "thread_dim_limit_z": 64,
}


@dataclasses.dataclass(frozen=True)
class GPU:
    """A kind of GPU.

    Attributes:
      kind: its name in CUDA, which JAX has as `device_kind` and `CHIPS` as a key.
      capability: (major, minor) of its compute capability.
      accelerated: whether instructions of this chip alone are used (wgmma, tcgen05), "9.0a".
      cores: streaming multiprocessors.
      fpus: float32 units of a multiprocessor.
      shared_memory: bytes of a multiprocessor; a block can have all but 1 KiB of it.
      l2_cache: bytes.
      clock: GHz at most.
    """

    kind: str
    capability: tuple[int, int]
    accelerated: bool
    cores: int
    fpus: int
    shared_memory: int
    l2_cache: int
    clock: float

    def target_config(self):
        """XLA's description of the GPU, a text proto (GpuTargetConfigProto)."""
        chip = CHIPS[self.kind]
        figures = {
            **LIMITS,
            "core_count": self.cores,
            "fpus_per_core": self.fpus,
            "shared_memory_per_core": self.shared_memory,
            "shared_memory_per_block_optin": self.shared_memory - 1024,
            "l2_cache_size": self.l2_cache,
            "memory_bandwidth": int(chip.bandwidth),
            "device_memory_size": int(chip.memory),
            "clock_rate_ghz": self.clock,
        }
        (major, minor), (dnn, *rest) = self.capability, DNN_VERSION
        extension = "feature_extension: ACCELERATED_FEATURES" if self.accelerated else ""
        return "\n".join(
            [
                "gpu_device_info {",
                *(f"  {name}: {value}" for name, value in figures.items()),
                f"  cuda_compute_capability {{ major: {major} minor: {minor} {extension} }}",
                "}",
                'platform_name: "CUDA"',
                f"dnn_version_info {{ major: {dnn} minor: {rest[0]} patch: {rest[1]} }}",
                f'device_description_str: "{self.kind}"',
            ]
        )


_A100 = (8, 0), False, 108, 64, 164 * 1024, 40 * 2**20, 1.41
_HOPPER = (9, 0), True, 132, 128, 228 * 1024, 50 * 2**20, 1.98
GPUS = {
    "a100": GPU("NVIDIA A100-SXM4-80GB", *_A100),
    "a100-40gb": GPU("NVIDIA A100-SXM4-40GB", *_A100),
    "h100": GPU("NVIDIA H100 80GB HBM3", *_HOPPER),
    "h200": GPU("NVIDIA H200", *_HOPPER),
    "b200": GPU("NVIDIA B200", (10, 0), True, 148, 128, 228 * 1024, 132_644_864, 1.965),
}
