"""ELF-JAX: Embedded Language Flows in JAX. `elf_jax.commands` has what the command line does."""

import os

__version__ = "0.17.0"

# Read when these libraries are imported. Without them a message of ours drowns in theirs.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
