"""Loads the parameters of a model from any origin, compares them with the config, and places them
on a mesh.

If they do not fit, the message says which config key to change.
"""

import jax
import jax.numpy as jnp
from flax import traverse_util

from elf_jax.checkpoints.experiment import Checkpoints, abstract
from elf_jax.checkpoints.export import read_export
from elf_jax.checkpoints.origins import load_config
from elf_jax.checkpoints.published import load_published
from elf_jax.core import sharding
from elf_jax.core.errors import UserError
from elf_jax.methods.registry import kept_meaning


def check_meaning(origin, method):
    """Raises UserError if weights were trained in another setting that their shapes do not show,
    such as another latent space. Published checkpoints do not tell how they were trained.

    Args:
      origin: an `Origin`. method: the `Method` built from the config.
    """
    if origin.home is None:
        return
    there, here = kept_meaning(load_config(origin), origin.home), method.meaning()
    for key, now in here.items():
        if there[key] != now:
            raise UserError(
                f"{origin.name} was trained with {key} {there[key]}, and it is {now} by the "
                f"config: set config.{key}={there[key]}"
            )


def load_weights(origin, config, method, mesh, weights, target=None):
    """The parameters of an origin, placed on the mesh.

    Args:
      origin: an `Origin`. config: whole config. method: the `Method` built from it.
      mesh: the devices. weights: "ema" or "live". target: `described_params`, if it is at hand.

    Returns:
      (params, progress, step): progress has train_seconds, None if it is not known.

    Raises:
      UserError: there are no weights, they are damaged, or they do not fit the config.
    """
    check_meaning(origin, method)
    target = described_params(config, method, mesh) if target is None else target
    if origin.kind == "workdir":
        return _from_workdir(origin, target, config, method, weights)
    if origin.kind == "export":
        params, info = read_export(origin.path, weights)
        progress, step = {"train_seconds": info.train_seconds}, info.step
    else:
        params, step = load_published(origin.path, weights, method.from_published)
        progress = {"train_seconds": None}
    check_shapes(origin, params, target, config, method)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
    return jax.device_put(params, shardings), progress, step


def described_params(config, method, mesh):
    """The parameters of a method on a mesh as ShapeDtypeStructs with shardings."""
    shapes = params_shapes(method, config.data.length)
    return abstract(shapes, sharding.of_tree(shapes, mesh))


def params_shapes(method, length):
    """The tree of a method's parameters as ShapeDtypeStructs, for rows of `length` positions."""
    return jax.eval_shape(lambda key: method.init(key, length), jax.random.key(0))


def _from_workdir(origin, target, config, method, weights):
    checkpoints = Checkpoints(origin.path, create=False)
    try:
        if checkpoints.latest() is None:
            raise UserError(
                f"no checkpoint in {origin.name!r}: train first, or name another --workdir"
            )
        there = checkpoints.params_shapes(weights, origin.step)
        check_shapes(origin, there, target, config, method)
        return checkpoints.restore_params(target, weights, origin.step)
    finally:
        checkpoints.close()


def check_shapes(origin, there, wanted, config, method):
    """Raises UserError if parameters do not have the shapes that the config asks for.

    Args:
      there, wanted: trees whose leaves have a shape.
      config, method: whole config and its `Method`, to find the remedy.
    """
    there, wanted = _shapes(there), _shapes(wanted)
    differ = [name for name in sorted(there | wanted) if there.get(name) != wanted.get(name)]
    if not differ:
        return
    for name, axis, key in method.sizes:
        same_rank = name in there and len(there[name]) == len(wanted.get(name, ()))
        if same_rank and there[name][axis] != wanted[name][axis]:
            raise UserError(
                f"{origin.name} does not fit the config: parameter {name} is {there[name]} there "
                f"and {wanted[name]} by the config: {_remedy(key, there, axis, name, config)}"
            )
    name = differ[0]
    raise UserError(
        f"{origin.name} does not fit the network: parameter {name} is "
        f"{there.get(name, 'missing')} there and {wanted.get(name, 'missing')} by the config: use "
        "another checkpoint"
    )


def _remedy(key, there, axis, name, config):
    size = there[name][axis]
    if key == "data.tokenizer":
        return f"set config.data.tokenizer to that of the checkpoint, which has {size} tokens"
    if key == "encoder.width" and config.encoder.kind == "t5":
        return f"set config.encoder.path to that of the checkpoint, which has width {size}"
    if key == "model.heads":  # the parameter shows the width of a head
        size = there["blocks/attn/out/kernel"][1] // size
    return f"set config.{key}={size}"


def _shapes(tree):
    return {
        name: tuple(leaf.shape) for name, leaf in traverse_util.flatten_dict(tree, sep="/").items()
    }


@jax.jit
def _checksum(params):
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(params):
        # Odd factors that depend on the position, so that swapped values change the sum.
        factor = jnp.ones((), jnp.uint32)
        for axis in range(leaf.ndim):
            place = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
            factor = factor * 31 + 2 * place
        bits = jax.lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.uint32)
        total = total * 31 + jnp.sum(bits * factor, dtype=jnp.uint32)
    return total


def fingerprint(params):
    """Eight hexadecimal digits that identify parameters: a checksum of their bits.

    It is computed with integers, so it does not depend on how they are split over devices.
    """
    return f"{int(jax.device_get(_checksum(params))):08x}"
