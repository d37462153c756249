"""Encoders that need no pretrained model: a frozen table with one vector for each token.

The channels are Gaussian noise, or co-occurrence statistics of the training data followed by
Gaussian noise. With `aligned`, the tokens of a source have a table of their own, see `alignment`.
A vector does not depend on the context of its token. V vocabulary, C width.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from elf_jax.core import checksums, rng
from elf_jax.core.errors import UserError
from elf_jax.core.files import write_bytes
from elf_jax.core.workdir import EMBEDDING
from elf_jax.latents.encoder import COND

ALIGNED = "aligned"  # the kind with two tables
STD = 1.0  # standard deviation of every channel
# Names of the parameters, and of the tensors in the file.
TABLE, SOURCES = "table", "sources"


def look_up(params, tokens, groups):
    """`Encoder.raw` of tables: [B, L] tokens to [B, L, C]."""
    latents = params[TABLE][tokens]
    if SOURCES not in params:
        return latents  # there is no attention
    is_source = (groups.queries == COND)[..., None]
    return jnp.where(is_source, params[SOURCES][tokens], latents)


def load_or_make(settings, vocab_size, seed=0, directory=None, rows=None):
    """The parameters, read from a directory, or made if it has none: {"table": [V, C] float32}, and
    of an aligned encoder also "sources", alike.

    Args:
      settings: config section `encoder`.
      vocab_size: V, tokens of the tokenizer.
      seed: of the Gaussian channels.
      directory: may keep a table that was made before; or None.
      rows: training `Rows` for the co-occurrence channels and for the alignment, or None.

    Raises:
      UserError: the file is damaged or has another shape; or a table should be made of training
        data and there are none.
    """
    path = None if directory is None else pathlib.Path(directory) / EMBEDDING
    if path is not None and checksums.is_there(path):
        return _read(path, shapes(settings, vocab_size))
    key = rng.stream(jax.random.key(seed), "encoder")
    table = np.array(jax.random.normal(key, (vocab_size, settings.width)))
    if settings.kind == "gaussian":
        return {TABLE: table}
    if rows is None:
        raise UserError(_no_rows(path, settings.kind))
    # SciPy, which a table that is there does not need.
    from elf_jax.latents import alignment
    from elf_jax.latents.cooccurrence import cooccurrence_embedding

    structured = round(settings.width * settings.structured)
    table[:, :structured] = cooccurrence_embedding(rows, vocab_size, structured)
    if settings.kind != ALIGNED:
        return {TABLE: table}
    translated = alignment.translations(rows, vocab_size)
    return {TABLE: table, SOURCES: alignment.mean_translation(table, translated)}


def save(params, directory):
    """Writes the tables into a directory, unless it has them."""
    path = pathlib.Path(directory) / EMBEDDING
    if not path.is_file():
        tables = {name: np.asarray(table) for name, table in params.items()}
        write_bytes(path, safetensors.numpy.save(tables))


def shapes(settings, vocab_size):
    """The parameters as ShapeDtypeStructs."""
    names = (TABLE, SOURCES) if settings.kind == ALIGNED else (TABLE,)
    return dict.fromkeys(names, jax.ShapeDtypeStruct((vocab_size, settings.width), np.float32))


def _no_rows(path, kind):
    if path is not None:
        return f"{path} is missing: restore it, or train again in another --workdir"
    return (
        f"config.encoder.kind is {kind}, and such an embedding is made from training data, "
        "which is not at hand: name the workdir or the exported directory of the model"
    )


def _read(path, shapes):
    """The tables of a file that have these names and shapes."""
    try:
        tables = safetensors.numpy.load_file(path)
        tables = {name: tables[name] for name in shapes}
        kinds = {str(table.dtype) for table in tables.values()} - {"float32"}
        if kinds:
            raise ValueError(f"a table is {', '.join(kinds)}, not float32")
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it") from None
    for name, wanted in shapes.items():
        there = tables[name].shape
        if there != wanted.shape:
            raise UserError(
                f"{path} is an embedding of shape {there}, but the config asks for "
                f"{wanted.shape}: set config.encoder.width={there[1]} and use the tokenizer of "
                f"{there[0]} tokens that belongs to it"
            )
    return tables
