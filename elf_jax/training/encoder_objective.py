"""The objective of an encoder from scratch: a T5 that fills in hidden spans.

Source: T5, arXiv 1910.10683, section 3.1.4. B rows, L input positions, T target positions.
"""

import dataclasses

import jax.numpy as jnp

from elf_jax.latents.encoder import attention_mask
from elf_jax.networks import vocabulary
from elf_jax.networks.t5 import T5, T5Config


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


@dataclasses.dataclass(frozen=True)
class SpanFilling:
    """The loss of the training step, like `Method.loss` and `Method.metrics`.

    Attributes:
      network: the whole T5. start_id: first input token of the decoder.
      groups: number of parts that the rows of a batch are split into over the devices.
    """

    network: T5
    start_id: int
    groups: int = 1

    def init(self, key):
        """Fresh float32 parameters."""
        tokens, ones = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
        mask = ones[:, None] & ones[:, :, None]
        return self.network.init(key, tokens, mask, ones, tokens)["params"]

    def loss(self, params, frozen, batch, counted, ids, context):
        """(cross-entropy in nats, {"right": correct predictions}), sums over the counted targets.

        Args:
          batch: see `span_corruption.corrupt`. counted: [B, T] bool.
        """
        del frozen, context
        keep = jnp.zeros(len(ids), bool)
        mask = attention_mask(batch["inputs_cond"], batch["inputs_valid"], keep)
        start = jnp.full((len(ids), 1), self.start_id, jnp.int32)
        previous = jnp.concatenate([start, batch["targets"][:, :-1]], axis=1)

        def apply(*arguments, method):
            return self.network.apply({"params": params}, *arguments, method=method)

        inputs = batch["inputs"], mask, batch["inputs_valid"], previous
        losses, right = vocabulary.token_losses(
            lambda part: apply(part, method=T5.logit_head),
            apply(*inputs, method=T5.hidden),
            batch["targets"],
            self.network.config.vocab_size,
            len(ids) // self.groups,
        )
        sums = (jnp.sum(jnp.where(counted, values, 0.0)) for values in (losses, right))
        loss, right = sums
        return loss, {"right": right}

    def metrics(self, loss, sums, positions):
        """Cross-entropy in nats per token, and the share of correct predictions."""
        return {"loss": loss, "accuracy": sums["right"] / positions}


def counted_targets(batch):
    """[B, T] bool, the target positions that hold a token."""
    return batch["targets_valid"]
