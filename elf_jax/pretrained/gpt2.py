"""GPT-2 directories in Hugging Face format, read and written.

GPT-2 stores its matrices [in, out], like our kernels.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp

from elf_jax.core.errors import UserError
from elf_jax.core.hub import resolve
from elf_jax.networks.gpt2 import ACTIVATIONS, GPT2, GPT2Config
from elf_jax.pretrained.tensors import (
    CONFIG,
    TensorName,
    read_json,
    read_parameters,
    write_model,
)

KIND = "GPT-2"
PREFIX = "transformer."  # before every name, unless the model was saved without its head
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
# Options that change the numbers, with the only value that `GPT2` computes. The option
# reorder_and_upcast_attn is not among them: it makes the softmax float32, as ours always is.
_ONLY = {"model_type": "gpt2", "tie_word_embeddings": True, "add_cross_attention": False}


def load_gpt2(directory_or_name):
    """Sizes and parameters of a GPT-2.

    Args:
      directory_or_name: a local directory with config.json and model.safetensors (or its shards
        and model.safetensors.index.json), or a name on the Hugging Face hub.

    Returns:
      (GPT2Config, parameters of `GPT2` as float32 arrays).

    Raises:
      UserError: the model cannot be found; a file or a tensor is missing, damaged or does not fit
        the config; the config asks for something that `GPT2` does not compute.
    """
    directory = resolve(directory_or_name, KIND)
    config = read_config(directory)
    return config, read_parameters(directory, KIND, _shapes(config), tensor_name)


def save_gpt2(directory, config, params, eos_id):
    """Writes a directory that `load_gpt2` and transformers' GPT2LMHeadModel read.

    Args:
      directory: is made if it does not exist.
      config: `GPT2Config`. params: parameters of `GPT2(config)`.
      eos_id: of the tokenizer.
    """
    content = {
        "architectures": ["GPT2LMHeadModel"],
        **_ONLY,
        **dataclasses.asdict(config),
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        "bos_token_id": eos_id,
        "eos_token_id": eos_id,
    }
    write_model(directory, content, params, tensor_name)


def tensor_name(path):
    """The `TensorName` of a parameter of `GPT2`."""
    return TensorName((PREFIX + NAMES[path], NAMES[path]))


def read_config(directory):
    """The `GPT2Config` in the config.json of a directory.

    Raises:
      UserError: the file is missing, damaged, impossible or of another architecture.
    """
    raw, path = read_json(directory, KIND), pathlib.Path(directory) / CONFIG
    for name, supported in _ONLY.items():
        if raw.get(name, supported) != supported:
            raise UserError(f"{path}: {name} is {raw[name]!r}; only {supported!r} is supported")
    config = GPT2Config(**{name: raw[name] for name in _FIELDS if name in raw})
    if config.activation_function not in list(ACTIVATIONS):  # it may be anything
        known = ", ".join(ACTIVATIONS)
        raise UserError(
            f"{path}: activation_function is {config.activation_function!r}; supported are {known}"
        )
    sizes = {name: getattr(config, name) for name in _SIZES}
    if config.n_inner is None:
        del sizes["n_inner"]
    wrong = [f"{n}={v!r}" for n, v in sizes.items() if not isinstance(v, int) or v < 1]
    if not isinstance(config.layer_norm_epsilon, int | float):
        wrong.append(f"layer_norm_epsilon={config.layer_norm_epsilon!r}")
    if wrong or config.n_embd % config.n_head:
        wrong = wrong or [f"n_embd={config.n_embd}", f"n_head={config.n_head}"]
        raise UserError(f"{path} does not describe a {KIND}: {', '.join(wrong)}")
    return config


def _shapes(config):
    """The parameters of the network as ShapeDtypeStructs."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(GPT2(config).init, jax.random.key(0), tokens)["params"]
