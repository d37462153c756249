"""Finds and reads checkpoints of published implementations.

They are Orbax directories or msgpack files, on disk or on the Hugging Face hub, and hold the whole
training state. Only the wanted weights are read, and nothing is ever unpickled. A method translates
the names of the parameters to its own names.
"""

import pathlib
import re

import jax
import msgpack
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization, traverse_util

from elf_jax.core import hub
from elf_jax.core.errors import UserError
from elf_jax.core.files import check_downloaded

# Pickle files. They are never loaded, so they are not downloaded from the hub.
_PICKLED = ("*.pt", "*.pth", "*.bin", "*.pkl", "*.pickle", "*.ckpt")
_FLAX_FILE = re.compile(r"checkpoint_\d+")  # the default name of a msgpack file of Flax
_UNFINISHED = "orbax-checkpoint-tmp"  # in the names of files that Orbax has not finished


def load_published(path, weights, translate):
    """Parameters of a published checkpoint.

    Args:
      path: an Orbax directory or a msgpack file, as `find_published` gives it.
      weights: "ema" or "live".
      translate: function from {"a/b/c": array} to our parameters, see `Method.from_published`.

    Returns:
      (our parameter tree as float32 numpy arrays, the step it was saved at).

    Raises:
      UserError: the files are damaged, or have other weights or names than the published ones.
    """
    read = _read_orbax if path.is_dir() else _read_msgpack
    for file in path.rglob("*") if path.is_dir() else (path,):
        check_downloaded(file)
    try:
        subtree, step = read(path, lambda names: _choose(path, names, weights))
    except UserError:
        raise
    except Exception as error:  # Orbax, TensorStore and msgpack raise many types for damaged files
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise UserError(
            f"checkpoint {path} is damaged or no checkpoint ({reason}): copy it again"
        ) from error
    try:
        # Flax may add an outer level with the name "params".
        subtree = subtree["params"] if set(subtree) == {"params"} else subtree
        return translate(traverse_util.flatten_dict(subtree, sep="/")), step
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} does not hold the published network's parameters ({error}): for a model of "
            "your own, name its workdir or its exported directory"
        ) from None


def fetch(path_or_name):
    """The local path of a checkpoint. One on the hub is downloaded into the hub's cache.

    Raises:
      UserError: there is no such path, and the hub has no such name or cannot be reached.
    """
    path = pathlib.Path(path_or_name).expanduser()
    if path.exists():
        return path
    what = "checkpoint (workdir, exported directory, Orbax directory or msgpack file)"
    return hub.resolve(path_or_name, what, ignore_patterns=list(_PICKLED))


def find_published(path):
    """The published checkpoint at `path` or below it: an Orbax directory or a msgpack file.

    If a directory has several, the one with the highest step in its name is taken.

    Raises:
      UserError: there is none, or it is a pickle file.
    """
    if path.is_file():
        if any(path.match(pattern) for pattern in _PICKLED):
            raise UserError(f"{path} is a pickle file, which is never loaded: convert it")
        return path
    found = [entry for entry in path.rglob("*") if entry.is_file() and _is_checkpoint(entry)]
    found = [entry.parent if entry.name == "_METADATA" else entry for entry in found]
    if not found:
        raise UserError(
            f"no checkpoint in {str(path)!r}: it holds no workdir, no exported model, no Orbax "
            "directory and no msgpack file (pickle files are never loaded)"
        )

    def newest(entry):
        numbers = re.findall(r"\d+", str(entry.relative_to(path)) if entry != path else "")
        return int(numbers[-1]) if numbers else -1, str(entry)

    return max(found, key=newest)


def _is_checkpoint(file):
    """Whether a file is a msgpack checkpoint, or the file that marks an Orbax directory."""
    if _UNFINISHED in str(file):
        return False
    name = file.name
    return name == "_METADATA" or file.suffix == ".msgpack" or bool(_FLAX_FILE.fullmatch(name))


def _choose(path, names, weights):
    """The name of the subtree of a training state that holds the wanted weights."""
    ema = sorted(name for name in names if name.startswith("ema_params"))
    live = [name for name in names if name == "params"]
    wanted = ema if weights == "ema" else live
    if not wanted:
        other = "live" if weights == "ema" else "ema"
        raise UserError(
            f"{path} holds no {weights} weights (it holds {', '.join(sorted(names))[:120]}): use "
            f"--weights={other}, or name another checkpoint"
        )
    return wanted[0]


def _read_orbax(path, choose):
    """(subtree, step) of an Orbax directory, as numpy arrays. It may be saved on any devices."""
    path = path.absolute()
    there = ocp.PyTreeCheckpointHandler().metadata(path).tree
    name = choose(there)
    item = {key: there[key] for key in (name, "step") if key in there}
    arrays = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), item)
    with ocp.PyTreeCheckpointer() as checkpointer:
        restore = ocp.args.PyTreeRestore(item, arrays, partial_restore=True)
        found = checkpointer.restore(path, args=restore)
    return found[name], int(np.asarray(found.get("step", 0)))


def _read_msgpack(path, choose):
    """(subtree, step) of a file that flax.serialization wrote. Other subtrees are skipped."""
    places = {}
    with open(path, "rb") as file:
        # 0 is msgpack's largest buffer, 4 GiB. An array must fit in it; Flax splits them at 1 GiB.
        unpacker = msgpack.Unpacker(file, raw=False, strict_map_key=False, max_buffer_size=0)
        for _ in range(unpacker.read_map_header()):
            key, start = unpacker.unpack(), unpacker.tell()
            unpacker.skip()
            places[key] = start, unpacker.tell() - start

        def value(key):
            file.seek(places[key][0])
            return serialization.msgpack_restore(file.read(places[key][1]))

        name = choose(places)
        return value(name), int(np.asarray(value("step"))) if "step" in places else 0
