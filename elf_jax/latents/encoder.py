"""Tokens to clean latents: a frozen encoder, its attention mask, and the normalisation (ELF, arXiv
2605.10938).

B batch, L length, C encoder width. A pretrained T5 from a Hugging Face directory (config.json and
safetensors) or the hub, and a frozen Gaussian embedding that needs no download.
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
from jax.experimental import multihost_utils

from elf_jax.core import rng
from elf_jax.core.errors import UserError
from elf_jax.core.files import write_bytes, write_json
from elf_jax.core.hub import resolve
from elf_jax.core.types import AttentionMask, ExampleMask, Latents, Mask, Tokens, typed
from elf_jax.latents.cooccurrence import cooccurrence_embedding
from elf_jax.networks.attention import Groups
from elf_jax.networks.t5 import T5Config, T5Encoder
from elf_jax.pretrained.t5 import load_t5, read_config

KINDS = ("gaussian", "cooccurrence", "t5")
TABLE = "encoder.safetensors"  # in the workdir: the embedding, where it was made from the data
STATISTICS = "encoder_stats.json"  # in the workdir: mean and std, where they were measured
SAMPLE = 2**15  # positions that they are measured on, but at least so many rows:
MIN_ROWS = 16


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


COND, TARGET = 1, 2  # bits of `Groups`


def attention_groups(is_cond, is_valid, drop):
    """Who may attend to whom, as `Groups`.

    A condition token attends to condition tokens only, every other position to every valid token;
    nothing attends to padding. Where the condition is dropped, positions outside it do not attend
    to it.

    Args:
      is_cond, is_valid: [B, L] bool. drop: [B] bool.
    """
    keys = jnp.where(is_cond, COND, TARGET) * is_valid
    others = jnp.where(drop, TARGET, COND | TARGET)[:, None]
    return Groups(jnp.where(is_cond, COND, others).astype(jnp.int32), keys.astype(jnp.int32))


@typed
def attention_mask(is_cond: Mask, is_valid: Mask, drop: ExampleMask) -> AttentionMask:
    """`attention_groups` as a mask, True where a query may attend to a key."""
    return attention_groups(is_cond, is_valid, drop).mask()


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """A frozen encoder.

    Attributes:
      width: C.
      params: its parameters, float32; passed in again at every call so that jit takes them as an
        argument.
      raw: function (params, tokens [B, L], `Groups`) -> [B, L, C].
      mean, std: latents are (raw - mean) / std.
    """

    width: int
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
        raw = self.raw(params, tokens, attention_groups(is_cond, is_valid, drop))
        latents = (raw.astype(jnp.float32) - self.mean) / self.std
        latents = jnp.where((is_cond & drop[:, None])[..., None], 0.0, latents)
        return jax.lax.stop_gradient(latents)


def build_encoder(
    settings, vocab_size, seed=0, dtype=jnp.float32, workdir=None, rows=None, mesh=None
):
    """The encoder of the config section `encoder`.

    Args:
      settings: config section `encoder`.
      vocab_size: tokens of the tokenizer.
      seed: of the Gaussian embedding.
      dtype: of the T5's matrix products.
      workdir: holds what was made from the data, a co-occurrence embedding or the measured mean
        and deviation, once `save_encoder` has put it there.
      rows: training `Rows`, to make either from where there is none.
      mesh: the devices that the T5 runs on.

    Raises:
      UserError: unknown kind, files that do not load, or a tokenizer with more tokens than the
        encoder knows.
    """
    _check(settings)
    if settings.kind != "t5":
        table = _make_table(settings, vocab_size, seed, workdir, rows)
        std = settings.std or 1.0  # which both embeddings are made to have
        return Encoder(table.shape[1], {"table": table}, _look_up, settings.mean, std)
    config, params = load_t5(resolve(settings.path, "T5 encoder (config.encoder.path)"))
    if vocab_size > config.vocab_size:
        raise UserError(
            f"the tokenizer has {vocab_size} tokens but the encoder in {settings.path} knows "
            f"{config.vocab_size}: set config.data.tokenizer to the encoder's own directory"
        )
    raw = _run_t5(config, dtype, mesh)
    encoder = Encoder(config.d_model, params, raw, settings.mean, settings.std)
    if settings.std:
        return encoder
    mean, std = _statistics(encoder, workdir, rows)
    return dataclasses.replace(encoder, mean=mean, std=std)


def _check(settings):
    if settings.kind not in KINDS:
        raise UserError(f"config.encoder.kind is {settings.kind!r}; use one of {', '.join(KINDS)}")
    if settings.std < 0:
        raise UserError(f"config.encoder.std is {settings.std}: it must be above 0, or 0: measured")
    if settings.mean and not settings.std:
        raise UserError(
            f"config.encoder.mean is {settings.mean} but std is 0, which measures both: set both "
            "or neither"
        )


def _statistics(encoder, workdir, rows):
    """(mean, std) of a workdir, or measured; the same on all processes."""
    path = None if workdir is None else pathlib.Path(workdir) / STATISTICS
    if path is not None and path.is_file():
        values = _read_statistics(path)
    elif rows is not None:
        values = measure(encoder, rows)
    else:
        raise UserError(f"{path} is missing: restore it, or train again in another --workdir")
    if jax.process_count() > 1:
        # They become constants of the program, which must be the same one everywhere, although
        # the workdir may be seen by the first process alone.
        values = multihost_utils.broadcast_one_to_all(np.asarray(values, np.float32))
    return tuple(float(value) for value in values)


def _read_statistics(path):
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return float(record["mean"]), float(record["std"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it") from None


def kept_statistics(settings, workdir):
    """(mean, std) that a model in a workdir was trained with, by its config section `encoder`."""
    if settings.kind == "t5" and not settings.std:
        return _read_statistics(pathlib.Path(workdir) / STATISTICS)
    return settings.mean, settings.std or 1.0  # 1 is what both embeddings are made to have


def measure(encoder, rows, positions=SAMPLE):
    """Mean and standard deviation of an encoder's raw output, one number each for all channels.

    Args:
      encoder: an `Encoder`; its own mean and std are left out of it.
      rows: `Rows`; so many of them as make up the sample are taken, evenly spaced, so the same
        rows give the same numbers on every process.
      positions: size of the sample, in positions of rows.

    Returns:
      (mean, std) over the valid positions and all channels, Python floats.

    Raises:
      UserError: the encoder gives the same everywhere, or what is not finite.
    """
    length = rows.take(np.arange(1))["tokens"].shape[1]
    count = min(len(rows), max(positions // length, MIN_ROWS))
    index = np.linspace(0, len(rows) - 1, count).astype(np.int64)
    raw = dataclasses.replace(encoder, mean=0.0, std=1.0)

    @jax.jit
    def sums(params, tokens, is_cond, is_valid):
        keep = jnp.zeros(len(tokens), bool)
        x = raw.encode(params, tokens, is_cond, is_valid, keep)
        x = jnp.where(is_valid[..., None], x, 0.0)
        return jnp.sum(x), jnp.sum(x * x), jnp.sum(is_valid)

    totals = np.zeros(3)
    batch = min(count, max(positions // (2 * length), MIN_ROWS))
    for start in range(0, count, batch):
        part = np.arange(start, start + batch)
        fields = rows.take(index[np.minimum(part, count - 1)])
        # Rows that only fill up the last batch have no valid positions.
        fields["is_valid"] = fields["is_valid"] & (part < count)[:, None]
        totals += np.asarray(jax.device_get(sums(encoder.params, **fields)), np.float64)
    number = totals[2] * encoder.width
    mean = totals[0] / number
    variance = totals[1] / number - mean**2
    if not (np.isfinite(variance) and variance > 0):
        raise UserError(
            f"the encoder's output has mean {mean} and variance {variance}: it cannot be "
            "normalised; check the files that config.encoder.path names"
        )
    # What several processes tell each other is float32, so one alone keeps no more than that.
    return float(np.float32(mean)), float(np.float32(np.sqrt(variance)))


def _run_t5(config, dtype, mesh):
    """`Encoder.raw` of a T5; with a mesh of TPUs its attention is a kernel."""
    on_tpu = mesh is not None and mesh.devices.flat[0].platform == "tpu"
    network = T5Encoder(config, dtype, mesh if on_tpu else None)

    def raw(params, tokens, groups):
        mask = groups if on_tpu else groups.mask()
        return network.apply({"params": params}, tokens, mask)

    return raw


def describe_encoder(config, dtype=jnp.float32, mesh=None):
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
            sizes = read_config(resolve(settings.path, "T5 encoder (config.encoder.path)"))
            vocab_size = sizes.vocab_size
        tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
        mask = jax.ShapeDtypeStruct((1, 8, 8), jnp.bool_)
        init = T5Encoder(sizes, dtype).init
        params = jax.eval_shape(init, jax.random.key(0), tokens, mask)["params"]
        width, raw = sizes.d_model, _run_t5(sizes, dtype, mesh)
    else:
        params, raw = {"table": jax.ShapeDtypeStruct((vocab_size, width), jnp.float32)}, _look_up
    return vocab_size, Encoder(width, params, raw, settings.mean, settings.std or 1.0)


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
    """Keeps what was made from the data, the embedding or the statistics, in the workdir; what is
    there already stays.
    """
    path = pathlib.Path(workdir) / TABLE
    if settings.kind != "t5" and not path.is_file():
        table = np.asarray(encoder.params["table"])
        write_bytes(path, safetensors.numpy.save({"table": table}))
    path = pathlib.Path(workdir) / STATISTICS
    if settings.kind == "t5" and not settings.std and not path.is_file():
        write_json(path, {"mean": encoder.mean, "std": encoder.std})


def _look_up(params, tokens, groups):
    del groups  # the Gaussian embedding knows no context
    return params["table"][tokens]
