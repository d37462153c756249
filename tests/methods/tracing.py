"""Counts how often a sampler is compiled."""

import contextlib

import pytest

from elf_jax.methods.elf.method import ELFMethod


@contextlib.contextmanager
def traced_samplers():
    """Yields a list. The section `sample` of every sampler traced in the context is added to it.

    `jax.jit` runs the Python code of a sampler once for each compilation.
    """
    traced, make = [], ELFMethod.sampler

    def counted(method, settings, length, watch=None):
        sampler = make(method, settings, length, watch)

        def run(*inputs):
            traced.append(settings)
            return sampler(*inputs)

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ELFMethod, "sampler", counted)
        yield traced
