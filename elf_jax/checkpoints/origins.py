"""Finds where weights come from: a workdir, an exported model, or a published checkpoint."""

import dataclasses
import pathlib

from elf_jax.checkpoints.experiment import directory_of, is_begun
from elf_jax.checkpoints.export import is_export, read_export_config
from elf_jax.checkpoints.published import fetch, find_published
from elf_jax.core import checksums, store
from elf_jax.core.config import read_config
from elf_jax.core.errors import UserError
from elf_jax.core.files import read_json, write_json
from elf_jax.core.workdir import CHECKPOINTS, CONFIG, START, TOKENIZER
from elf_jax.data.tokenizer import TRAINED


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where weights come from.

    Attributes:
      kind: "workdir", "export" or "published".
      path: on disk. name: its path, or its name on the hub, for messages and records.
      step: of a workdir, which of its checkpoints; None: the newest.
    """

    kind: str
    path: pathlib.Path
    name: str
    step: int | None = None

    @property
    def home(self):
        """The directory with config, tokenizer and embedding; None for a published checkpoint."""
        return None if self.kind == "published" else self.path


def workdir_origin(workdir):
    """The `Origin` of a workdir. Its content is not checked."""
    return Origin("workdir", pathlib.Path(workdir), str(workdir))


def find_origin(path_or_name):
    """The `Origin` at a path or under a name on the hub. The files there show what it is.

    Raises:
      UserError: nothing is there, or no weights.
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
            raise UserError(f"{path} is inside a workdir: give the workdir, {folder.parent}")
    return Origin("published", find_published(path), name)


def load_config(origin):
    """The config of an origin.

    Raises:
      UserError: it has none, because it is a published checkpoint.
    """
    if origin.kind == "published":
        raise UserError(
            f"{origin.name} is a published checkpoint, which holds no config: give its config "
            "with --config"
        )
    return read_export_config(origin.path) if origin.kind == "export" else read_config(origin.path)


def tokenizer_path(origin, data_settings):
    """The path or name of an origin's tokenizer.

    An origin has its own tokenizer. Only for a published checkpoint it is that of the config
    section `data`.
    """
    if origin.home is not None:
        return origin.home / TOKENIZER
    if data_settings.tokenizer in ("auto", *TRAINED):
        raise UserError(
            f"{origin.name} is a published checkpoint, which holds no tokenizer: set "
            "config.data.tokenizer to the directory of its tokenizer"
        )
    return data_settings.tokenizer


def starting_point(workdir, given):
    """The `Origin` whose weights the training in a workdir must start from.

    Args:
      workdir: of the training.
      given: path or name from the user; None: the one that the workdir has kept.

    Returns:
      The `Origin`. None if the training starts from scratch or has a checkpoint of its own.

    Raises:
      UserError: the training in the workdir was started from something else.
    """
    workdir = pathlib.Path(workdir)
    path = workdir / START
    remembered = None
    if checksums.is_there(path):
        start = read_json(path)
        if "teacher" in start:
            raise UserError(
                f"workdir {str(workdir)!r} is a round of a distillation: go on with "
                f"--mode=distill, or start from it with --checkpoint={workdir} in another --workdir"
            )
        remembered = start.get("checkpoint")
        if not isinstance(remembered, str):
            raise UserError(f"{path} is damaged (it names no checkpoint): restore the file")
    origin = find_origin(given) if given else None
    if origin is not None and (workdir / CONFIG).is_file() and origin.name != remembered:
        raise UserError(
            f"workdir {str(workdir)!r} was started from {remembered or 'scratch'}, not from "
            f"{origin.name}: leave out --checkpoint to go on with it, or use another --workdir"
        )
    if is_begun(workdir):
        return None
    return find_origin(remembered) if origin is None and remembered else origin


def save_start(workdir, origin, weights, step, **more):
    """Writes into the workdir which weights its training starts from. more: further values."""
    start = {"checkpoint": origin.name, "kind": origin.kind, "weights": weights, "step": step}
    write_json(pathlib.Path(workdir) / START, {**start, **more})
