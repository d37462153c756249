"""T5 directories in Hugging Face format, read and written; the sizes of the published encoders.

T5 stores its matrices [out, in]; our kernels are [in, out].
"""

import dataclasses
import pathlib
import shutil
from functools import partial

import jax
import jax.numpy as jnp

from elf_jax.core.errors import UserError
from elf_jax.networks.t5 import T5Config, T5Encoder
from elf_jax.pretrained.tensors import (
    CONFIG,
    TensorName,
    read_json,
    read_parameters,
    write_model,
)

KIND = "T5"

# Sizes of published models (Hugging Face's config.json). With them a program can be compiled
# without a download. Their tokenizer has 32,000 pieces and 100 sentinels.
PUBLISHED = {
    "t5-small": T5Config(32128, 512, 64, 2048, 6, 8),
    "t5-base": T5Config(32128, 768, 64, 3072, 12, 12),
    "t5-large": T5Config(32128, 1024, 64, 4096, 24, 16),
    "t5-v1_1-small": T5Config(32128, 512, 64, 1024, 8, 6, True, "gelu_new"),
    "t5-v1_1-base": T5Config(32128, 768, 64, 2048, 12, 12, True, "gelu_new"),
    "t5-v1_1-large": T5Config(32128, 1024, 64, 2816, 24, 16, True, "gelu_new"),
}
PUBLISHED_TOKENS = 32100

_ACTIVATIONS = {"relu": (False, "relu"), "gated-gelu": (True, "gelu_new")}
_SIZES = (
    "vocab_size",
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_heads",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
)
_EMBEDDING = "encoder/embed/embedding"
# Encoders that were saved without a decoder have the table under the second name only.
_TABLES = ("shared.weight", "encoder.embed_tokens.weight")
# The parts of one layer in the order of their numbers.
_SUBLAYERS = {
    "encoder": {"self_attention": "SelfAttention", "feed_forward": "DenseReluDense"},
    "decoder": {
        "self_attention": "SelfAttention",
        "cross_attention": "EncDecAttention",
        "feed_forward": "DenseReluDense",
    },
}


def load_t5(directory):
    """Sizes and parameters of the encoder in a T5 directory.

    Args:
      directory: holds config.json and model.safetensors (or its shards and
        model.safetensors.index.json).

    Returns:
      (T5Config, parameters of `T5Encoder` as float32 arrays).

    Raises:
      UserError: a file or a tensor is missing, damaged or does not fit the config.
    """
    config = read_config(directory)
    try:
        shapes = _encoder_shapes(config)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())[:120]
        path = pathlib.Path(directory) / CONFIG
        raise UserError(f"{path} does not describe a {KIND}: {reason}") from None
    name_of = partial(tensor_name, config)
    return config, read_parameters(directory, KIND, {"encoder": shapes}, name_of)["encoder"]


def save_t5(directory, config, params, pad_id, eos_id):
    """Writes a directory that `load_t5` and transformers' T5ForConditionalGeneration read.

    Args:
      directory: is made if it does not exist.
      config: `T5Config`. params: parameters of `T5(config)`.
      pad_id, eos_id: of the tokenizer; the decoder starts from padding.
    """
    sizes = dataclasses.asdict(config)
    gated, activation = sizes.pop("gated"), sizes.pop("activation")
    names = {value: key for key, value in _ACTIVATIONS.items()}
    content = {
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
    write_model(directory, content, params, partial(tensor_name, config))


def copy_t5(directory, target):
    """Copies config.json and the parameters, not the tokenizer, to a new directory `target`."""
    target = pathlib.Path(target)
    target.mkdir()
    for pattern in (CONFIG, "*.safetensors", "*.safetensors.index.json"):
        for file in pathlib.Path(directory).glob(pattern):
            shutil.copyfile(file, target / file.name)


def read_config(directory):
    """The `T5Config` in the config.json of a directory.

    Raises:
      UserError: the file is missing, damaged or of another architecture.
    """
    raw, path = read_json(directory, KIND), pathlib.Path(directory) / CONFIG
    if raw.get("model_type", "t5") not in ("t5", "mt5"):
        raise UserError(f"{path}: model_type is {raw['model_type']!r}; supported are t5 and mt5")
    kind = raw.get("feed_forward_proj", "relu")
    if kind not in list(_ACTIVATIONS):  # it may be anything, also what no dict can look up
        known = ", ".join(_ACTIVATIONS)
        raise UserError(f"{path}: feed_forward_proj is {kind!r}; supported are {known}")
    gated, activation = _ACTIVATIONS[kind]
    names = {field.name for field in dataclasses.fields(T5Config)}
    sizes = {key: value for key, value in raw.items() if key in names and value is not None}
    sizes.setdefault("num_decoder_layers", sizes.get("num_layers", 0))
    # transformers 5 writes "tied" for every T5 and keeps the difference under another name.
    tied = raw.get("scale_decoder_outputs", raw.get("tie_word_embeddings", True))
    sizes.update(gated=gated, activation=activation, tie_word_embeddings=tied)
    try:
        config = T5Config(**sizes)
    except TypeError as error:
        raise UserError(f"{path} does not describe a {KIND}: {error}") from None
    wrong = [f"{name}={sizes[name]!r}" for name in _SIZES if not _is_size(getattr(config, name))]
    if not isinstance(config.layer_norm_epsilon, int | float):
        wrong.append(f"layer_norm_epsilon={config.layer_norm_epsilon!r}")
    if wrong:
        raise UserError(f"{path} does not describe a {KIND}: {', '.join(wrong)}")
    return config


def _is_size(value):
    return isinstance(value, int) and value >= 1


def tensor_name(config, path):
    """The `TensorName` of a parameter of `T5(config)`."""
    stack, *rest = path.split("/")
    if path == _EMBEDDING:
        return TensorName(_TABLES)
    if stack == "lm_head":
        return TensorName(("lm_head.weight",), transposed=True)
    if rest == ["relative_bias"]:
        name = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        return TensorName((name,))
    if rest == ["final_norm", "scale"]:
        return TensorName((f"{stack}.final_layer_norm.weight",))
    _, part, matrix, _ = rest
    layer = f"{stack}.block.{{}}.layer.{list(_SUBLAYERS[stack]).index(part)}"
    if matrix == "norm":
        return TensorName((f"{layer}.layer_norm.weight",))
    if config.gated:
        matrix = {"wi": "wi_0", "wi_value": "wi_1"}.get(matrix, matrix)
    return TensorName((f"{layer}.{_SUBLAYERS[stack][part]}.{matrix}.weight",), transposed=True)


def _encoder_shapes(config):
    """The parameters of the encoder as ShapeDtypeStructs."""
    tokens, mask = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2, 2), bool)
    return jax.eval_shape(T5Encoder(config).init, jax.random.key(0), tokens, mask)["params"]
