"""T5 directories in Hugging Face's format, read and written: config.json and safetensors.

One table of names serves both directions. Pickle files are never read.
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
from elf_jax.networks.t5 import T5, T5Config, T5Encoder
from elf_jax.pretrained.tensors import Tensors

WEIGHTS, CONFIG = "model.safetensors", "config.json"

_ACTIVATIONS = {"relu": (False, "relu"), "gated-gelu": (True, "gelu_new")}
_EMBEDDING = "encoder/embed/embedding"
# Encoders that were saved alone have the table under its second name only.
_TABLES = ("shared.weight", "encoder.embed_tokens.weight")
_SUBLAYERS = {
    "encoder": {"self_attention": "SelfAttention", "feed_forward": "DenseReluDense"},
    "decoder": {
        "self_attention": "SelfAttention",
        "cross_attention": "EncDecAttention",
        "feed_forward": "DenseReluDense",
    },
}


def load_t5(directory):
    """Sizes and parameters of the encoder in a Hugging Face T5 directory.

    Args:
      directory: holds config.json and model.safetensors (or its shards and
        model.safetensors.index.json).

    Returns:
      (T5Config, parameters of `T5Encoder` as float32 arrays).

    Raises:
      UserError: the directory, a file or a tensor is missing, damaged or does not fit the config.
    """
    config = read_config(directory)
    return config, _read(directory, config, T5Encoder(config), "encoder/")


def load_t5_with_decoder(directory):
    """Like `load_t5`, with the parameters of the whole `T5`."""
    config = read_config(directory)
    return config, _read(directory, config, T5(config), "")


def save_t5(directory, config, params, pad_id, eos_id):
    """Writes a whole `T5` so that transformers' T5ForConditionalGeneration and `load_t5` read it.

    Args:
      directory: is made if need be.
      config: `T5Config`. params: parameters of `T5(config)`.
      pad_id, eos_id: of the tokenizer; the decoder starts from padding.
    """
    directory = pathlib.Path(directory)
    tensors = {}
    for ours, leaf in traverse_util.flatten_dict(params, sep="/").items():
        theirs, transposed = _tensor_name(ours, config)
        layers = np.asarray(leaf, np.float32)
        for index, array in enumerate(layers if "{}" in theirs else layers[None]):
            array = array.T if transposed else array
            tensors[theirs.format(index)] = np.ascontiguousarray(array)
    # transformers refuses a file that does not name the framework it is laid out for.
    write_bytes(directory / WEIGHTS, safetensors.numpy.save(tensors, {"format": "pt"}))
    sizes = dataclasses.asdict(config)
    gated, activation = sizes.pop("gated"), sizes.pop("activation")
    names = {value: key for key, value in _ACTIVATIONS.items()}
    record = {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        **sizes,
        "feed_forward_proj": names[gated, activation],
        "dropout_rate": 0.0,
        "is_encoder_decoder": True,
        "pad_token_id": pad_id,
        "eos_token_id": eos_id,
        "decoder_start_token_id": pad_id,
    }
    write_json(directory / CONFIG, record)


def read_config(directory):
    """The `T5Config` of a directory's config.json.

    Raises:
      UserError: there is none, or it is damaged or of another architecture.
    """
    path = pathlib.Path(directory) / CONFIG
    if not path.is_file():
        raise UserError(
            f"no T5 encoder at {str(directory)!r}: set config.encoder.path to a local directory "
            "with config.json and model.safetensors"
        )
    try:
        raw = dict(json.loads(path.read_text(encoding="utf-8")))
        if raw.get("model_type", "t5") not in ("t5", "mt5"):
            raise UserError(
                f"{path}: model_type is {raw['model_type']!r}; supported are t5 and mt5"
            )
        gated, activation = _ACTIVATIONS[raw.get("feed_forward_proj", "relu")]
        names = {field.name for field in dataclasses.fields(T5Config)}
        sizes = {key: value for key, value in raw.items() if key in names and value is not None}
        sizes.setdefault("num_decoder_layers", sizes.get("num_layers", 0))
        # transformers 5 writes "tied" for every T5 and keeps the difference under another name.
        tied = raw.get("scale_decoder_outputs", raw.get("tie_word_embeddings", True))
        sizes.update(gated=gated, activation=activation, tie_word_embeddings=tied)
        return T5Config(**sizes)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): copy the file again") from None
    except KeyError as error:
        known = ", ".join(_ACTIVATIONS)
        raise UserError(f"{path}: feed_forward_proj is {error}; supported are {known}") from None
    except TypeError as error:
        raise UserError(f"{path} does not describe a T5 encoder: {error}") from None


def _tensor_name(ours, config):
    """(name in the file, with {} for the layer; whether it is stored [out, in]) of a `T5` path."""
    stack, *rest = ours.split("/")
    if ours == _EMBEDDING:
        return _TABLES[0], False
    if stack == "lm_head":
        return "lm_head.weight", True
    if rest == ["relative_bias"]:
        return f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", False
    if rest == ["final_norm", "scale"]:
        return f"{stack}.final_layer_norm.weight", False
    _, part, matrix, _ = rest
    layer = f"{stack}.block.{{}}.layer.{list(_SUBLAYERS[stack]).index(part)}"
    if matrix == "norm":
        return f"{layer}.layer_norm.weight", False
    if config.gated:
        matrix = {"wi": "wi_0", "wi_value": "wi_1"}.get(matrix, matrix)
    return f"{layer}.{_SUBLAYERS[stack][part]}.{matrix}.weight", True


def _read(directory, config, network, prefix):
    """Parameters of `network`, whose paths in a `T5` begin with `prefix`."""
    try:
        shapes = _shapes(network)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())[:120]
        path = pathlib.Path(directory) / CONFIG
        raise UserError(f"{path} does not describe a T5 encoder: {reason}") from None
    flat = {}
    with Tensors(directory, "T5") as tensors:
        for ours, leaf in traverse_util.flatten_dict(shapes, sep="/").items():
            theirs, transposed = _tensor_name(prefix + ours, config)
            if theirs == _TABLES[0] and theirs not in tensors and _TABLES[1] in tensors:
                theirs = _TABLES[1]
            stacked = "{}" in theirs
            shape = leaf.shape[1:] if stacked else leaf.shape
            shape = shape[::-1] if transposed else shape
            count = leaf.shape[0] if stacked else 1
            layers = np.stack([tensors(theirs.format(i), shape) for i in range(count)])
            layers = layers.swapaxes(1, 2) if transposed else layers
            flat[ours] = layers if stacked else layers[0]
    return traverse_util.unflatten_dict(flat, sep="/")


def _shapes(network):
    """The tree of a network's parameters as ShapeDtypeStructs."""
    tokens, valid = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
    mask = jnp.ones((1, 2, 2), bool)
    arguments = (tokens, mask) if isinstance(network, T5Encoder) else (tokens, mask, valid, tokens)
    return jax.eval_shape(network.init, jax.random.key(0), *arguments)["params"]
