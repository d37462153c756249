"""A pretrained T5 encoder as a frozen encoder: its parameters, its shapes and how it is run."""

import pathlib

import jax
import jax.numpy as jnp

from elf_jax.core.errors import UserError
from elf_jax.core.hub import resolve
from elf_jax.networks.t5 import T5Encoder
from elf_jax.pretrained.t5 import PUBLISHED, PUBLISHED_TOKENS, load_t5, read_config

WHAT = "T5 encoder (config.encoder.path)"  # for messages


def load(path, vocab_size):
    """(`T5Config`, parameters) of the directory or the name on the hub in config.encoder.path.

    Raises:
      UserError: the files do not load, or the tokenizer has more tokens than the encoder.
    """
    config, params = load_t5(resolve(path, WHAT))
    if vocab_size > config.vocab_size:
        raise UserError(
            f"the tokenizer has {vocab_size} tokens but the encoder in {path} knows "
            f"{config.vocab_size}: set config.data.tokenizer to the encoder's own directory"
        )
    return config, params


def is_published(path):
    """Whether this is the name of a published T5, and not a directory on this disk."""
    return _name(path) in PUBLISHED and not pathlib.Path(path).is_dir()


def _name(path):
    return path.removeprefix("google-t5/").removeprefix("google/")


def describe(path):
    """(`T5Config`, tokens of its tokenizer) without reading parameters.

    For a published T5 that is not on this disk, nothing is read at all.

    Raises:
      UserError: there is no config.json, and no published T5 has this name.
    """
    if is_published(path):
        return PUBLISHED[_name(path)], PUBLISHED_TOKENS
    config = read_config(resolve(path, WHAT))
    return config, config.vocab_size


def shapes(config):
    """The parameters of the encoder as ShapeDtypeStructs."""
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 8, 8), jnp.bool_)
    return jax.eval_shape(T5Encoder(config).init, jax.random.key(0), tokens, mask)["params"]


def make_raw(config, dtype, mesh):
    """`Encoder.raw` of a T5. On a mesh of TPUs or GPUs its attention is a kernel.

    Args:
      config: `T5Config`. dtype: of the matrix products. mesh: the devices, or None.
    """
    has_kernel = mesh is not None and mesh.devices.flat[0].platform in ("tpu", "gpu")
    network = T5Encoder(config, dtype, mesh if has_kernel else None)

    def raw(params, tokens, groups):
        mask = groups if has_kernel else groups.mask()
        return network.apply({"params": params}, tokens, mask)

    return raw
