"""What the checksums of a checkpoint cost: of the training state, beside saving and restoring it.

python -m benchmarks.checkpoint_sums --config=configs/quickstart.py
python -m benchmarks.checkpoint_sums --config=configs/owt.py:elf_l --topology=v5p:2x4x4 \\
    --config.mesh.data=1 --config.mesh.fsdp=32

With --topology nothing is timed: the TPU compiler tells what the checksums of the arrays cost on a
slice, which need not be there. Otherwise the candidates are: the checksums of all arrays on the
devices; a whole save to a temporary directory and a whole restore, both with their checksums; and
the SHA-256 of a file with the averaged parameters, which an export is compared with.
"""

import pathlib
import tempfile

import jax
import safetensors.numpy
from absl import flags
from flax import traverse_util

from benchmarks.common import FLAGS, compare, random_method, run
from elf_jax.checkpoints.array_sums import array_sums, sums_program
from elf_jax.checkpoints.experiment import Checkpoints, abstract
from elf_jax.core import sharding
from elf_jax.core.checksums import file_sha256
from elf_jax.hardware.chips import CHIPS
from elf_jax.hardware.compile_report import topology_devices
from elf_jax.hardware.program_cost import program_cost
from elf_jax.methods.registry import describe_method
from elf_jax.training.optimizer import make_optimizer
from elf_jax.training.state import TrainState
from elf_jax.training.trainer import new_state

TOPOLOGY = flags.DEFINE_string("topology", "", "a TPU slice such as v5p:2x4x4", flag_values=FLAGS)


class _Position:
    """In place of the iterator of the training data."""

    def get_state(self):
        """See Grain."""
        return {"next_index": 0}

    def set_state(self, state):
        """See Grain."""


def estimate(config, topology):
    """Prints what the checksums cost on a slice, as its compiler sees it."""
    mesh = sharding.make_mesh(config.mesh, topology_devices(topology))
    method, _ = describe_method(config, mesh)
    optimizer = make_optimizer(
        config.optimizer, lambda step: 1e-3, method.dtype, mesh, method.own_rates
    )
    shapes = jax.eval_shape(
        lambda key: TrainState.create(method.init(key, config.data.length), optimizer),
        jax.random.key(0),
    )
    arrays = jax.tree.leaves(abstract(shapes, sharding.of_tree(shapes, mesh)))
    compiled = sums_program(arrays).lower(arrays).compile()
    cost, chip = program_cost(compiled.as_text()), CHIPS.get(mesh.devices.flat[0].device_kind)
    size = sum(array.size * array.dtype.itemsize for array in arrays)
    memory = compiled.memory_analysis().argument_size_in_bytes
    print(
        f"state of {size / 1e9:.3g} GB, {memory / 1e9:.3g} GB on each chip of {topology}: "
        f"{cost.collective_bytes:.0f} bytes of collectives, {cost.cycles:,.0f} cycles"
        + (f" = {1000 * cost.cycles / chip.clock:.2g} ms" if chip else "")
    )


def main(config):
    """Times the candidates and prints the table, or prints the estimate."""
    if TOPOLOGY.value:
        return estimate(config, TOPOLOGY.value)
    mesh = sharding.make_mesh(config.mesh)
    method, _ = random_method(config, mesh)
    optimizer = make_optimizer(
        config.optimizer, lambda step: 1e-3, method.dtype, mesh, method.own_rates
    )
    state, shardings = new_state(config, method, optimizer, mesh)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        file = directory / "model.safetensors"
        flat = traverse_util.flatten_dict(jax.device_get(state.ema), sep="/")
        safetensors.numpy.save_file(flat, file)
        del flat
        target, steps = abstract(state, shardings), iter(range(1, 1000))

        def save():
            checkpoints = Checkpoints(directory / "run", keep=1)
            later = state.replace(step=state.step + next(steps))
            checkpoints.save(later, _Position(), {"train_seconds": 0.0})
            checkpoints.close()

        def restore():
            checkpoints = Checkpoints(directory / "run", create=False)
            restored = checkpoints.restore(target, _Position())[0]
            checkpoints.close()
            return restored

        candidates = {
            "save": (None, save),
            "restore": (None, restore),
            "checksums of the arrays": (None, lambda: array_sums(state)),
            "SHA-256 of the EMA weights": (None, lambda: file_sha256(file)),
        }
        share = file.stat().st_size / size
        title = f"state of {size / 1e9:.3g} GB, EMA weights {share:.0%} of it"
        compare(title, candidates, "bytes", size, "save")


if __name__ == "__main__":
    run(main, __doc__)
