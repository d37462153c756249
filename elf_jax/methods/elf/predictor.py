"""The inputs of the network, [z, x_prev] and its modes, and guidance.

Only this module builds the inputs of the network. Other code asks it for an x-prediction or for
logits. In decode mode t is 1, the mode tokens are on, and x_prev is zero, whatever the caller gives
(ELF, arXiv 2605.10938).
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from elf_jax.core.types import ExampleMask, Latents, Mask, PerExample, typed
from elf_jax.methods import watching
from elf_jax.methods.elf import flow
from elf_jax.networks import vocabulary
from elf_jax.networks.attention import Cache
from elf_jax.networks.elf import ELF, Before


@dataclasses.dataclass(frozen=True)
class Condition:
    """The clean latents [B, L, C] of what is given: those where mask [B, L] is True."""

    latents: Latents
    mask: Mask

    def restore(self, latents, instead=None):
        """`latents` with the positions of the condition set to the condition (or to `instead`)."""
        clean = self.latents if instead is None else instead
        return jnp.where(self.mask[..., None], clean, latents)


@dataclasses.dataclass(frozen=True)
class Words:
    """The latents of all tokens, for an x-prediction by the probabilities of tokens.

    Attributes:
      table: [V, C], the clean latent of each token. temperature: of the probabilities.
    """

    table: jax.Array
    temperature: jax.Array

    def mean(self, logits):
        """[..., C], the mean latent by logits [..., V]."""
        return jax.nn.softmax(logits / self.temperature) @ self.table


@dataclasses.dataclass(frozen=True)
class Predictor:
    """An ELF network. Each method runs a part of it. The caller passes the parameters, which may be
    the live, the averaged (EMA) or a teacher's parameters.
    """

    network: ELF

    def init(self, key, length):
        """New float32 parameters. They do not depend on `length`, which is only the length of the
        rows that are traced.
        """
        inputs = jnp.zeros((1, length, 2 * self.network.latent_width))
        one = jnp.ones(1)
        variables = self.network.init(key, inputs, one, one, one > 0, method=ELF.everything)
        return variables["params"]

    @typed
    def hidden(
        self,
        params,
        z: Latents,
        x_prev: Latents,
        t: PerExample,
        w: PerExample,
        is_decode: ExampleMask,
        dropout_key=None,
        ids=None,
        before: Before | None = None,
    ):
        """Hidden states [B, L, D] of a batch that may mix both modes.

        Args:
          params: the network's parameters.
          z: latents. x_prev: previous x-prediction; it is set to zero in decode rows.
          t: times; not used in decode rows. w: guidance scales. is_decode: the mode of each row.
          dropout_key: JAX key. None: no dropout.
          ids: [B] integers that name the rows for dropout. None: their places.
          before: for a network with blocks, the clean text before them. What stands before the
            first block has no hidden states: they are zero.
        """
        x_prev = jnp.where(is_decode[:, None, None], 0.0, x_prev)
        t = jnp.where(is_decode, 1.0, t)
        inputs = jnp.concatenate([z, x_prev], axis=-1)
        first = 0 if before is None else z.shape[1] - len(before.places)
        inputs = inputs[:, first:], t, w, is_decode, ids, before
        hidden = self.network.apply({"params": params}, *inputs, rngs=_rngs(dropout_key))
        return jnp.pad(hidden, ((0, 0), (first, 0), (0, 0))) if first else hidden

    def read(
        self,
        params,
        latents,
        tokens,
        dropout_key=None,
        ids=None,
        cache=None,
        position=None,
        places=None,
        is_key=None,
    ):
        """(hidden states [B, T, D], `Cache`) of clean text, see `ELF.read`.

        Args:
          params, dropout_key, ids: as for `hidden`.
          latents, tokens: [B, T, C] and [B, T], of the token before each position.
          cache, position, places, is_key: see `Backbone`. Without a cache and a position there is
            a new cache, and the text is the whole row.
        """
        if cache is None:
            cache = self.empty_cache(*latents.shape[:2], is_key is not None)
        inputs = latents, tokens, ids, cache, position, places, is_key
        rngs = _rngs(dropout_key)
        return self.network.apply({"params": params}, *inputs, rngs=rngs, method=ELF.read)

    def empty_cache(self, rows, length, has_is_key=False):
        """A `Cache` for clean text of so many rows and positions."""
        network = self.network
        sizes = network.depth, rows, length, network.heads, network.width // network.heads
        return Cache.empty(*sizes, network.dtype, network.mesh, has_is_key)

    def x_head(self, params, hidden):
        """x-prediction [B, L, C] of hidden states."""
        return self.network.apply({"params": params}, hidden, method=ELF.x_head)

    def logit_head(self, params, hidden):
        """Logits [B, L, V] of hidden states."""
        return self.network.apply({"params": params}, hidden, method=ELF.logit_head)

    def token_losses(self, params, hidden, tokens, rows=None):
        """Cross-entropy [B, L] float32 of tokens [B, L] given hidden states [B, L, D], and whether
        the likeliest token is the right one, [B, L] bool. See `vocabulary.token_losses`.
        """
        return self._losses(partial(self.logit_head, params), hidden, tokens, rows)

    def next_losses(self, params, hidden, tokens, rows=None):
        """`token_losses` of the tokens at the positions of clean text, hidden states of `read`."""
        apply = partial(self.network.apply, {"params": params}, method=ELF.next_logits)
        return self._losses(apply, hidden, tokens, rows)

    def _losses(self, logits, hidden, tokens, rows):
        size, mesh = self.network.vocab_size, self.network.mesh
        return vocabulary.token_losses(logits, hidden, tokens, size, rows, mesh)

    def likeliest(self, params, hidden, rows=None, never=None):
        """Token ids [B, L] int32 with the largest logit. See `vocabulary.likeliest`."""
        logits = partial(self.logit_head, params)
        return vocabulary.likeliest(logits, hidden, self.network.vocab_size, rows, never)

    def likeliest_and_entropy(self, params, hidden, rows=None, never=None):
        """(`likeliest`, entropies [B, L] float32 in nats)."""

        def read(hidden, *where):
            logits = self.logit_head(params, hidden)
            return watching.likeliest_and_entropy(never.forbid(logits, *where) if where else logits)

        arrays = (hidden,) if never is None else (hidden, never.where)
        return vocabulary.in_parts(read, arrays, self.network.vocab_size, rows)

    def denoise(self, params, z, x_prev, t, w, before: Before | None = None):
        """x-prediction [B, L, C] in denoise mode."""
        inputs = z, x_prev, t, w, jnp.zeros(z.shape[0], bool)
        return self.x_head(params, self.hidden(params, *inputs, before=before))

    def decode_hidden(self, params, z, w, before: Before | None = None):
        """Hidden states [B, L, D] in decode mode, of latents z [B, L, C] with guidance scale w
        [B].
        """
        ones = jnp.ones(z.shape[0])
        return self.hidden(params, z, jnp.zeros_like(z), ones, w, ones > 0, before=before)

    def guided(
        self,
        params,
        w,
        condition: Condition | None = None,
        cfg_scale=1.0,
        before: tuple[Before | None, Before | None] = (None, None),
        words: Words | None = None,
    ) -> Callable[[Latents, PerExample, Latents], Latents]:
        """A function predict(z, t, x_prev) -> x_hat for the sampler, with guidance.

        Args:
          params: the network's parameters.
          w: self-conditioning guidance scale, an input of the network; 1 is no guidance.
          condition: what is given, anywhere in the rows; None: nothing.
          cfg_scale: c, scale of classifier-free guidance on the condition. It needs a second
            forward pass, except if c is the Python number 1.
          before: of a network with blocks, the clean text before them, and the same with the
            condition dropped.
          words: the x-prediction is their mean, by the token probabilities that the head of decode
            mode reads from noisy latents, and guidance is on the logits. None: the x head.
        """
        given, dropped = before
        is_guided = condition is not None and (isinstance(cfg_scale, jax.Array) or cfg_scale != 1)

        def predict(z, t, x_prev):
            scale, is_decode = jnp.full(z.shape[0], w, jnp.float32), jnp.zeros(z.shape[0], bool)
            hidden = [self.hidden(params, z, x_prev, t, scale, is_decode, before=given)]
            if is_guided:
                nothing = jnp.zeros_like(z)
                inputs = condition.restore(z, nothing), condition.restore(x_prev, nothing)
                hidden += [self.hidden(params, *inputs, t, scale, is_decode, before=dropped)]
            return read(hidden)

        def read(hidden):
            if words is None:
                # At the positions of the target, z is the same in both passes. So guidance of x is
                # also guidance of v.
                return guide(*(self.x_head(params, one) for one in hidden))
            return vocabulary.in_parts(mean, tuple(hidden), self.network.vocab_size)

        def mean(*hidden):
            logits = (jax.nn.log_softmax(self.logit_head(params, one)) for one in hidden)
            return words.mean(guide(*logits))

        def guide(cond, *uncond):
            return flow.guide(cond, *uncond, cfg_scale) if uncond else cond

        return predict


def _rngs(dropout_key):
    return None if dropout_key is None else {"dropout": dropout_key}
