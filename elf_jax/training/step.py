"""One training step: gradient, update, average, metrics. And the loss on held-out rows.

The step does not depend on the method. The method gives the sum of the loss over the counted
positions, and the step divides by their number in the whole batch. So the gradients of the
micro-batches are added without weights, and the number of micro-batches changes only the memory
that is needed. The rows of different buckets are added up in the same way.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from elf_jax.core import rng
from elf_jax.core.averaging import decay_at
from elf_jax.methods.method import Context
from elf_jax.training.optimizer import average


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """Settings of the step.

    Attributes:
      counted: function from a batch to [B, L] bool, the positions whose loss counts.
      groups: number of parts that the rows are split into over the devices. Every micro-batch has
        rows of every part.
      accumulate: number of micro-batches in a step.
      ema, ema_warmup: decay of the average, and whether it is less in the first steps, see
        `averaging.decay_at`.
      give: function (batch, key) -> batch that chooses the given positions, see `given.make_law`.
        None: the condition stays that of the data.
    """

    counted: Callable
    groups: int = 1
    accumulate: int = 1
    ema: float = 0.0
    ema_warmup: bool = False
    give: Callable | None = None


def make_train_step(method, optimizer, schedule, settings, shardings=None):
    """The function (state, frozen, batch, key) -> (state, metrics), to be jitted. The batch is a
    `Batch`, or a list with one for each bucket.

    Args:
      method: a `Method`, of which `loss` and `metrics` are used.
      optimizer, schedule: optax's transformation, and the learning rate by step.
      settings: `StepSettings`.
      shardings: of the parameters. Gradients get the same layout. Otherwise the layout that the
        optimiser chooses for its work could change the forward and backward passes.

    `key` is the root key of training; the step folds in its own number.
    """

    def train_step(state, frozen, batch, key):
        keys = _bucket_keys(rng.stream(key, "train", state.step), batch)
        batches = batch if isinstance(batch, list) else (batch,)
        if settings.give is not None:  # first, since given positions do not count
            batches = [
                settings.give(one, rng.stream(key, "given"))
                for one, key in zip(batches, keys, strict=True)
            ]
        positions = _count([settings.counted(one) for one in batches])
        parts = [
            _loss_and_gradient(
                method,
                settings,
                state.params,
                frozen,
                one,
                Context(key, state.step, state.ema, _rows(one), is_training=True),
                positions,
            )
            for one, key in zip(batches, keys, strict=True)
        ]
        (loss, sums), grads = _added(parts)
        if shardings is not None:
            grads = jax.lax.with_sharding_constraint(grads, shardings)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            **method.metrics(loss, sums, positions),
            "gradient_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state.step),
        }
        decay = decay_at(state.step, settings.ema, settings.ema_warmup)
        ema = None if state.ema is None else average(state.ema, params, decay)
        state = state.replace(step=state.step + 1, params=params, ema=ema, opt_state=opt_state)
        return state, metrics

    return train_step


def _bucket_keys(key, batch):
    """The keys of the buckets of a batch. The first one is that of a batch without buckets."""
    count = len(batch) if isinstance(batch, list) else 1
    return [key, *(rng.stream(key, "bucket", number) for number in range(1, count))]


def _added(trees):
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *trees)


def _count(counted):
    count = sum(jnp.sum(one) for one in counted)
    return jnp.maximum(count.astype(jnp.float32), 1.0)


def _loss_and_gradient(method, settings, params, frozen, batch, context, positions):
    """((mean loss, sums), gradient of the loss), summed over the micro-batches."""

    def share(params, batch, ids):
        """The part of the mean loss of the whole batch that a micro-batch gives."""
        counted = settings.counted(batch)
        total, sums = method.loss(params, frozen, batch, counted, ids, context)
        return total / positions, sums

    def one(micro):
        return jax.value_and_grad(share, has_aux=True)(params, *micro)

    micros = _micro_batches((batch, jnp.arange(_rows(batch))), settings)
    if settings.accumulate == 1:
        return one(jax.tree.map(lambda a: a[0], micros))
    shapes = jax.eval_shape(one, jax.tree.map(lambda a: a[0], micros))
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    add = lambda total, micro: (jax.tree.map(jnp.add, total, one(micro)), None)  # noqa: E731
    return jax.lax.scan(add, zeros, micros)[0]


def _rows(batch):
    return len(jax.tree.leaves(batch)[0])


def _micro_batches(tree, settings):
    """[B, ...] -> [accumulate, B / accumulate, ...]. Every micro-batch has rows of every device."""

    def split(array):
        shape, rest = (settings.groups, settings.accumulate, -1), array.shape[1:]
        parts = array.reshape(shape + rest).swapaxes(0, 1)
        return parts.reshape((settings.accumulate, -1) + rest)

    return jax.tree.map(split, tree)


def make_eval_step(method, counted):
    """The function (params, frozen, batch, key, real) -> (loss, sums, positions), to be jitted.

    Args:
      method: a `Method`, of which `loss` is used.
      counted: function from a batch to [B, L] bool, the positions whose loss counts.

    The results are sums over the rows where `real` [B] is True, so they can be added over batches.
    The random draws depend only on the key, so losses after different steps can be compared.
    """

    def eval_step(params, frozen, batch, key, real):
        # Rows that only fill up the last batch do not count.
        counts = counted(batch) & real[:, None]
        ids = jnp.arange(_rows(batch))
        context = Context(key, jnp.zeros((), jnp.int32), real=jnp.sum(real))
        loss, sums = method.loss(params, frozen, batch, counts, ids, context)
        return loss, sums, jnp.sum(counts).astype(jnp.float32)

    return eval_step
