"""Peak figures of chips, from their data sheets."""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak figures of one device.

    Attributes:
      flops: dense bfloat16 operations per second.
      bandwidth: bytes of memory traffic per second.
      memory: bytes.
      clock: Hz, of the cycles that the compiler counts; None if it counts none.
      links: bytes per second to other chips, all links together; None if not known.
      network: bytes per second to other hosts, the device's part of what its host has, in NVIDIA's
        own machines (DGX); None: `links` reach all chips.
    """

    flops: float
    bandwidth: float
    memory: float
    clock: float | None = None
    links: float | None = None
    network: float | None = None


# From the data sheets of Google Cloud and NVIDIA. The memory of TPUs is the figure of the TPU
# compiler, that of GPUs is what the driver reports. The clock is the peak divided by the operations
# of all matrix units in one cycle: 131,072 on v5e, 262,144 on v4 and v5p, 524,288 on v6e. The links
# of GPUs are NVLink, in one direction.
CHIPS = {
    "TPU v4": Chip(275e12, 1228e9, 31.25 * GIB, 1.05e9, 300e9),
    "TPU v5 lite": Chip(197e12, 819e9, 15.75 * GIB, 1.5e9, 200e9),
    "TPU v5": Chip(459e12, 2765e9, 95.74 * GIB, 1.75e9, 600e9),
    "TPU v6 lite": Chip(918e12, 1640e9, 31.25 * GIB, 1.75e9, 448e9),
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 1555e9, 39.4 * GIB, None, 300e9, 25e9),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 2039e9, 79.25 * GIB, None, 300e9, 25e9),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 3352e9, 79.11 * GIB, None, 450e9, 50e9),
    "NVIDIA H200": Chip(989e12, 4800e9, 141 * GIB, None, 450e9, 50e9),
    "NVIDIA B200": Chip(2250e12, 7672e9, 178.36 * GIB, None, 900e9, 50e9),
}
