"""The frozen encoder that a config asks for: built, described without its files, kept.

There are three kinds: a pretrained T5 (a Hugging Face directory or a name on the hub), a Gaussian
embedding, and an embedding from co-occurrences in the training data.
"""

import dataclasses

import jax.numpy as jnp

from elf_jax.data.tokenizer import load_tokenizer
from elf_jax.data.tokenizer import vocab_size as size_of
from elf_jax.data.tokenizer_training import TRAINED
from elf_jax.latents import embedding, statistics, t5
from elf_jax.latents.encoder import Encoder


def build_encoder(
    settings, vocab_size, seed=0, dtype=jnp.float32, directory=None, rows=None, mesh=None
):
    """The encoder of the config section `encoder`, and its parameters.

    Args:
      settings: config section `encoder`.
      vocab_size: V, tokens of the tokenizer.
      seed: of the Gaussian embedding.
      dtype: of the T5's matrix products.
      directory: keeps what `save_encoder` wrote: an embedding, or the measured mean and standard
        deviation of a T5; or None.
      rows: training `Rows`, to make these from if the directory keeps none; or None.
      mesh: the devices that the T5 runs on.

    Returns:
      (`Encoder`, its parameters as float32 arrays).

    Raises:
      UserError: files do not load or do not fit, or the tokenizer has more tokens than the encoder.
    """
    if settings.kind != "t5":
        params = embedding.load_or_make(settings, vocab_size, seed, directory, rows)
        return _embedding(settings), params
    config, params = t5.load(settings.path, vocab_size)
    encoder = _t5(settings, config, dtype, mesh)
    if encoder.measured:
        mean, std = statistics.load_or_measure(encoder, params, directory, rows)
        encoder = dataclasses.replace(encoder, mean=mean, std=std)
    return encoder, params


def describe_encoder(config, dtype=jnp.float32, mesh=None):
    """Like `build_encoder`, from a whole config alone. It reads at most the config.json of a T5.

    Args:
      config: whole config. dtype, mesh: as in `build_encoder`.

    Returns:
      (V, `Encoder`, its parameters as ShapeDtypeStructs). A mean and a standard deviation that
      would be measured are 0 and 1.

    Raises:
      UserError: a T5 that is neither at hand nor one of the published ones.
    """
    settings, vocab_size = config.encoder, config.data.vocab_size
    if settings.kind != "t5":
        return vocab_size, _embedding(settings), embedding.shapes(settings, vocab_size)
    sizes, vocab_size = t5.describe(settings.path)
    return vocab_size, _t5(settings, sizes, dtype, mesh), t5.shapes(sizes)


def described_vocab_size(data):
    """V of the config section `data`, without the data: for a trained tokenizer its largest size.

    Raises:
      UserError: the tokenizer is neither at hand nor that of a published T5.
    """
    if data.tokenizer in ("auto", *TRAINED):
        return data.vocab_size
    if t5.is_published(data.tokenizer):
        return t5.PUBLISHED_TOKENS
    return size_of(load_tokenizer(data.tokenizer))


def save_encoder(encoder, params, directory):
    """Keeps in a directory what no config describes: an embedding, or measured statistics.

    What the directory already keeps is not changed.
    """
    if encoder.kind != "t5":
        embedding.save(params, directory)
    elif encoder.measured:
        statistics.save(encoder, directory)


def kept_statistics(settings, directory):
    """(mean, std) that a model in a directory was trained with.

    Args:
      settings: its config section `encoder`.

    Raises:
      UserError: they were measured, and the directory does not keep them.
    """
    if settings.kind == "t5" and not settings.std:
        return statistics.load(directory)
    return settings.mean, settings.std or embedding.STD


def _embedding(settings):
    std = settings.std or embedding.STD
    return Encoder(settings.kind, settings.width, embedding.look_up, settings.mean, std)


def _t5(settings, config, dtype, mesh):
    """The `Encoder` of a T5. If its statistics are to be measured, they are still 0 and 1."""
    raw = t5.make_raw(config, dtype, mesh)
    mean, std, measured = settings.mean, settings.std or 1.0, not settings.std
    return Encoder(settings.kind, config.d_model, raw, mean, std, measured)
