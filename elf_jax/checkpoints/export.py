"""Exports a trained model as one directory: safetensors, config, tokenizer, model card.

The directory needs no other files, is written whole or not at all, and holds no pickle.
`--checkpoint` reads it back, and the model gives the same outputs.
"""

import dataclasses
import pathlib

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from elf_jax.core import checksums, sharding
from elf_jax.core.config import read_config
from elf_jax.core.errors import UserError
from elf_jax.core.files import open_directory, read_json, write_bytes, write_json, write_text
from elf_jax.core.workdir import CARD, CONFIG, TOKENIZER, WEIGHTS
from elf_jax.methods.registry import resolve_paths

FORMAT = 1  # version of the directory's format; a newer one is not read


@dataclasses.dataclass(frozen=True)
class Info:
    """The entry "export" in config.json, beside the config."""

    format: int
    step: int
    weights: str  # ema | live
    train_seconds: float | None


SECONDS = int | float | None


def export(trained, output, card):
    """Writes a trained model to `output`. An export that is there already is replaced.

    Args:
      trained: a `TrainedModel`.
      output: path of the directory.
      card: the text of the model card.

    Raises:
      UserError: something else is at `output`.
    """
    output = pathlib.Path(output)
    check_free(output)
    # All processes together gather what is split over devices. One process writes.
    params = jax.device_put(trained.params, sharding.replicated(trained.mesh))
    params = {
        name: np.ascontiguousarray(np.asarray(leaf), np.float32)
        for name, leaf in traverse_util.flatten_dict(jax.device_get(params), sep="/").items()
    }
    if jax.process_index() != 0:
        return
    with open_directory(output) as scratch:
        write_bytes(scratch / WEIGHTS, safetensors.numpy.save(params, {"format": "flax"}))
        config = trained.method.export_frozen(trained.frozen, trained.config, scratch)
        trained.tokenizer.save_pretrained(scratch / TOKENIZER)
        seconds = trained.progress.get("train_seconds")
        info = Info(FORMAT, trained.step, config.sample.weights, seconds)
        head = {"model_type": config.method, "export": dataclasses.asdict(info)}
        write_json(scratch / CONFIG, {**head, **config.to_dict()})
        write_text(scratch / CARD, card)
        checksums.write_tree(scratch)


def check_free(output):
    """Raises UserError if `output` exists and is neither an export nor an empty directory."""
    is_empty = output.is_dir() and not any(output.iterdir())
    if output.exists() and not is_export(output) and not is_empty:
        raise UserError(f"{output} exists and is no exported model: name another --output")


def is_export(path):
    """Whether `path` is an exported model."""
    file = pathlib.Path(path) / CONFIG
    try:
        return "export" in read_json(file)
    except UserError:
        return False


def read_export_config(path):
    """The config of an exported model. Paths in it point into the export."""
    return resolve_paths(read_config(path), pathlib.Path(path))


def read_export(path, weights):
    """(parameters as nested dict of numpy arrays, `Info`) of an exported model.

    Raises:
      UserError: the export is damaged, has a newer format, or holds other weights.
    """
    path = pathlib.Path(path)
    try:
        values = dict(read_json(path / CONFIG)["export"])
        if values.get("format", 0) > FORMAT:
            raise UserError(
                f"{path} has format {values['format']}, and this version reads up to {FORMAT}: "
                "install a newer version"
            )
        info = Info(**values)
        if not isinstance(info.step, int) or not isinstance(info.train_seconds, SECONDS):
            raise TypeError("its step or its train_seconds is no number")
        if weights != info.weights:
            raise UserError(
                f"{path} holds the {info.weights} weights only: use --weights={info.weights}, or "
                f"export with --weights={weights}"
            )
        checksums.check(path / WEIGHTS)
        flat = safetensors.numpy.load_file(path / WEIGHTS)
        return traverse_util.unflatten_dict(flat, sep="/"), info
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is damaged ({error}): copy it again") from None
