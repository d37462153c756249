"""Connects the processes of a job. A single process needs no connection and gets none.

On Cloud TPU, GKE, SLURM and Open MPI, `jax.distributed` finds addresses and ranks by itself. But it
does not tell whether there are several processes, and it fails on a laptop. So this module finds
out first. Elsewhere the user sets JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

The command line needs this module, and answers mistakes before JAX is imported, which takes
seconds. So JAX is imported where it is used.
"""

import glob
import importlib.metadata
import importlib.util
import json
import os
import pkgutil
import sys
import urllib.error
import urllib.request

from elf_jax.core.errors import UserError, explain

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# SLURM and Open MPI: the number of processes. SLURM sets it only for programs started by srun.
COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
# Device files of TPUs (the TPU library looks for the same ones) and of NVIDIA GPUs (dxg: in WSL).
DEVICE_FILES = ("accel[0-9]*", "vfio/[0-9]*", "nvidia[0-9]*", "nvidiactl", "dxg")
# Plugins for the same GPUs. They are also installed to compile for GPUs that are not there.
CUDA_PLUGINS = {"jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"}
# The class of a device on the PCI bus, and the classes of accelerators.
PCI_CLASSES = "/sys/bus/pci/devices/*/class"
ACCELERATORS = "0x12"
WORKERS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"


def start():
    """Joins the other processes, if there are several. Then only the first one prints; the others
    print nothing but errors. Call it before any computation.
    """
    if initialize() and index() > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        os.environ["TQDM_DISABLE"] = "1"


def skip_missing_tpu(environ=os.environ):
    """Keeps JAX from starting the TPU library on a machine without a TPU, where it prints errors.

    Call it before the first array or `jax.devices()`: later it does nothing. It changes nothing if
    the platforms are chosen already: by the user in JAX_PLATFORMS (an empty value counts), or by
    JAX, which chooses "tpu,cpu" at import if it finds a TPU.
    """
    jax = sys.modules.get("jax")  # which reads the variable when it is imported
    chosen = environ.get("JAX_PLATFORMS") if jax is None else jax.config.jax_platforms
    if chosen is not None or has_accelerator(environ):
        return
    if jax is None:
        environ["JAX_PLATFORMS"] = "cpu"
    else:
        jax.config.update("jax_platforms", "cpu")


def has_accelerator(environ=os.environ):
    """True if this machine may have a TPU, a GPU or another device that JAX has a plugin for."""
    return bool(
        any(glob.glob(f"/dev/{name}") for name in DEVICE_FILES)
        or any(_class(path).startswith(ACCELERATORS) for path in glob.glob(PCI_CLASSES))
        or environ.get("PJRT_NAMES_AND_LIBRARY_PATHS")
        or not _plugins() <= CUDA_PLUGINS
    )


def _plugins():
    """Names of the modules of JAX's plugins that are installed."""
    package = importlib.util.find_spec("jax_plugins")
    places = package.submodule_search_locations if package else None
    found = {f"jax_plugins.{module.name}" for module in pkgutil.iter_modules(places or [])}
    points = importlib.metadata.entry_points(group="jax_plugins")
    return found | {point.value for point in points}


def _class(path):
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def initialize(environ=os.environ, has_tpu=None, endpoints=None):
    """Starts `jax.distributed` if this process is one of several. Call it before any computation.

    Args:
      environ: the environment variables.
      has_tpu: function () -> bool; endpoints: function () -> the TPU workers, comma-separated.
        Both ask the machine by default.

    Returns:
      True if it was started.

    Raises:
      UserError: only some of the JAX_... variables are set, or one is not a number.
    """
    given = [name for name in EXPLICIT if environ.get(name)]
    if len(given) == len(EXPLICIT):
        try:
            count, number = int(environ[EXPLICIT[1]]), int(environ[EXPLICIT[2]])
        except ValueError:
            raise UserError(f"{EXPLICIT[1]} and {EXPLICIT[2]} must be numbers") from None
        if count > 1:
            _distributed().initialize(environ[EXPLICIT[0]], count, number)
        return count > 1
    if len(given) > 1:
        missing = ", ".join(name for name in EXPLICIT if name not in given)
        raise UserError(f"{' and '.join(given)} set but not {missing}: set all three or none")
    several = any(int(environ.get(name) or 1) > 1 for name in COUNTS)
    if not several and environ.get("JAX_PLATFORMS", "tpu") != "cpu":
        several = _several_tpu_workers(environ, has_tpu or _has_tpu, endpoints or _endpoints)
    if several:
        _distributed().initialize()
    return several


def _distributed():
    import jax

    return jax.distributed


def index():
    """The number of this process in its job, from 0. It starts JAX's devices."""
    import jax

    return jax.process_index()


def count():
    """The number of processes of the job."""
    import jax

    return jax.process_count()


def is_first():
    """Whether this is the first process of the job, which prints and writes."""
    return index() == 0


def barrier(name):
    """Waits until all processes have called it with this name."""
    if count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def share(value):
    """The `value` of the first process, on all processes. It may be anything that JSON can hold."""
    if count() == 1:
        return value
    import numpy as np
    from jax.experimental import multihost_utils

    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    # All processes must pass the same shape. The values of the others are not used.
    data = data if is_first() else np.resize(data, size)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(data)).tobytes())


def on_first(make):
    """The result of `make()` on the first process; None on the others.

    What the user must mend there is raised on all processes. Otherwise the others would wait for
    the first one for ever.

    Raises:
      UserError: of `make()`, or one that explains its error of the operating system.
    """
    value = fault = None
    if is_first():
        try:
            value = make()
        except (UserError, OSError) as error:
            if count() == 1:
                raise
            fault = (None if isinstance(error, UserError) else explain(error)) or str(error)
    fault = share(fault)
    if fault is not None:
        raise UserError(fault)
    return value


def _several_tpu_workers(environ, has_tpu, endpoints):
    if int(environ.get("MEGASCALE_NUM_SLICES") or 1) > 1:
        return True
    names = next((environ[name] for name in WORKERS if environ.get(name)), None)
    if names is None and has_tpu() and "TPU_SKIP_MDS_QUERY" not in environ:
        names = endpoints()
    return len((names or "").split(",")) > 1


def _has_tpu():
    return bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))


def _endpoints():
    """The slice's workers from Google's metadata server, comma-separated; "" without a server."""
    request = urllib.request.Request(_METADATA, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=3) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, TimeoutError, OSError):
        return ""
