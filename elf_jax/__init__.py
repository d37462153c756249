"""ELF-JAX: training, sampling and evaluation of Embedded Language Flows (arXiv 2605.10938)."""

__version__ = "0.1.0"
