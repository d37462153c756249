"""Shared by all tests: eight virtual devices, set before JAX starts, and the golden network."""

import os

# Eight CPU devices in every test process, so that tests of a mesh run the same code as a pod.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The programs of the tests take much longer to compile than to run. So LLVM does not optimise them,
# XLA uses its older emitters of fusions, which compile in less than half the time, and a program
# is not cut into parts that are compiled side by side, because all cores are busy.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    + " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
    + " --xla_cpu_parallel_codegen_split_count=1"
)
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # no test reads them

import atexit  # noqa: E402
import gc  # noqa: E402
import pathlib  # noqa: E402
import shutil  # noqa: E402
import tempfile  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from elf_jax.core import ahead  # noqa: E402
from elf_jax.methods.elf.predictor import Predictor  # noqa: E402
from elf_jax.methods.elf.published import from_published  # noqa: E402
from elf_jax.networks.elf import ELF  # noqa: E402

# Many tests compile the same small programs. With this cache, one compilation is enough for all
# processes of a test run, and if ELF_JAX_TEST_CACHE names a directory, of later runs too.
if "ELF_JAX_TEST_CACHE" not in os.environ:
    os.environ["ELF_JAX_TEST_CACHE"] = tempfile.mkdtemp(prefix="elf-jax-test-cache-")
    atexit.register(shutil.rmtree, os.environ["ELF_JAX_TEST_CACHE"], ignore_errors=True)
# Also set in the environment, so that commands that tests start use the cache.
for _name, _value in {
    "compilation_cache_dir": os.environ["ELF_JAX_TEST_CACHE"],
    "persistent_cache_min_compile_time_secs": 0.0,
    "persistent_cache_min_entry_size_bytes": 0,
}.items():
    os.environ[f"JAX_{_name.upper()}"] = str(_value)
    jax.config.update(f"jax_{_name}", _value)

ahead.IN_BACKGROUND = False  # many tests build a training and make no step
# Tracing makes many objects and little garbage. At its usual pace, the search for garbage takes a
# tenth of the time of the tests.
gc.set_threshold(100_000, 20, 100)
gc.freeze()  # all modules

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="module", autouse=True)
def _rest_of_a_module():
    """Compiled programs stay for the whole run, millions of Python objects. The garbage collector
    does not go through those of earlier modules again.
    """
    yield
    gc.collect(1)  # what is garbage now would be kept for ever
    gc.freeze()


@pytest.fixture(scope="session")
def golden():
    """Loads an .npz of reference numbers by name."""
    return lambda name: dict(np.load(GOLDEN / f"{name}.npz"))


@pytest.fixture(scope="session")
def browser():
    """A `tests.browser.Browser`; the test is skipped where no Chromium is installed."""
    from tests.browser import browser_of_tests

    with browser_of_tests() as started:
        yield started


@pytest.fixture(scope="session")
def pairs_workdir(tmp_path_factory):
    """A workdir of a conditional model with random weights. Tests that change it copy it first."""
    from tests.tiny import pairs_config, save_random_weights, write_pairs

    root = tmp_path_factory.mktemp("pairs")
    return save_random_weights(pairs_config(write_pairs(root / "pairs.jsonl")), root / "run")


@pytest.fixture(scope="module")
def share_programs():
    """Trainings and samplings of the module share what they compile (`tests/shared_programs.py`):
    `pytestmark = pytest.mark.usefixtures("share_programs")`.
    """
    from tests.shared_programs import shared_programs

    with shared_programs():
        yield


@pytest.fixture(scope="session")
def golden_params(golden):
    return from_published(golden("params"))


@pytest.fixture(scope="session")
def golden_predictor():
    """The reference's tiny network: width 48, depth 4, 4 heads, C 32, V 64, bottleneck 8."""
    return Predictor(ELF(latent_width=32, vocab_size=64, depth=4, width=48, heads=4, bottleneck=8))
