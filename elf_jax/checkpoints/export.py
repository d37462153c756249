"""A trained model as a directory that stands alone: safetensors, config, tokenizer, model card.

It is written whole or not at all, holds no pickle, and `--checkpoint` reads it back to the same
outputs.
"""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from elf_jax.core import config, sharding
from elf_jax.core.errors import UserError
from elf_jax.core.files import open_directory, write_bytes, write_json, write_text
from elf_jax.data.tokenizer import TOKENIZER
from elf_jax.evaluation.card import model_card
from elf_jax.latents.encoder import save_encoder

FORMAT = 1  # of the directory; a reader refuses what is newer
MODEL = "model.safetensors"
ENCODER = "encoder"  # directory with a copy of a T5 encoder that was a local one
CARD = "README.md"


@dataclasses.dataclass(frozen=True)
class Info:
    """What config.json says of an export besides the config: its "export" entry."""

    format: int
    step: int
    weights: str  # ema | live
    train_seconds: float | None


def export(trained, output, workdir=None):
    """Writes `output`, in place of an export that is there already.

    Args:
      trained: a `Trained` model.
      output: directory.
      workdir: that the model comes from, with its evaluation results, if it comes from one.

    Raises:
      UserError: something else is at `output`.
    """
    output = pathlib.Path(output)
    if output.exists() and not is_export(output) and not _is_empty(output):
        raise UserError(f"{output} exists and is no exported model: name another --output")
    # Every process takes part in gathering what is split over devices; one of them writes.
    params = jax.device_put(trained.params, sharding.replicated(trained.mesh))
    params = {
        name: np.ascontiguousarray(np.asarray(leaf), np.float32)
        for name, leaf in traverse_util.flatten_dict(jax.device_get(params), sep="/").items()
    }
    if jax.process_index() != 0:
        return
    config = trained.config
    with open_directory(output) as scratch:
        write_bytes(scratch / MODEL, safetensors.numpy.save(params, {"format": "flax"}))
        save_encoder(trained.model.encoder, config.encoder, scratch)
        copied = _copy_t5(config.encoder, scratch)
        trained.tokenizer.save_pretrained(scratch / TOKENIZER)
        seconds = trained.progress.get("train_seconds")
        info = Info(FORMAT, trained.step, config.sample.weights, seconds)
        extra = {"model_type": "elf", "export": dataclasses.asdict(info)}
        values = config.to_dict()
        if copied:
            values["encoder"]["path"] = ENCODER
        write_json(scratch / config.FILE, {**extra, **values})
        count = sum(leaf.size for leaf in params.values())
        vocabulary = trained.model.predictor.network.vocab_size
        workdir = None if workdir is None else pathlib.Path(workdir)
        name = (workdir or output).absolute().name
        card = model_card(name, config, trained.step, count, vocabulary, workdir)
        write_text(scratch / CARD, card)


def _is_empty(path):
    return path.is_dir() and not any(path.iterdir())


def _copy_t5(encoder_settings, scratch):
    """Copies a local T5 encoder into the export; False if there is none (or it is on the hub)."""
    source = pathlib.Path(encoder_settings.path)
    if encoder_settings.kind != "t5" or not source.is_dir():
        return False
    (scratch / ENCODER).mkdir()
    for pattern in (config.FILE, "*.safetensors", "*.safetensors.index.json"):
        for file in source.glob(pattern):
            shutil.copyfile(file, scratch / ENCODER / file.name)
    return True


def is_export(path):
    """Whether `path` is an exported model."""
    file = pathlib.Path(path) / config.FILE
    try:
        return "export" in json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def read_config(path):
    """The config of an exported model."""
    config = config.load(path)
    encoder = pathlib.Path(path) / ENCODER
    if config.encoder.kind == "t5" and config.encoder.path == ENCODER and encoder.is_dir():
        config.encoder.path = str(encoder)
    return config


def read_export(path, weights):
    """(parameters as nested dict of numpy arrays, `Info`) of an exported model.

    Raises:
      UserError: it is damaged, of a newer format, or holds other weights.
    """
    path = pathlib.Path(path)
    try:
        values = json.loads((path / config.FILE).read_text(encoding="utf-8"))["export"]
        if values.get("format", 0) > FORMAT:
            raise UserError(
                f"{path} has format {values['format']}, and this version reads up to {FORMAT}: "
                "install a newer version"
            )
        info = Info(**values)
        if weights != info.weights:
            raise UserError(
                f"{path} holds the {info.weights} weights only: use --weights={info.weights}, or "
                f"export with --weights={weights}"
            )
        flat = safetensors.numpy.load_file(path / MODEL)
    except (OSError, ValueError, TypeError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is damaged ({error}): copy it again") from None
    return traverse_util.unflatten_dict(flat, sep="/"), info
