"""Saves and restores the whole experiment with Orbax: state, data iterator, progress.

Parameters can also be restored alone.
"""

import jax
import orbax.checkpoint as ocp
from etils import epath

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
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=create)
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
        """
        step = int(state.step)
        if step == self.latest():
            return
        self.manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(state),
                # One position for all processes: a run may continue with another number of them.
                data=ocp.args.JsonSave(iterator.get_state()),
                progress=ocp.args.JsonSave(progress),
            ),
        )

    def restore(self, state, iterator):
        """(state, progress) of the newest checkpoint; moves `iterator` to its saved position.

        Args:
          state: a `TrainState` of arrays or ShapeDtypeStructs with the wanted shardings.
          iterator: the Grain iterator of the same data.

        Raises:
          UserError: the checkpoint is damaged or does not fit.
        """
        restored = self._restore(
            state=ocp.args.PyTreeRestore(state, ocp.checkpoint_utils.construct_restore_args(state)),
            data=ocp.args.JsonRestore(),
            progress=ocp.args.JsonRestore(),
        )
        iterator.set_state(restored.data)
        return restored.state, restored.progress

    def restore_params(self, params, weights):
        """(parameters, progress, step) for sampling; the rest of the state is not read.

        Args:
          params: parameters as arrays or ShapeDtypeStructs with the wanted shardings.
          weights: "ema" or "live".
        """
        item = {"ema" if weights == "ema" else "params": params}
        restored = self._restore(
            state=ocp.args.PyTreeRestore(
                item, ocp.checkpoint_utils.construct_restore_args(item), partial_restore=True
            ),
            progress=ocp.args.JsonRestore(),
        )
        (loaded,) = restored.state.values()
        return loaded, restored.progress, self.latest()

    def params_shapes(self, weights):
        """The tree of parameters in the newest checkpoint; the leaves have shapes but no values."""
        path = self.directory / str(self.latest()) / "state"
        try:
            state = ocp.PyTreeCheckpointHandler().metadata(path).tree
            return state["ema" if weights == "ema" else "params"]
        except Exception as error:  # as in `_restore`
            raise self._damaged(error) from error

    def _restore(self, **items):
        step = self.latest()
        if step is None:
            raise UserError(f"no checkpoint in {self.directory}: train first")
        try:
            return self.manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax and TensorStore raise many types for damaged files
            raise self._damaged(error) from error

    def _damaged(self, error):
        reason = " ".join(str(error).split())[:160]
        return UserError(
            f"checkpoint {self.directory / str(self.latest())} is damaged or does not fit "
            f"({reason}): remove that directory to continue from the one before it, or restore it"
        )

    def close(self):
        """Waits for pending writes and closes the directory."""
        self.manager.close()


def abstract(tree, shardings):
    """ShapeDtypeStructs with shardings, as `restore` needs them. They take no memory."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )
