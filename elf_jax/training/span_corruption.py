"""One step of an encoder's pretraining: sizes, loss, update (T5, arXiv 1910.10683)."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from elf_jax.latents.encoder import attention_mask
from elf_jax.networks.t5 import T5Config


@flax.struct.dataclass
class PretrainState:
    """step: int32 scalar, finished steps. params: of `T5`, float32. opt_state: of the optimiser."""

    step: jax.Array
    params: dict
    opt_state: object


def t5_config(pretrain, vocab_size):
    """`T5Config` of the config section `pretrain`."""
    gated = pretrain.version == "v1.1"
    return T5Config(
        vocab_size=vocab_size,
        d_model=pretrain.width,
        d_kv=pretrain.head_width,
        d_ff=pretrain.hidden,
        num_layers=pretrain.depth,
        num_heads=pretrain.heads,
        gated=gated,
        activation="gelu_new" if gated else "relu",
        num_decoder_layers=pretrain.decoder_depth,
        tie_word_embeddings=not gated,
    )


def loss_sums(network, params, batch, start_id):
    """Sums over the target positions of a batch: (cross-entropy in nats, right guesses, positions).

    Args:
      network: `T5`. params: its parameters.
      batch: see `spans.corrupt`. start_id: token that the decoder starts from.
    """
    keep = jnp.zeros(len(batch["inputs"]), bool)
    mask = attention_mask(batch["inputs_cond"], batch["inputs_valid"], keep)
    start = jnp.full((len(keep), 1), start_id, jnp.int32)
    previous = jnp.concatenate([start, batch["targets"][:, :-1]], axis=1)
    logits = network.apply(
        {"params": params}, batch["inputs"], mask, batch["inputs_valid"], previous
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
    right = jnp.argmax(logits, axis=-1) == batch["targets"]
    counted = batch["targets_valid"]
    return tuple(jnp.sum(jnp.where(counted, x, 0.0)) for x in (losses, right, counted))


def make_train_step(network, optimizer, start_id):
    """The function (state, batch) -> (state, metrics), to be jitted."""

    def loss_of(params, batch):
        loss, right, count = loss_sums(network, params, batch, start_id)
        return loss / count, right / count

    def train_step(state, batch):
        (loss, accuracy), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, "accuracy": accuracy, "gradient_norm": optax.global_norm(grads)}
        return PretrainState(state.step + 1, params, opt_state), metrics

    return train_step
