"""Where weights come from: a workdir of ours, an exported model, or a published checkpoint."""

import dataclasses
import json
import pathlib

from elf_jax.checkpoints.experiment import directory_of, is_begun
from elf_jax.checkpoints.export import is_export, read_export_config
from elf_jax.checkpoints.published import fetch, find_published
from elf_jax.core import store
from elf_jax.core.config import read_config
from elf_jax.core.errors import UserError
from elf_jax.core.files import write_json
from elf_jax.core.workdir import CHECKPOINTS, CONFIG, START, TOKENIZER
from elf_jax.data.tokenizer import TRAINED


@dataclasses.dataclass(frozen=True)
class Origin:
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


def workdir_origin(workdir):
    """The workdir as an `Origin`, whatever is in it."""
    return Origin("workdir", pathlib.Path(workdir), str(workdir))


def find_origin(path_or_name):
    """The `Origin` at a path or under a name on the hub, recognised by what is there.

    Raises:
      UserError: nothing is there, or nothing that holds weights.
    """
    path = store.fetch(path_or_name) if store.is_url(path_or_name) else fetch(path_or_name)
    is_local = pathlib.Path(path_or_name).expanduser().exists()
    name = str(path.absolute()) if is_local else str(path_or_name)
    if is_export(path):
        return Origin("export", path, name)
    if directory_of(path).is_dir() and (path / CONFIG).is_file():
        return Origin("workdir", path, name)
    for folder in (path, path.parent):
        if folder.name == CHECKPOINTS and (folder.parent / CONFIG).is_file():
            raise UserError(f"{path} is a part of a workdir: give the whole, {folder.parent}")
    return Origin("published", find_published(path), name)


def load_config(origin):
    """The config that an origin keeps.

    Raises:
      UserError: it keeps none.
    """
    if origin.kind == "published":
        raise UserError(
            f"{origin.name} is a published checkpoint, which holds no config: give the one it was "
            "trained with as --config"
        )
    return read_export_config(origin.path) if origin.kind == "export" else read_config(origin.path)


def tokenizer_path(origin, data_settings):
    """Where the tokenizer is that the origin's vocabulary belongs to: its own, or for a published
    checkpoint the one of the config section `data`.
    """
    if origin.home is not None:
        return origin.home / TOKENIZER
    if data_settings.tokenizer in ("auto", *TRAINED):
        raise UserError(
            f"{origin.name} is a published checkpoint, which holds no tokenizer: set "
            "config.data.tokenizer to the directory of the one it was trained with"
        )
    return data_settings.tokenizer


def starting_point(workdir, given):
    """The `Origin` that the training in a workdir is still to start from, or None.

    Args:
      workdir: of the training.
      given: path or name from the user; None takes what the workdir remembers.

    Raises:
      UserError: the workdir's training was started from something else.
    """
    workdir = pathlib.Path(workdir)
    path = workdir / START
    remembered = None
    if path.is_file():
        remembered = json.loads(path.read_text(encoding="utf-8"))["checkpoint"]
    origin = find_origin(given) if given else None
    if origin is not None and (workdir / CONFIG).is_file() and origin.name != remembered:
        raise UserError(
            f"workdir {str(workdir)!r} was started from {remembered or 'scratch'}, not from "
            f"{origin.name}: leave out --checkpoint to go on with it, or use another --workdir"
        )
    if is_begun(workdir):
        return None
    return find_origin(remembered) if origin is None and remembered else origin


def save_start(workdir, origin, weights, step):
    """Keeps in the workdir what its training starts from."""
    start = {"checkpoint": origin.name, "kind": origin.kind, "weights": weights, "step": step}
    write_json(pathlib.Path(workdir) / START, start)
