"""Weights from wherever they are: a workdir of ours, an exported model, a published checkpoint.

One function reads them all, and says which config key to change where they do not fit.
"""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
from flax import traverse_util

from elf_jax.checkpoints.experiment import DIRECTORY, Checkpoints, abstract, directory_of, is_begun
from elf_jax.checkpoints.export import is_export, read_config, read_export
from elf_jax.checkpoints.published import WEIGHTS, fetch, find_reference, load_reference
from elf_jax.core import config, sharding, store
from elf_jax.core.errors import UserError
from elf_jax.core.files import write_json
from elf_jax.data.tokenizer import TOKENIZER, TRAINED
from elf_jax.latents.encoder import kept_statistics

START = "start.json"  # in a workdir: the checkpoint that its training began with


@dataclasses.dataclass(frozen=True)
class Source:
    """Where weights come from.

    Attributes:
      kind: "workdir", "export" or "published". path: on disk. name: as the user knows it.
    """

    kind: str
    path: pathlib.Path
    name: str

    @property
    def home(self):
        """The directory with the model's config, tokenizer and embedding; None where published."""
        return None if self.kind == "published" else self.path


def workdir_source(workdir):
    """The workdir as a `Source`, whatever is in it."""
    return Source("workdir", pathlib.Path(workdir), str(workdir))


def find_source(path_or_name):
    """The `Source` at a path or under a name on the hub, recognised by what is there.

    Raises:
      UserError: nothing is there, or nothing that holds weights.
    """
    path = store.fetch(path_or_name) if store.is_url(path_or_name) else fetch(path_or_name)
    is_local = pathlib.Path(path_or_name).expanduser().exists()
    name = str(path.absolute()) if is_local else str(path_or_name)
    if is_export(path):
        return Source("export", path, name)
    if directory_of(path).is_dir() and (path / config.FILE).is_file():
        return Source("workdir", path, name)
    for folder in (path, path.parent):
        if folder.name == DIRECTORY and (folder.parent / config.FILE).is_file():
            raise UserError(f"{path} is a part of a workdir: give the whole, {folder.parent}")
    return Source("published", find_reference(path), name)


def load_config(source):
    """The config that a source keeps.

    Raises:
      UserError: it keeps none.
    """
    if source.kind == "published":
        raise UserError(
            f"{source.name} is a published checkpoint, which holds no config: give the one it was "
            "trained with as --config"
        )
    return read_config(source.path) if source.kind == "export" else config.load(source.path)


def tokenizer_path(source, data_settings):
    """Where the tokenizer is that the source's vocabulary belongs to: its own, or for a published
    checkpoint the one of the config section `data`.
    """
    if source.home is not None:
        return source.home / TOKENIZER
    if data_settings.tokenizer in ("auto", *TRAINED):
        raise UserError(
            f"{source.name} is a published checkpoint, which holds no tokenizer: set "
            "config.data.tokenizer to the directory of the one it was trained with"
        )
    return data_settings.tokenizer


def check_meaning(source, config, encoder):
    """Raises UserError if a source that keeps a config was trained with other latents or noise,
    which no shape shows.

    Args:
      encoder: the `Encoder` built from the config, whose mean and std may be measured ones.
    """
    if source.home is None:
        return
    old = load_config(source)
    mean, std = kept_statistics(old.encoder, source.home)
    for key, there, now in (
        ("encoder.kind", old.encoder.kind, config.encoder.kind),
        ("encoder.mean", mean, encoder.mean),
        ("encoder.std", std, encoder.std),
        ("objective.noise_scale", old.objective.noise_scale, config.objective.noise_scale),
    ):
        if there != now:
            raise UserError(
                f"{source.name} was trained with {key} {there}, and it is {now} by the config: "
                f"set config.{key}={there}"
            )


def load_weights(source, config, model, mesh, weights):
    """The parameters of a source, laid out on the mesh.

    Args:
      source: a `Source`. config, model: the whole config and the `Model` built from it.
      weights: "ema" or "live".

    Returns:
      (params, progress, step): progress has train_seconds, None where it is not known.

    Raises:
      UserError: no weights, damaged ones, or such as do not fit the config.
    """
    if weights not in WEIGHTS:
        raise UserError(f"weights is {weights!r}; use {' or '.join(WEIGHTS)}")
    check_meaning(source, config, model.encoder)
    shapes = jax.eval_shape(
        lambda key: model.predictor.init(key, config.data.length), jax.random.key(0)
    )
    shardings = sharding.of_tree(shapes, mesh)
    if source.kind == "workdir":
        return _from_workdir(source, abstract(shapes, shardings), config, weights)
    if source.kind == "export":
        params, info = read_export(source.path, weights)
        progress, step = {"train_seconds": info.train_seconds}, info.step
    else:
        params, step = load_reference(source.path, weights)
        progress = {"train_seconds": None}
    check_shapes(source, params, shapes, config)
    return jax.device_put(params, shardings), progress, step


