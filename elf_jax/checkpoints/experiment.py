"""Saves and restores the whole experiment with Orbax: state, data iterator, progress.

Parameters can also be restored alone. Each checkpoint has the checksums of its arrays, and what is
restored is compared with them.
"""

import contextlib
import hashlib
import json
import shutil

import jax
import orbax.checkpoint as ocp
from etils import epath

from elf_jax.checkpoints.array_sums import array_sums
from elf_jax.checkpoints.late_errors import hush
from elf_jax.core import store
from elf_jax.core.errors import UserError
from elf_jax.core.workdir import CHECKPOINTS, CONFIG


def directory_of(workdir):
    """The directory with the checkpoints of a workdir: in it, or in the store that it mirrors."""
    url = store.location(workdir)
    if store.is_url(url) and not url.startswith("file://"):
        return epath.Path(url) / CHECKPOINTS
    return epath.Path(url.removeprefix("file://")).absolute() / CHECKPOINTS


def is_begun(workdir):
    """Whether the workdir has a complete checkpoint to continue from."""
    directory = directory_of(workdir)
    return directory.is_dir() and any(entry.name.isdigit() for entry in directory.iterdir())


def check_whole(workdir):
    """Raises UserError if a workdir has checkpoints but no config."""
    if is_begun(workdir) and not (workdir / CONFIG).is_file():
        raise UserError(
            f"{workdir} has checkpoints but no {CONFIG}: restore that file, or use another "
            "--workdir"
        )


SUMS = "checksums"  # the item of a checkpoint with the checksums of the others; 0.2 has none
METADATA = "_CHECKPOINT_METADATA"  # Orbax's file in a checkpoint that names its items
# What the errors of a full or closed disk say. They come from several libraries.
_DISK = ("No space left", "RESOURCE_EXHAUSTED", "quota", "PERMISSION_DENIED", "Permission denied")


