"""The state of a training, which every step changes."""

import flax.struct
import jax
import jax.numpy as jnp

from elf_jax.checkpoints.experiment import abstract
from elf_jax.core import rng, sharding


@flax.struct.dataclass
class TrainState:
    """Attributes:
    step: int32 scalar, finished steps.
    params: the live parameters, float32.
    ema: their exponential moving average, or None if there is none.
    opt_state: of the optimiser.
    """

    step: jax.Array
    params: dict
    ema: dict | None
    opt_state: object

    @classmethod
    def create(cls, params, optimizer, with_ema=True, **rest):
        """The state before the first step. The average starts at the initial parameters."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema=jax.tree.map(jnp.copy, params) if with_ema else None,
            opt_state=optimizer.init(params),
            **rest,
        )


def init_state(create, key, mesh):
    """(state, its shardings). Every device makes its own part of the state.

    Args:
      create: function from a JAX key to the state. key: the key. mesh: the devices.
    """
    _, shardings = describe_state(create, key, mesh)
    return jax.jit(create, out_shardings=shardings)(key), shardings


def describe_state(create, key, mesh):
    """(`init_state` as ShapeDtypeStructs with shardings, its shardings). Nothing is computed."""
    shapes = jax.eval_shape(create, key)
    shardings = sharding.of_tree(shapes, mesh)
    return abstract(shapes, shardings), shardings


def training_key(seed, mesh):
    """The root JAX key of training, on all devices of all processes."""
    make = jax.jit(
        lambda: rng.stream(jax.random.key(seed), "training"),
        out_shardings=sharding.replicated(mesh),
    )
    return make()
