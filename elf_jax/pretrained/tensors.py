"""The tensors of a model's directory in Hugging Face format: safetensors, whole or in shards.

Pickle files are never read.
"""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import safetensors

from elf_jax.core.errors import UserError


class Tensors:
    """The tensors of a directory's safetensors files by name, read one at a time. A context.

    Args:
      directory: holds model.safetensors, or its shards and model.safetensors.index.json.
      what: the kind of model that is expected there, for messages ("T5").

    Raises:
      UserError: a file is missing or damaged.
    """

    def __init__(self, directory, what):
        self.directory, self.what = pathlib.Path(directory), what
        index = self.directory / "model.safetensors.index.json"
        if index.is_file():
            try:
                weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                names = sorted(set(weight_map.values()))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UserError(f"{index} is damaged: copy the file again") from None
        else:
            names = ["model.safetensors"]
        self.paths = [self.directory / name for name in names]
        self.files = {}

    def __enter__(self):
        for path in self.paths:
            if not path.is_file():
                pickled = sorted(self.directory.glob("*.bin"))
                hint = "; pickle files (.bin) are never loaded, convert them" if pickled else ""
                raise UserError(f"{path} is missing: save the model as safetensors there{hint}")
            try:
                file = safetensors.safe_open(path, framework="flax")
                self.files.update({name: file for name in file.keys()})
            except safetensors.SafetensorError as error:
                raise UserError(f"{path} is damaged ({error}): copy the file again") from None
        return self

    def __exit__(self, *exc):
        self.files = {}

    def __contains__(self, name):
        return name in self.files

    def __call__(self, name, shape):
        """The float32 array `name`, which must have `shape`.

        Raises:
          UserError: it is not there, not floating point, or of another shape.
        """
        if name not in self.files:
            raise UserError(f"{self.directory} has no tensor {name!r}: is it a {self.what} model?")
        array = self.files[name].get_tensor(name)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(
                f"{self.directory}: tensor {name!r} is {array.dtype}, not floating point"
            )
        array = np.asarray(array).astype(np.float32)
        if array.shape != tuple(shape):
            raise UserError(
                f"{self.directory}: tensor {name!r} has shape {array.shape} but config.json "
                f"says {tuple(shape)}: the two files do not belong together"
            )
        return array
