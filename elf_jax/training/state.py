"""What training carries from step to step."""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class TrainState:
    """Attributes:
    step: int32 scalar, finished steps.
    params: the live parameters, float32.
    ema: their exponential moving average, which is sampled from.
    opt_state: of the optimiser.
    """

    step: jax.Array
    params: dict
    ema: dict
    opt_state: object

    @classmethod
    def create(cls, params, optimizer):
        """The state before the first step; the average starts at the initial parameters."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema=jax.tree.map(jnp.copy, params),
            opt_state=optimizer.init(params),
        )
