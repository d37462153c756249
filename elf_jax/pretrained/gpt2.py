"""GPT-2 directories in Hugging Face's format, read and written: config.json and safetensors.

One table of names serves both directions; GPT-2 stores its matrices [in, out], as kernels are.
"""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util

from elf_jax.core.errors import UserError
from elf_jax.core.files import write_bytes, write_json
from elf_jax.core.hub import resolve
from elf_jax.networks.gpt2 import ACTIVATIONS, GPT2, GPT2Config
from elf_jax.pretrained.tensors import Tensors

PREFIX = "transformer."  # of every name; models that were saved without their head have none
NAMES = {
    "token_embedding/embedding": "wte.weight",
    "position_embedding/embedding": "wpe.weight",
    "blocks/norm1/scale": "h.{}.ln_1.weight",
    "blocks/norm1/bias": "h.{}.ln_1.bias",
    "blocks/attn/qkv/kernel": "h.{}.attn.c_attn.weight",
    "blocks/attn/qkv/bias": "h.{}.attn.c_attn.bias",
    "blocks/attn/out/kernel": "h.{}.attn.c_proj.weight",
    "blocks/attn/out/bias": "h.{}.attn.c_proj.bias",
    "blocks/norm2/scale": "h.{}.ln_2.weight",
    "blocks/norm2/bias": "h.{}.ln_2.bias",
    "blocks/mlp/in/kernel": "h.{}.mlp.c_fc.weight",
    "blocks/mlp/in/bias": "h.{}.mlp.c_fc.bias",
    "blocks/mlp/out/kernel": "h.{}.mlp.c_proj.weight",
    "blocks/mlp/out/bias": "h.{}.mlp.c_proj.bias",
    "final_norm/scale": "ln_f.weight",
    "final_norm/bias": "ln_f.bias",
}
_FIELDS = tuple(field.name for field in dataclasses.fields(GPT2Config))
_SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner")
# What would change the numbers and is not computed here. (reorder_and_upcast_attn only orders the
# same computation for half precision; the softmax is float32 here in any case.)
_ONLY = {"model_type": "gpt2", "tie_word_embeddings": True, "add_cross_attention": False}


def load_gpt2(directory_or_name):
    """Sizes and parameters of a GPT-2.

    Args:
      directory_or_name: a local directory with config.json and model.safetensors (or its shards
        and model.safetensors.index.json), or a name on the Hugging Face hub.

    Returns:
      (GPT2Config, parameters of `GPT2` as float32 arrays).

    Raises:
      UserError: it is not to be had; a file or a tensor is missing, damaged or does not fit the
        config; the config asks for what `GPT2` does not compute.
    """
    directory = resolve(directory_or_name, "GPT-2")
    config = read_config(directory)
    shapes = traverse_util.flatten_dict(_shapes(config), sep="/")
    flat = {}
    with Tensors(directory, "GPT-2") as tensors:
        prefix = PREFIX if PREFIX + NAMES["token_embedding/embedding"] in tensors else ""
        for ours, theirs in NAMES.items():
            shape = shapes[ours].shape
            if "{}" in theirs:
                layers = [tensors(prefix + theirs.format(i), shape[1:]) for i in range(shape[0])]
                flat[ours] = np.stack(layers)
            else:
                flat[ours] = tensors(prefix + theirs, shape)
    return config, traverse_util.unflatten_dict(flat, sep="/")


def save_gpt2(directory, config, params, eos_id):
    """Writes config.json and model.safetensors that `load_gpt2` and transformers' GPT2LMHeadModel
    read.

    Args:
      directory: is made if need be. config: `GPT2Config`. params: parameters of `GPT2(config)`.
      eos_id: of the tokenizer.
    """
    directory = pathlib.Path(directory)
    tensors = {}
    for ours, leaf in traverse_util.flatten_dict(params, sep="/").items():
        array, theirs = np.asarray(leaf, np.float32), PREFIX + NAMES[ours]
        for index, layer in enumerate(array if "{}" in theirs else array[None]):
            tensors[theirs.format(index)] = np.ascontiguousarray(layer)
    # transformers refuses a file that does not name the framework it is laid out for.
    write_bytes(directory / "model.safetensors", safetensors.numpy.save(tensors, {"format": "pt"}))
    record = {
        "architectures": ["GPT2LMHeadModel"],
        **_ONLY,
        **dataclasses.asdict(config),
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        "bos_token_id": eos_id,
        "eos_token_id": eos_id,
    }
    write_json(directory / "config.json", record)


def read_config(directory):
    """The `GPT2Config` of a directory's config.json.

    Raises:
      UserError: there is none, or it is damaged, impossible or of another architecture.
    """
    path = pathlib.Path(directory) / "config.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: a GPT-2 is a directory with it and model.safetensors")
    try:
        raw = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): copy the file again") from None
    for name, supported in _ONLY.items():
        if raw.get(name, supported) != supported:
            raise UserError(f"{path}: {name} is {raw[name]!r}; supported is {supported!r} alone")
    config = GPT2Config(**{name: raw[name] for name in _FIELDS if name in raw})
    if config.activation_function not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UserError(
            f"{path}: activation_function is {config.activation_function!r}; supported are {known}"
        )
    sizes = {name: getattr(config, name) for name in _SIZES}
    if config.n_inner is None:
        del sizes["n_inner"]
    wrong = [f"{n}={v!r}" for n, v in sizes.items() if not isinstance(v, int) or v < 1]
    if wrong or config.n_embd % config.n_head:
        wrong = wrong or [f"n_embd={config.n_embd}", f"n_head={config.n_head}"]
        raise UserError(f"{path} does not describe a GPT-2: {', '.join(wrong)}")
    return config


def _shapes(config):
    """The tree of the network's parameters as ShapeDtypeStructs."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(GPT2(config).init, jax.random.key(0), tokens)["params"]
