"""Runs the command line as a user types it, in a separate process."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
QUICKSTART = f"--config={ROOT}/configs/quickstart.py"


def cli(*argv, cwd=None, devices=1, optimised=False, env=None):
    """Runs one command; BASE in an argument is replaced by the path of configs/base.py.

    Args:
      cwd: directory to run in. devices: virtual devices of the process.
      optimised: the compiler optimises as for a user, for results that are compared bit for bit.
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
