"""Muon's update of a config's parameters: matrices in batches, compared with optax.

python -m benchmarks.optimizer --config=configs/quickstart.py
"""

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from benchmarks.common import compare, compiled_program, random_method, run
from elf_jax.checkpoints.weights import params_shapes
from elf_jax.core import sharding
from elf_jax.training.muon import scale_by_muon


def main(config):
    """Times one update of all kernels and prints the table."""
    mesh = sharding.make_mesh(config.mesh)
    method, _ = random_method(config, mesh)
    shapes = params_shapes(method, config.data.length)
    flat = traverse_util.flatten_dict(shapes, sep="/")
    kernels = {name: leaf for name, leaf in flat.items() if name.endswith("kernel")}
    keys = jax.random.split(jax.random.key(0), len(kernels))
    grads = {
        name: jax.random.normal(key, leaf.shape)
        for key, (name, leaf) in zip(keys, kernels.items(), strict=True)
    }
    numbers = {
        name: optax.contrib.MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1)
        for name, leaf in grads.items()
    }
    theirs = optax.contrib.muon(1.0, muon_weight_dimension_numbers=numbers)
    dtype = method.dtype
    ours = {"float32": jnp.float32} | ({"bfloat16": jnp.bfloat16} if dtype == jnp.bfloat16 else {})
    optimizers = {"optax, one after another": theirs}
    optimizers |= {f"batches, {name}": scale_by_muon(kind, mesh) for name, kind in ours.items()}
    candidates = {}
    for name, optimizer in optimizers.items():
        state = optimizer.init(grads)
        program = compiled_program(jax.jit(optimizer.update).trace(grads, state, grads))
        candidates[name] = program, lambda p=program, s=state: p.compiled(grads, s, grads)
    count = sum(leaf.size for leaf in grads.values())
    title = f"Muon, {len(grads)} kernels, {count:,} parameters"
    compare(title, candidates, "parameters", count, "optax, one after another")


if __name__ == "__main__":
    run(main, __doc__)