class Checkpoints:
    """The checkpoints of one workdir, of which the newest `keep` are kept.

    A checkpoint holds everything that resuming needs except the config, which is in the workdir.
    """

    def __init__(self, workdir, keep=2, create=True):
        self.directory = directory_of(workdir)
        if not create and not self.directory.is_dir():
            raise UserError(
                f"no checkpoint in {str(workdir)!r}: train first, or name another --workdir"
            )
        hush()
        self.keep = keep
        # A training removes what an earlier one that was killed left half written. No other program
        # may: it could be the checkpoint that a training is writing now.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=create, cleanup_tmp_directories=create
        )
        self.manager = ocp.CheckpointManager(self.directory, options=options)

    def latest(self):
        """The newest saved step, or None."""
        return self.manager.latest_step()

    def save(self, state, iterator, progress):
        """Saves the state after step `state.step`.

        Writing continues in the background until the next save or `close`.

        Args:
          state: the `TrainState`.
          iterator: the Grain iterator of the training data. Its position is the same on all
            processes.
          progress: JSON-able dict, such as the seconds trained so far.

        Raises:
          UserError: the disk is full or cannot be written, now or at the save before.
        """
        step = int(state.step)
        if step == self.latest():
            return
        # One position for all processes: a run may continue with another number of them.
        data = iterator.get_state()
        sums = {
            "state": array_sums(state),
            "data": _json_sum(data),
            "progress": _json_sum(progress),
        }
        with self._writing():
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(state),
                    data=ocp.args.JsonSave(data),
                    progress=ocp.args.JsonSave(progress),
                    **{SUMS: ocp.args.JsonSave(sums)},
                ),
            )

    @contextlib.contextmanager
    def _writing(self):
        """Turns the errors of a disk that is full or cannot be written into a UserError."""
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many types
            reason = " ".join(str(error).split())
            known = next((words for words in _DISK if words in reason), None)
            if known is None and not isinstance(error, OSError):
                raise
            # Orbax puts the whole state of its tasks into the message.
            reason = known or reason[:160]
            whole = self.steps()
            rest = f"; the checkpoint of step {whole[-1]} is whole" if whole else ""
            raise UserError(
                f"a checkpoint cannot be written to {self.directory} ({reason}){rest}: make room "
                "or mend the permissions, and run the same command again"
            ) from error

    def check_room(self, state, saves):
        """Compares the room on the disk of this process with the checkpoints of a training.

        The next checkpoint is written before the oldest is removed. In a store there is no limit.

        Args:
          state: what will be saved, as arrays. saves: how often, at most.

        Raises:
          UserError: the checkpoints do not fit.
        """
        if store.is_url(str(self.directory)):
            return
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        number = min(max(self.keep + 1 - len(self.steps()), 1), saves)
        free = shutil.disk_usage(self.directory).free
        if free < number * size:
            raise UserError(
                f"the disk of {self.directory} has {free / 1e9:.3g} GB free, and {number} "
                f"checkpoint(s) of {size / 1e9:.3g} GB must fit: make room, or use another "
                "--workdir" + (" or fewer config.train.keep_checkpoints" if self.keep > 1 else "")
            )

    def restore(self, state, iterator):
        """(state, progress) of the newest checkpoint; moves `iterator` to its saved position.

        Args:
          state: a `TrainState` of arrays or ShapeDtypeStructs with the wanted shardings.
          iterator: the Grain iterator of the same data.

        Raises:
          UserError: the checkpoint is damaged or does not fit.
        """
        step = self.latest()
        restored = self._restore(
            step,
            state=ocp.args.PyTreeRestore(state, ocp.checkpoint_utils.construct_restore_args(state)),
            data=ocp.args.JsonRestore(),
            progress=ocp.args.JsonRestore(),
        )
        self._compare(step, restored, restored.state)
        try:
            iterator.set_state(restored.data)
        except Exception as error:  # Grain raises many types for what is no state of this iterator
            raise self._damaged(step, error) from error
        return restored.state, restored.progress

    def restore_params(self, params, weights, step=None):
        """(parameters, progress, step) for sampling; the rest of the state is not read.

        Args:
          params: parameters as arrays or ShapeDtypeStructs with the wanted shardings.
          weights: "ema" or "live". step: of the checkpoint; None: the newest.
        """
        step = self.latest() if step is None else step
        item = {"ema" if weights == "ema" else "params": params}
        restored = self._restore(
            step,
            state=ocp.args.PyTreeRestore(
                item, ocp.checkpoint_utils.construct_restore_args(item), partial_restore=True
            ),
            progress=ocp.args.JsonRestore(),
        )
        self._compare(step, restored, restored.state)
        (loaded,) = restored.state.values()
        return loaded, restored.progress, step

    def params_shapes(self, weights, step=None):
        """The tree of parameters in a checkpoint; the leaves have shapes but no values.

        Args:
          weights, step: as of `restore_params`.
        """
        step = self.latest() if step is None else step
        path = self.directory / str(step) / "state"
        try:
            state = ocp.PyTreeCheckpointHandler().metadata(path).tree
            return state["ema" if weights == "ema" else "params"]
        except Exception as error:  # as in `_restore`
            raise self._damaged(step, error) from error

    def _restore(self, step, **items):
        if step is None:
            raise UserError(f"no checkpoint in {self.directory}: train first")
        if _has_sums(self.directory / str(step)):
            items[SUMS] = ocp.args.JsonRestore()
        try:
            return self.manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax and TensorStore raise many types for damaged files
            raise self._damaged(step, error) from error

    def _compare(self, step, restored, state):
        """Compares what was restored with the checksums of the checkpoint, if it has some."""
        if "train_seconds" not in (restored.progress or {}):
            raise self._damaged(step, "progress is not complete")
        if SUMS not in restored.keys():
            return  # saved by version 0.2 or earlier
        found = {f"array {name}": one for name, one in array_sums(state).items()}
        try:
            sums = restored[SUMS]
            kept = {f"array {name}": one for name, one in sums["state"].items()}
            kept |= {name: sums[name] for name in ("data", "progress")}
        except (KeyError, TypeError, AttributeError):
            raise self._damaged(step, f"{SUMS} is not complete") from None
        for name in ("data", "progress"):
            if name in restored.keys():
                found[name] = _json_sum(restored[name])
        for name, one in found.items():
            if kept.get(name) != one:
                raise self._damaged(step, f"{name} does not have its checksum")

    def _damaged(self, step, error):
        earlier = [one for one in self.steps() if one < step]
        remedy = "restore it from a copy"
        if earlier:
            remedy = f"remove that directory to use that of step {earlier[-1]}, or restore it"
        reason = " ".join(str(error).split()).split(" See full TensorStore details")[0][:160]
        return UserError(
            f"checkpoint {self.directory / str(step)} is damaged or does not fit ({reason}): "
            f"{remedy}"
        )

    def steps(self):
        """The steps of all checkpoints that are kept, from the first to the newest."""
        return sorted(self.manager.all_steps())

    def close(self):
        """Waits for pending writes and closes the directory."""
        with self._writing():
            self.manager.close()


def _has_sums(checkpoint):
    """Whether a checkpoint has checksums, or had some. Those of version 0.2 have none."""
    about = checkpoint / METADATA
    named = about.is_file() and f'"{SUMS}"'.encode() in about.read_bytes()
    return named or (checkpoint / SUMS).is_dir()


def _json_sum(value):
    """16 hexadecimal digits that change with a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def abstract(tree, shardings):
    """ShapeDtypeStructs with shardings, as `restore` needs them. They take no memory."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )
