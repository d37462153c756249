"""Tokens to clean latents: a frozen encoder, its attention mask, and the normalisation (ELF, arXiv
2605.10938).

B batch, L length, C encoder width. A pretrained T5 from a Hugging Face directory (config.json and
safetensors; pickle files are never read), and a frozen Gaussian embedding that needs no download.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from elf_jax import rng
from elf_jax.data.cooccurrence import cooccurrence_embedding
from elf_jax.errors import UserError
from elf_jax.files import write_bytes
from elf_jax.networks.t5 import T5Config, T5Encoder
from elf_jax.safetensors_files import Tensors
from elf_jax.types import AttentionMask, ExampleMask, Latents, Mask, Tokens, typed

KINDS = ("gaussian", "cooccurrence", "t5")
TABLE = "encoder.safetensors"  # in the workdir: the embedding, where that is the encoder

_TABLES = ("shared.weight", "encoder.embed_tokens.weight")
_ACTIVATIONS = {"relu": (False, "relu"), "gated-gelu": (True, "gelu_new")}


# Sizes of the published encoders (Hugging Face's config.json), so that a program can be compiled
# without a download; their tokenizer has 32,000 pieces and 100 sentinels.
PUBLISHED = {
    "t5-small": T5Config(32128, 512, 64, 2048, 6, 8),
    "t5-base": T5Config(32128, 768, 64, 3072, 12, 12),
    "t5-large": T5Config(32128, 1024, 64, 4096, 24, 16),
    "t5-v1_1-small": T5Config(32128, 512, 64, 1024, 8, 6, True, "gelu_new"),
    "t5-v1_1-base": T5Config(32128, 768, 64, 2048, 12, 12, True, "gelu_new"),
    "t5-v1_1-large": T5Config(32128, 1024, 64, 2816, 24, 16, True, "gelu_new"),
}
PUBLISHED_TOKENS = 32100


@typed
def attention_mask(is_cond: Mask, is_valid: Mask, drop: ExampleMask) -> AttentionMask:
    """True where a query may attend to a key.

    A condition token attends to condition tokens only, every other position to every valid token;
    nothing attends to
    padding. Where the condition is dropped, positions outside it do not attend to it.
    """
    query, key = is_cond[:, :, None], is_cond[:, None, :]
    allowed = jnp.where(query, key, ~key | ~drop[:, None, None])
    return allowed & is_valid[:, None, :]


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """A frozen encoder.

    Attributes:
      width: C. vocab_size: tokens that it knows.
      params: its parameters, float32; passed in again at every call so that jit takes them as an
        argument.
      raw: function (params, tokens [B, L], mask [B, L, L]) -> [B, L, C].
      mean, std: latents are (raw - mean) / std.
    """

    width: int
    vocab_size: int
    params: dict
    raw: Callable
    mean: float
    std: float

    @typed
    def encode(
        self, params, tokens: Tokens, is_cond: Mask, is_valid: Mask, drop: ExampleMask
    ) -> Latents:
        """Clean latents, [B, L, C] float32; zero at the condition of examples where it is
        dropped.
        """
        raw = self.raw(params, tokens, attention_mask(is_cond, is_valid, drop))
        latents = (raw.astype(jnp.float32) - self.mean) / self.std
        latents = jnp.where((is_cond & drop[:, None])[..., None], 0.0, latents)
        return jax.lax.stop_gradient(latents)


def build_encoder(settings, vocab_size, seed=0, dtype=jnp.float32, workdir=None, rows=None):
    """The encoder of the config section `encoder`.

    Args:
      settings: config section `encoder`.
      vocab_size: tokens of the tokenizer.
      seed: of the Gaussian embedding.
      dtype: of the T5's computation.
      workdir: holds an embedding once `save_encoder` has put it there.
      rows: training `Rows`, to make a co-occurrence embedding from where there is none.

    Raises:
      UserError: unknown kind, files that do not load, or a tokenizer with more tokens than the
        encoder knows.
    """
    if settings.std <= 0:
        raise UserError(f"config.encoder.std is {settings.std}: it must be above 0")
    if settings.kind not in KINDS:
        raise UserError(f"config.encoder.kind is {settings.kind!r}; use one of {', '.join(KINDS)}")
    if settings.kind != "t5":
        table = _make_table(settings, vocab_size, seed, workdir, rows)
        params, width = {"table": table}, table.shape[1]
        return Encoder(width, vocab_size, params, _look_up, settings.mean, settings.std)
    config, params = load_t5(settings.path)
    if vocab_size > config.vocab_size:
        raise UserError(
            f"the tokenizer has {vocab_size} tokens but the encoder in {settings.path} knows "
            f"{config.vocab_size}: set config.data.tokenizer to the encoder's own directory"
        )
    network = T5Encoder(config, dtype)

    def raw(params, tokens, mask):
        return network.apply({"params": params}, tokens, mask)

    return Encoder(config.d_model, config.vocab_size, params, raw, settings.mean, settings.std)


def describe_encoder(config, dtype=jnp.float32):
    """(V, an `Encoder` with shapes in place of its parameters) of a whole config; nothing is read
    but a T5's config.json, if it is at hand.

    Raises:
      UserError: a T5 that is neither here nor one of the published ones.
    """
    settings = config.encoder
    vocab_size, width = config.data.vocab_size, settings.width
    if settings.kind == "t5":
        name = settings.path.removeprefix("google-t5/").removeprefix("google/")
        if name in PUBLISHED and not pathlib.Path(settings.path).is_dir():
            sizes, vocab_size = PUBLISHED[name], PUBLISHED_TOKENS
        else:
            sizes = _read_config(pathlib.Path(settings.path))
            vocab_size = sizes.vocab_size
        network, width = T5Encoder(sizes, dtype), sizes.d_model
        tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
        mask = jax.ShapeDtypeStruct((1, 8, 8), jnp.bool_)
        params = jax.eval_shape(network.init, jax.random.key(0), tokens, mask)["params"]

        def raw(params, tokens, mask):
            return network.apply({"params": params}, tokens, mask)
    else:
        params, raw = {"table": jax.ShapeDtypeStruct((vocab_size, width), jnp.float32)}, _look_up
    return vocab_size, Encoder(width, vocab_size, params, raw, settings.mean, settings.std)


def _make_table(settings, vocab_size, seed, workdir, rows):
    """[V, C] float32: Gaussian channels, those from co-occurrence in front if there are any."""
    if settings.width < 1:
        raise UserError(f"config.encoder.width is {settings.width}; it must be 1 or more")
    if not 0 < settings.structured <= 1:
        raise UserError(f"config.encoder.structured is {settings.structured}; use above 0, up to 1")
    path = None if workdir is None else pathlib.Path(workdir) / TABLE
    if path is not None and path.is_file():
        return _read_table(path, (vocab_size, settings.width))
    table = rng.stream(jax.random.key(seed), "encoder")
    table = np.array(jax.random.normal(table, (vocab_size, settings.width)))
    if settings.kind == "gaussian":
        return table
    if rows is None and path is None:
        raise UserError(
            "config.encoder.kind is cooccurrence, which is made from training data, and there is "
            "none here: name the workdir or the exported directory of the model"
        )
    if rows is None:
        raise UserError(f"{path} is missing: restore it, or train again in another --workdir")
    structured = round(settings.width * settings.structured)
    table[:, :structured] = cooccurrence_embedding(rows, vocab_size, structured)
    return table


def _read_table(path, shape):
    try:
        table = safetensors.numpy.load_file(path)["table"]
    except (safetensors.SafetensorError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it") from None
    if table.shape != shape:
        raise UserError(
            f"{path} is an embedding of shape {table.shape}, and {shape} by the config: set "
            f"config.encoder.width={table.shape[1]} and use its own tokenizer of {table.shape[0]}"
        )
    return table


def save_encoder(encoder, settings, workdir):
    """Keeps an embedding in the workdir, so that no other data, seed or device makes it anew; one
    that is there already stays.
    """
    path = pathlib.Path(workdir) / TABLE
    if settings.kind != "t5" and not path.is_file():
        table = np.asarray(encoder.params["table"])
        write_bytes(path, safetensors.numpy.save({"table": table}))


def _look_up(params, tokens, mask):
    del mask  # the Gaussian embedding knows no context
    return params["table"][tokens]


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
    directory = pathlib.Path(directory)
    config = _read_config(directory)
    with Tensors(directory, "T5") as tensors:
        return config, _parameters(config, tensors)


def _read_config(directory):
    path = directory / "config.json"
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
        sizes = {key: value for key, value in raw.items() if key in names}
        return T5Config(**{**sizes, "gated": gated, "activation": activation})
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): copy the file again") from None
    except KeyError as error:
        known = ", ".join(_ACTIVATIONS)
        raise UserError(f"{path}: feed_forward_proj is {error}; supported are {known}") from None
    except TypeError as error:
        raise UserError(f"{path} does not describe a T5 encoder: {error}") from None


def _parameters(config, tensors):
    """Reads every tensor of the encoder; PyTorch's [out, in] matrices become kernels [in, out]."""
    width, inner, hidden = config.d_model, config.num_heads * config.d_kv, config.d_ff
    attention, feed_forward = "layer.0.SelfAttention", "layer.1.DenseReluDense"
    matrices = {
        "q": (f"{attention}.q", inner, width),
        "k": (f"{attention}.k", inner, width),
        "v": (f"{attention}.v", inner, width),
        "o": (f"{attention}.o", width, inner),
        "wo": (f"{feed_forward}.wo", width, hidden),
    }
    if config.gated:
        matrices["wi"] = (f"{feed_forward}.wi_0", hidden, width)
        matrices["wi_gate_value"] = (f"{feed_forward}.wi_1", hidden, width)
    else:
        matrices["wi"] = (f"{feed_forward}.wi", hidden, width)
    norms = {"attn_norm": "layer.0.layer_norm", "mlp_norm": "layer.1.layer_norm"}

    def stack(name, shape):
        depth = range(config.num_layers)
        return np.stack([tensors(f"encoder.block.{i}.{name}.weight", shape) for i in depth])

    # Encoders that were saved alone have the table under its other name only.
    table = next((name for name in _TABLES if name in tensors), _TABLES[0])
    flat = {
        "embed/embedding": tensors(table, (config.vocab_size, width)),
        "relative_bias": tensors(
            f"encoder.block.0.{attention}.relative_attention_bias.weight",
            (config.relative_attention_num_buckets, config.num_heads),
        ),
        "final_norm/scale": tensors("encoder.final_layer_norm.weight", (width,)),
    }
    for ours, (name, *shape) in matrices.items():
        flat[f"blocks/{ours}/kernel"] = stack(name, tuple(shape)).swapaxes(1, 2)
    for ours, name in norms.items():
        flat[f"blocks/{ours}/scale"] = stack(name, (width,))
    return traverse_util.unflatten_dict(flat, sep="/")
