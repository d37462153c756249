"""One training step: gradient of the mixed loss, update, average, metrics. And the loss on held-out
rows.

The gradient of every micro-batch is that of its share of the whole batch's loss, so accumulation
is a plain sum and the number of micro-batches changes nothing but memory.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from elf_jax.core import rng
from elf_jax.latents.encoder import Encoder
from elf_jax.methods.elf import objective
from elf_jax.methods.elf.predictor import Predictor
from elf_jax.training.optimizer import average


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """What the step needs to know beside the arrays.

    Attributes:
      groups: parts of the batch that deal their rows on their own: devices along the row axes.
      accumulate: micro-batches of a step.
      pad_in_loss: padding counts in the loss (it is EOS then).
      ema: decay of the average. dropout: rate; above 0 a key is drawn.
      objective: config section `objective`.
    """

    groups: int
    accumulate: int
    pad_in_loss: bool
    ema: float
    dropout: float
    objective: object


def batch_loss(predictor, encoder, settings, params, encoder_params, batch, ids, key, positions):
    """The share of the loss that the rows of `batch` have in a batch of `positions` loss positions.

    Args:
      params, encoder_params: of the network and of the frozen encoder.
      batch: the `Batch`. ids: [B] integers that name its rows, for their random draws.
      key: JAX key of this step.
      positions: float scalar, loss positions of the whole batch.

    Returns:
      (loss, `LossSums` and the like as a dict of scalars that add up over micro-batches).
    """
    law = settings.objective
    split = objective.make_split(
        len(ids) // settings.groups, law.decode_fraction, law.self_cond_fraction
    )
    keys = rng.per_example(key, ids)
    order = objective.deal(jax.vmap(lambda k: rng.stream(k, "deal"))(keys), split)
    batch, keys = jax.tree.map(lambda array: objective.permute(array, order), (batch, keys))
    drop = rng.uniform(jax.vmap(lambda k: rng.stream(k, "drop"))(keys)) < law.condition_dropout
    x = encoder.encode(encoder_params, batch.tokens, batch.is_cond, batch.is_valid, drop)
    draws = objective.draw(keys, split, *x.shape[1:], law)
    dropout_key = rng.stream(key, "dropout", ids[0]) if settings.dropout else None
    sums = objective.mixed_loss(
        predictor,
        params,
        x,
        batch,
        loss_mask(batch, settings.pad_in_loss),
        draws,
        split,
        law,
        dropout_key,
    )
    loss = (sums.denoise + sums.decode) / positions
    return loss, sums


def loss_mask(batch, pad_in_loss):
    """[B, L] bool, the loss positions: the target, and padding where it counts; never the
    condition.
    """
    target = ~batch.is_cond
    return target if pad_in_loss else target & batch.is_valid


def make_train_step(
    predictor: Predictor,
    encoder: Encoder,
    optimizer,
    schedule,
    settings: StepSettings,
    shardings=None,
):
    """The function (state, encoder_params, batch, key) -> (state, metrics), to be jitted.

    `key` is the root key of training; the step folds in its own number. `shardings` are those of
    the parameters: gradients are laid out alike, so that how the optimiser spreads its work says
    nothing about the passes before it.
    """

    def loss_and_gradient(state, encoder_params, batch, key):
        positions = jnp.sum(loss_mask(batch, settings.pad_in_loss)).astype(jnp.float32)
        positions = jnp.maximum(positions, 1.0)
        gradient = jax.value_and_grad(batch_loss, argnums=3, has_aux=True)

        def one(micro):
            batch, ids = micro
            return gradient(
                predictor,
                encoder,
                settings,
                state.params,
                encoder_params,
                batch,
                ids,
                key,
                positions,
            )

        micros = _micro_batches((batch, jnp.arange(len(batch.tokens))), settings)
        if settings.accumulate == 1:
            results = one(jax.tree.map(lambda a: a[0], micros))
        else:
            first = jax.tree.map(
                lambda a: jnp.zeros(a.shape, a.dtype),
                jax.eval_shape(one, jax.tree.map(lambda a: a[0], micros)),
            )
            add = lambda total, micro: (jax.tree.map(jnp.add, total, one(micro)), None)  # noqa: E731
            results, _ = jax.lax.scan(add, first, micros)
        (loss, sums), grads = results
        return loss, sums, grads, positions

    def train_step(state, encoder_params, batch, key):
        step_key = rng.stream(key, "train", state.step)
        loss, sums, grads, positions = loss_and_gradient(state, encoder_params, batch, step_key)
        if shardings is not None:
            grads = jax.lax.with_sharding_constraint(grads, shardings)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            **loss_metrics(loss, sums, positions, settings.objective.decode_fraction),
            "gradient_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state.step),
        }
        ema = average(state.ema, params, settings.ema)
        return state.replace(
            step=state.step + 1, params=params, ema=ema, opt_state=opt_state
        ), metrics

    return train_step


def make_eval_step(predictor, encoder, settings: StepSettings):
    """The function (params, encoder_params, batch, key, real) -> sums over the rows where `real`
    [B] is True.

    The sums add up over batches; divide them as `loss_metrics` does. The draws depend on the key
    alone, so that losses
    of different steps compare like with like.
    """

    def eval_step(params, encoder_params, batch, key, real):
        # Rows that only fill up the last batch have no loss positions.
        batch = batch.replace(is_cond=batch.is_cond | ~real[:, None])
        positions = jnp.sum(loss_mask(batch, settings.pad_in_loss)).astype(jnp.float32)
        one = jnp.float32(1.0)
        ids = jnp.arange(len(batch.tokens))
        loss, sums = batch_loss(
            predictor, encoder, settings, params, encoder_params, batch, ids, key, one
        )
        return loss, sums, positions

    return eval_step


def loss_metrics(loss, sums, positions, decode_fraction):
    """The readable losses: the mixed one, each on its own, and the decode accuracy."""
    return {
        "loss": loss,
        "denoise_loss": sums.denoise / positions / max(1 - decode_fraction, 1e-9),
        "decode_loss": sums.decode / positions / max(decode_fraction, 1e-9),
        "decode_accuracy": sums.correct / jnp.maximum(sums.decoded, 1.0),
    }


def _micro_batches(tree, settings):
    """[B, ...] -> [accumulate, B / accumulate, ...] such that every micro-batch has rows of every
    device.
    """

    def split(array):
        shape = (settings.groups, settings.accumulate, -1) + array.shape[1:]
        return (
            array.reshape(shape).swapaxes(0, 1).reshape((settings.accumulate, -1) + array.shape[1:])
        )

    return jax.tree.map(split, tree)
