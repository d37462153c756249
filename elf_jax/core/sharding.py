"""The mesh of devices, and all rules for splitting arrays over it.

Its axes: data splits rows; fsdp splits rows, parameters and everything shaped like parameters;
tensor splits heads and hidden widths. One device is a mesh of size one.
"""

import os
import re

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from elf_jax.core.allowed import BUCKET_PARTS
from elf_jax.core.errors import UserError

AXES = ("data", "fsdp", "tensor")
ROWS = P(("data", "fsdp"))

# Rules for parameters: a pattern for the end of the path, and the mesh axes that split the last
# array axes. The stacked layer axis is never split. The first pattern that matches is used.
RULES = (
    (r"attn/qkv/kernel$|mlp/in/kernel$", ("fsdp", "tensor")),
    (r"attn/out/kernel$|mlp/out/kernel$", ("tensor", "fsdp")),
    (r"attn/qkv/bias$|mlp/in/bias$", ("tensor",)),
    (r"token_table$", (None, "fsdp")),
    (r"unembed/kernel$", ("fsdp", "tensor")),
    (r"unembed/bias$", ("tensor",)),
    (r"kernel$", ("fsdp", None)),
)


def make_mesh(settings, devices=None):
    """The mesh of the config section `mesh`. A size of -1 takes all devices that are left.

    A single process may use fewer devices than there are. Several processes must use all.

    Raises:
      UserError: the sizes do not fit the devices.
    """
    devices = np.asarray(jax.devices() if devices is None else devices)
    sizes = [settings[axis] for axis in AXES]
    asked = " x ".join(str(size) for size in sizes)
    known = int(np.prod([size for size in sizes if size != -1]))
    if sizes.count(-1) > 1 or any(size < 1 for size in sizes if size != -1):
        raise UserError(f"config.mesh is {asked}: sizes are 1 or more, and at most one is -1")
    if -1 in sizes and devices.size % known == 0:
        sizes[sizes.index(-1)] = devices.size // known
    size = int(np.prod(sizes))
    if -1 in sizes or size > devices.size or (size < devices.size and jax.process_count() > 1):
        raise UserError(
            f"config.mesh is {asked} but there are {devices.size} devices: "
            f"data x fsdp x tensor must equal {devices.size}"
        )
    return Mesh(devices[:size].reshape(sizes), AXES)


def hardware(tree):
    """The devices that hold a tree of arrays, in words: "8 x TPU v5 lite", "1 x cpu (2 cores)"."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    devices = arrays[0].sharding.device_set if arrays else jax.devices()
    kind = next(iter(devices)).device_kind
    cores = f" ({_cores()} cores)" if kind == "cpu" else ""
    return f"{len(devices)} x {kind}{cores}"


def _cores():
    """CPU cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # only Linux has it
    return len(allowed(0)) if allowed else os.cpu_count()


def compiler_options(mesh):
    """The compiler options for programs on this mesh, for `jax.jit` and `Lowered.compile`."""
    if mesh.devices.flat[0].platform != "tpu":
        return {}
    # Otherwise the compiler turns large products with a split kernel into loops over its parts, and
    # reads all activations again for every part. ELF-L at 16 rows on each chip and fsdp=32 then
    # moves 20 times the bytes.
    return {
        "xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000",
        # Equal instructions, as those of unrolled layers are, share their code. The code is less
        # than half as large, and takes less time to write.
        "xla_jf_hlo_deduplication": "true",
        "xla_tpu_enable_deduplicated_calls": "true",
    }


def row_shards(mesh):
    """How many parts the rows of a batch are split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def whole_rows(count, mesh):
    """`count` rows, rounded up to a multiple of the number of parts that rows are split into."""
    shards = row_shards(mesh)
    return -(-count // shards) * shards


def check_batch(batch_size, accumulate, mesh, name="config.train.batch_size", buckets=1):
    """Raises UserError unless `batch_size` splits evenly over devices and micro-batches, and over
    the parts that buckets are made of.
    """
    parts = row_shards(mesh) * accumulate
    more = ""
    if buckets > 1:
        parts *= BUCKET_PARTS
        more = f" x {BUCKET_PARTS} parts (config.train.length_buckets)"
    if batch_size < 1 or accumulate < 1 or batch_size % parts:
        near = max(round(batch_size / parts), 1) * parts
        raise UserError(
            f"{name}={batch_size} is not divisible by {row_shards(mesh)} devices x "
            f"{accumulate} micro-batches{more}: use a multiple of {parts}, such as {near}"
        )


def rows(mesh):
    """Sharding of a batch: rows over data and fsdp."""
    return NamedSharding(mesh, ROWS)


def replicated(mesh):
    """Sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def of_kernels(shape, mesh):
    """The sharding that most stacked kernels [layers, inputs, outputs] have."""
    return NamedSharding(mesh, _spec("mlp/in/kernel", shape, mesh))


def of_tree(tree, mesh):
    """Shardings of parameters, or of a tree with subtrees of the same names and shapes.

    Args:
      tree: pytree of arrays or ShapeDtypeStructs, such as parameters, optimiser states, averages.
      mesh: the mesh.
    """

    def leaf_sharding(path, leaf):
        name = "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path)
        return NamedSharding(mesh, _spec(name, np.shape(leaf), mesh))

    return jax.tree_util.tree_map_with_path(leaf_sharding, tree)


def _spec(name, shape, mesh):
    for pattern, axes in RULES:
        if re.search(pattern, name) and len(shape) >= len(axes):
            axes = (None,) * (len(shape) - len(axes)) + axes
            # An axis that does not divide evenly is not split. Nothing is ever padded.
            fits = [
                a if a and n % mesh.shape[a] == 0 else None
                for a, n in zip(axes, shape, strict=True)
            ]
            return P(*fits)
    return P()


def put_rows(batch, mesh):
    """Global arrays from each process's own rows. `batch` is a pytree of numpy arrays."""
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(rows(mesh), np.asarray(array)), batch
    )


def share_rows(batch, mesh):
    """Global arrays from all rows, which every process has. `batch` is a pytree of numpy arrays."""

    def put(array):
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, rows(mesh), lambda index: array[index])

    return jax.tree.map(put, batch)
