"""Mean and standard deviation of an encoder's raw output, measured on training data and kept.

They are one number each for all channels, as in ELF (arXiv 2605.10938).
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from elf_jax.core import checksums
from elf_jax.core.errors import UserError
from elf_jax.core.files import read_json, write_json
from elf_jax.core.processes import share
from elf_jax.core.workdir import STATISTICS

POSITIONS = 2**15  # of the rows that are measured
MIN_ROWS = 16  # that are measured, even if they have more positions


def load_or_measure(encoder, params, directory=None, rows=None):
    """(mean, std) that a directory keeps, or measured if it keeps none.

    Args:
      encoder: `Encoder`. params: its parameters.
      directory: may keep what was measured before; or None.
      rows: training `Rows` to measure on, or None.

    Returns:
      Two Python floats, the same on all processes.

    Raises:
      UserError: the file is damaged, or it is missing and there are no rows.
    """
    path = None if directory is None else pathlib.Path(directory) / STATISTICS
    if path is not None and checksums.is_there(path):
        values = load(directory)
    elif rows is not None:
        values = measure(encoder, params, rows)
    else:
        raise UserError(f"{path} is missing: restore it, or train again in another --workdir")
    # They become constants of the program, which must be the same on all processes. But perhaps
    # only the first process sees the directory.
    mean, std = share(values)
    return mean, std


def load(directory):
    """(mean, std) that a directory keeps.

    Raises:
      UserError: the file is missing or damaged.
    """
    path = pathlib.Path(directory) / STATISTICS
    checksums.check(path)
    values = read_json(path)
    try:
        mean, std = float(values["mean"]), float(values["std"])
        if not (np.isfinite(mean) and np.isfinite(std) and std > 0):
            raise ValueError(f"mean {mean} and std {std} are not possible")
        return mean, std
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it") from None


def save(encoder, directory):
    """Writes mean and std of an `Encoder` into a directory, unless it keeps some."""
    path = pathlib.Path(directory) / STATISTICS
    if not path.is_file():
        write_json(path, {"mean": encoder.mean, "std": encoder.std})


def measure(encoder, params, rows, positions=POSITIONS):
    """Mean and standard deviation of an encoder's raw output.

    Args:
      encoder: `Encoder`; its own mean and std are not used. params: its parameters.
      rows: `Rows`. Some of them are measured, evenly spaced, so that the same rows give the same
        numbers on all processes.
      positions: about how many positions are measured.

    Returns:
      (mean, std) over the valid positions and all channels, Python floats.

    Raises:
      UserError: the output is not finite, or the same everywhere.
    """
    count = min(len(rows), max(positions // rows.length, MIN_ROWS))
    index = np.linspace(0, len(rows) - 1, count).astype(np.int64)
    batch = min(count, max(positions // (2 * rows.length), MIN_ROWS))
    sums, totals = _make_sums(encoder), np.zeros(3)
    for start in range(0, count, batch):
        part = np.arange(start, start + batch)
        fields = rows.take(index[np.minimum(part, count - 1)])
        # Rows that only fill the last batch up have no valid positions.
        fields["is_valid"] = fields["is_valid"] & (part < count)[:, None]
        totals += np.asarray(jax.device_get(sums(params, **fields)), np.float64)
    number = totals[2] * encoder.width
    mean = totals[0] / number
    variance = totals[1] / number - mean**2
    if not (np.isfinite(variance) and variance > 0):
        raise UserError(
            f"the encoder's output has mean {mean} and variance {variance}: it cannot be "
            "normalised; check the files in config.encoder.path"
        )
    return float(np.float32(mean)), float(np.float32(np.sqrt(variance)))


def _make_sums(encoder):
    """Jitted (params, fields of a `Batch`) -> (sum, sum of squares, valid positions)."""
    raw = dataclasses.replace(encoder, mean=0.0, std=1.0)

    @jax.jit
    def sums(params, tokens, is_cond, is_valid):
        keep = jnp.zeros(len(tokens), bool)
        x = raw.encode(params, tokens, is_cond, is_valid, keep)
        x = jnp.where(is_valid[..., None], x, 0.0)
        return jnp.sum(x), jnp.sum(x * x), jnp.sum(is_valid)

    return sums
