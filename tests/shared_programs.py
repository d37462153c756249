"""Programs that many trainings and samplings of one process share: in `damage.py`, and in modules
of tests with the fixture `share_programs`. Not for tests that change the code of a program.
"""

import contextlib
from unittest import mock

from elf_jax.checkpoints import weights
from elf_jax.evaluation import evaluate, kept_samples
from elf_jax.generation import fill, generate
from elf_jax.training import samples, state, trainer

# Tracing and compiling takes much longer than a mode that is as tiny as these. So modes with the
# same config, method and devices share their programs: functions that make one, and the method and
# the rest of the key of a call. Settings that are read from files are in this key, and arrays are
# arguments of the program.
_PROGRAMS = {
    (trainer, "jit_train_step"): lambda config, method, _, schedule, mesh, shardings, pad: (
        *(method, config.to_json(), mesh, repr(shardings), pad),
        tuple(float(schedule(step)) for step in range(8)),
    ),
    (trainer, "jit_eval_step"): lambda method, config: (method, config.to_json()),
    (evaluate, "jit_eval_step"): lambda method, config: (method, config.to_json()),
    (generate, "jit_sampler"): lambda one: (one.method, one.config.to_json(), one.mesh),
    (kept_samples, "jit_sampler"): lambda one: (one.method, one.config.to_json(), one.mesh),
    (fill, "jit_sampler"): lambda one: (one.method, one.config.to_json(), one.mesh),
    (samples, "jit_sampler"): lambda one: (one.method, one.config.to_json(), one.mesh),
    (weights, "params_shapes"): lambda method, length: (method, length),
}
_made = {}  # {key: (its method, whose functions so keep their addresses in the key, the program)}


def _shared(function, key_of):
    """The function, which gives the same result again for the same method and key."""

    def share(*args):
        method, *rest = key_of(*args)
        key = function, repr(method), *rest
        if key not in _made:
            _made[key] = method, function(*args)
        return _made[key][1]

    return share


# The function that makes a first state. If it is the same one, JAX knows its program again.
_creation = _shared(
    lambda config, method, optimizer, mesh: trainer._creation(config, method, optimizer),
    lambda config, method, _, mesh: (method, config.to_json(), mesh),
)


def _new_state(*args):
    """`trainer.new_state`"""
    return state.init_state(*_creation(*args), args[-1])


def _described_state(*args):
    """`trainer.described_state`"""
    return state.describe_state(*_creation(*args), args[-1])


@contextlib.contextmanager
def shared_programs():
    """In the block, modes share the programs of `_PROGRAMS`."""
    with contextlib.ExitStack() as stack:
        for (module, name), key_of in _PROGRAMS.items():
            share = _shared(getattr(module, name), key_of)
            stack.enter_context(mock.patch.object(module, name, share))
        stack.enter_context(mock.patch.object(trainer, "new_state", _new_state))
        stack.enter_context(mock.patch.object(trainer, "described_state", _described_state))
        yield
