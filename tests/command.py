"""The command line as a user types it, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
QUICKSTART = f"--config={ROOT}/configs/quickstart.py"


def cli(*argv, cwd=None, devices=1, optimised=False, env=None):
    """One command; BASE in an argument stands for configs/base.py.

    Args:
      cwd: directory to run in. devices: virtual devices of the process.
      optimised: with code as optimised as a user's, for results that are compared to the bit.
      env: further environment variables.

    Returns:
      The finished process, with its output as text.
    """
    argv = [argument.replace("BASE", f"{ROOT}/configs/base.py") for argument in argv]
    flags = f"--xla_force_host_platform_device_count={devices}"
    if not optimised:
        flags = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", flags)
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *argv],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "XLA_FLAGS": flags, **(env or {})},
    )