def _from_workdir(source, target, config, weights):
    checkpoints = Checkpoints(source.path, create=False)
    try:
        if checkpoints.latest() is None:
            raise UserError(
                f"no checkpoint in {source.name!r}: train first, or name another --workdir"
            )
        check_shapes(source, checkpoints.params_shapes(weights), target, config)
        return checkpoints.restore_params(target, weights)
    finally:
        checkpoints.close()


# Parameters that one setting alone gives the size of, with the axis and the setting.
_SIZES = (
    ("blocks/norm1/scale", 0, "model.depth"),
    ("x_out/kernel", 0, "model.width"),
    ("blocks/attn/q_norm/scale", 1, "model.heads"),
    ("x_out/kernel", 1, "encoder.width"),
    ("text_in/kernel", 1, "model.bottleneck"),
    ("time_token", 0, "model.time_tokens"),
    ("guidance_token", 0, "model.guidance_tokens"),
    ("mode_token", 0, "model.mode_tokens"),
    ("unembed/kernel", 1, "data.tokenizer"),
)


def check_shapes(source, there, wanted, config):
    """Raises UserError if parameters do not have the shapes that the config gives them.

    Args:
      there, wanted: trees of anything with a shape. config: whole config, for the remedy.
    """
    there, wanted = _shapes(there), _shapes(wanted)
    differ = [name for name in sorted(there | wanted) if there.get(name) != wanted.get(name)]
    if not differ:
        return
    for name, axis, key in _SIZES:
        same_rank = name in there and len(there[name]) == len(wanted[name])
        if same_rank and there[name][axis] != wanted[name][axis]:
            raise UserError(
                f"{source.name} does not fit the config: parameter {name} is {there[name]} there "
                f"and {wanted[name]} by the config: {_remedy(key, there, axis, name, config)}"
            )
    name = differ[0]
    raise UserError(
        f"{source.name} does not fit the network: parameter {name} is "
        f"{there.get(name, 'missing')} there and {wanted.get(name, 'missing')} by the config: use "
        "another checkpoint"
    )


def _remedy(key, there, axis, name, config):
    size = there[name][axis]
    if key == "data.tokenizer":
        return f"set config.data.tokenizer to that of the checkpoint, which has {size} tokens"
    if key == "encoder.width" and config.encoder.kind == "t5":
        return f"set config.encoder.path to that of the checkpoint, which has width {size}"
    if key == "model.heads":  # what the parameter shows is the width of a head
        size = there["x_out/kernel"][0] // size
    return f"set config.{key}={size}"


def _shapes(tree):
    return {
        name: tuple(leaf.shape) for name, leaf in traverse_util.flatten_dict(tree, sep="/").items()
    }


@jax.jit
def _checksum(params):
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(params):
        # Odd factors that depend on the place, so that swapped values show.
        factor = jnp.ones((), jnp.uint32)
        for axis in range(leaf.ndim):
            place = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
            factor = factor * 31 + 2 * place
        bits = jax.lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.uint32)
        total = total * 31 + jnp.sum(bits * factor, dtype=jnp.uint32)
    return total


def fingerprint(params):
    """Eight hexadecimal digits that tell parameters apart: a checksum of their bits, in integers,
    so that it does not depend on how they are laid out over devices.
    """
    return f"{int(jax.device_get(_checksum(params))):08x}"


def starting_point(workdir, given):
    """The `Source` that the training in a workdir is still to start from, or None.

    Args:
      workdir: of the training.
      given: path or name from the user; None takes what the workdir has on record.

    Raises:
      UserError: the workdir's training was started from something else.
    """
    workdir = pathlib.Path(workdir)
    path = workdir / START
    recorded = None
    if path.is_file():
        recorded = json.loads(path.read_text(encoding="utf-8"))["checkpoint"]
    source = find_source(given) if given else None
    if source is not None and (workdir / config.FILE).is_file() and source.name != recorded:
        raise UserError(
            f"workdir {str(workdir)!r} was started from {recorded or 'scratch'}, not from "
            f"{source.name}: leave out --checkpoint to go on with it, or use another --workdir"
        )
    if is_begun(workdir):
        return None
    return find_source(recorded) if source is None and recorded else source


def record_start(workdir, source, weights, step):
    """Keeps in the workdir where its training starts from."""
    record = {"checkpoint": source.name, "kind": source.kind, "weights": weights, "step": step}
    write_json(pathlib.Path(workdir) / START, record)
