"""The device of a session, and the attentions that are measured on it.

python -m benchmarks.session.device

The last line of its output is the platform and the names of the attentions, that of
model.attention=auto first.
"""

import platform

import jax
import jax.numpy as jnp

from benchmarks.session import results
from elf_jax.core import processes
from elf_jax.networks.attention import IMPLEMENTATIONS, choose


def main():
    """Prints the device and keeps it."""
    processes.skip_missing_tpu()
    first = jax.devices()[0]
    versions = {"jax": jax.__version__, "Python": platform.python_version()}
    results.keep({"device": first.device_kind, "platform": first.platform, **versions})
    auto = choose("auto", first.platform, jnp.bfloat16, 12, 64)
    # On a CPU the kernels are interpreted, and there is no cuDNN.
    known = IMPLEMENTATIONS if first.platform != "cpu" else (auto,)
    others = [name for name in known if name not in ("auto", auto)]
    print(", ".join([first.device_kind, *(" ".join(pair) for pair in versions.items())]))
    print(first.platform, auto, *others)


if __name__ == "__main__":
    main()
