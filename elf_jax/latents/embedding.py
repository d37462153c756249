"""Encoders that need no pretrained model: a frozen table with one vector for each token.

The channels are Gaussian noise, or co-occurrence statistics of the training data followed by
Gaussian noise. A vector does not depend on the context of its token. V vocabulary, C width.
"""

import pathlib

import jax
import numpy as np
import safetensors
import safetensors.numpy

from elf_jax.core import checksums, rng
from elf_jax.core.errors import UserError
from elf_jax.core.files import write_bytes
from elf_jax.core.workdir import EMBEDDING

STD = 1.0  # standard deviation of every channel
TABLE = "table"  # name of the parameter, and of the tensor in the file


def look_up(params, tokens, groups):
    """`Encoder.raw` of a table: [B, L] tokens to [B, L, C]."""
    del groups  # there is no attention
    return params[TABLE][tokens]


def load_or_make(settings, vocab_size, seed=0, directory=None, rows=None):
    """The parameters {"table": [V, C] float32}: read from a directory, or made if it has none.

    Args:
      settings: config section `encoder`.
      vocab_size: V, tokens of the tokenizer.
      seed: of the Gaussian channels.
      directory: may keep a table that was made before; or None.
      rows: training `Rows` for the co-occurrence channels, or None.

    Raises:
      UserError: the file is damaged or has another shape; or the table should be made of training
        data and there are none.
    """
    path = None if directory is None else pathlib.Path(directory) / EMBEDDING
    shape = vocab_size, settings.width
    if path is not None and checksums.is_there(path):
        return {TABLE: _read(path, shape)}
    key = rng.stream(jax.random.key(seed), "encoder")
    table = np.array(jax.random.normal(key, shape))
    if settings.kind == "cooccurrence":
        if rows is None:
            raise UserError(_no_rows(path))
        # SciPy, which a table that is there does not need.
        from elf_jax.latents.cooccurrence import cooccurrence_embedding

        structured = round(settings.width * settings.structured)
        table[:, :structured] = cooccurrence_embedding(rows, vocab_size, structured)
    return {TABLE: table}


def save(params, directory):
    """Writes the table into a directory, unless it has one."""
    path = pathlib.Path(directory) / EMBEDDING
    if not path.is_file():
        write_bytes(path, safetensors.numpy.save({TABLE: np.asarray(params[TABLE])}))


def shapes(settings, vocab_size):
    """The parameters as ShapeDtypeStructs."""
    return {TABLE: jax.ShapeDtypeStruct((vocab_size, settings.width), np.float32)}


def _no_rows(path):
    if path is not None:
        return f"{path} is missing: restore it, or train again in another --workdir"
    return (
        "config.encoder.kind is cooccurrence, and such an embedding is made from training data, "
        "which is not at hand: name the workdir or the exported directory of the model"
    )


def _read(path, shape):
    try:
        table = safetensors.numpy.load_file(path)[TABLE]
        if table.dtype != np.float32:
            raise ValueError(f"the table is {table.dtype}, not float32")
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it") from None
    if table.shape != shape:
        raise UserError(
            f"{path} is an embedding of shape {table.shape}, but the config asks for {shape}: set "
            f"config.encoder.width={table.shape[1]} and use the tokenizer of {table.shape[0]} "
            "tokens that belongs to it"
        )
    return table
