"""Model directories in Hugging Face format: config.json and the parameters as safetensors.

A kind of model (`t5.py`, `gpt2.py`) gives a function `name_of(path)` that translates the path of a
parameter, such as "blocks/attn/qkv/kernel", to the name of its tensor. One function serves reading
and writing. Pickle files are never read.
"""

import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from elf_jax.core import checksums, files
from elf_jax.core.errors import UserError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # names the shards, where the tensors are in several files


class TensorName(NamedTuple):
    """The tensor of a parameter.

    Attributes:
      names: possible names of the tensor. The first is written, and the first that exists is read.
        A name with {} stands for one tensor for each layer, with the layer's number in that place;
        the parameter is stacked along its first axis.
      transposed: whether the matrix is stored [out, in] and not [in, out].
    """

    names: tuple[str, ...]
    transposed: bool = False


def read_json(directory, kind):
    """The dict in the config.json of a model directory.

    Args:
      kind: what the directory should hold, for messages ("T5").

    Raises:
      UserError: the file is missing or damaged.
    """
    path = pathlib.Path(directory) / CONFIG
    if not path.is_file():
        raise UserError(f"{path} is missing: a {kind} is a directory with {CONFIG} and {WEIGHTS}")
    checksums.check(path)
    return files.read_json(path, remedy="copy the file again")


def read_parameters(directory, kind, shapes, name_of):
    """The parameters of a network.

    Args:
      directory: holds model.safetensors, or its shards and model.safetensors.index.json.
      kind: what the directory should hold, for messages ("T5").
      shapes: tree of parameters as ShapeDtypeStructs.
      name_of: function from the path of a parameter ("a/b/c") to its `TensorName`.

    Returns:
      A tree like `shapes` of float32 arrays.

    Raises:
      UserError: a file or a tensor is missing, damaged or of another shape.
    """
    flat = {}
    with Tensors(directory, kind) as tensors:
        for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items():
            names, transposed = name_of(path)
            name = next((name for name in names if name.format(0) in tensors), names[0])
            stacked = "{}" in name
            shape = leaf.shape[1:] if stacked else leaf.shape
            shape = shape[::-1] if transposed else shape
            count = leaf.shape[0] if stacked else 1
            layers = np.stack([tensors(name.format(index), shape) for index in range(count)])
            layers = layers.swapaxes(1, 2) if transposed else layers
            flat[path] = layers if stacked else layers[0]
    return traverse_util.unflatten_dict(flat, sep="/")


def write_model(directory, config, params, name_of):
    """Writes config.json and model.safetensors as the transformers library reads them.

    Args:
      directory: is made if it does not exist.
      config: dict, the content of config.json.
      params: parameters. name_of: as in `read_parameters`.
    """
    directory = pathlib.Path(directory)
    tensors = {}
    for path, leaf in traverse_util.flatten_dict(params, sep="/").items():
        (name, *_), transposed = name_of(path)
        layers = np.asarray(leaf, np.float32)
        for index, array in enumerate(layers if "{}" in name else layers[None]):
            array = array.T if transposed else array
            tensors[name.format(index)] = np.ascontiguousarray(array)
    # transformers refuses a file that does not name the framework whose layout it has.
    files.write_bytes(directory / WEIGHTS, safetensors.numpy.save(tensors, {"format": "pt"}))
    files.write_json(directory / CONFIG, config)


class Tensors:
    """The tensors of a directory by name, each read when it is asked for. Use it in a `with`.

    Args:
      directory: holds model.safetensors, or its shards and model.safetensors.index.json.
      kind: what the directory should hold, for messages ("T5").

    Raises:
      UserError: a file is missing or damaged.
    """

    def __init__(self, directory, kind):
        self.directory, self.kind = pathlib.Path(directory), kind
        index = self.directory / INDEX
        if index.is_file():
            weight_map = files.read_json(index, remedy="copy the file again").get("weight_map")
            names = list(weight_map.values()) if isinstance(weight_map, dict) else []
            if not names or not all(isinstance(name, str) for name in names):
                raise UserError(f"{index} is damaged (no weight_map): copy the file again")
            names = sorted(set(names))
        else:
            names = [WEIGHTS]
        self.paths = [self.directory / name for name in names]
        self.files = {}

    def __enter__(self):
        for path in self.paths:
            if not path.is_file():
                pickled = sorted(self.directory.glob("*.bin"))
                hint = "; pickle files (.bin) are never loaded, convert them" if pickled else ""
                raise UserError(f"{path} is missing: save the model as safetensors there{hint}")
            checksums.check(path)
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
        """The tensor `name`, which must have `shape`, as a float32 array.

        Raises:
          UserError: it does not exist, is not floating point, or has another shape.
        """
        if name not in self.files:
            raise UserError(f"{self.directory} has no tensor {name!r}: is it a {self.kind} model?")
        array = self.files[name].get_tensor(name)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(
                f"{self.directory}: tensor {name!r} is {array.dtype}, not floating point"
            )
        array = np.asarray(array).astype(np.float32)
        if array.shape != tuple(shape):
            raise UserError(
                f"{self.directory}: tensor {name!r} has shape {array.shape}, but {CONFIG} "
                f"says {tuple(shape)}: the two files do not belong together"
            )
        return array
