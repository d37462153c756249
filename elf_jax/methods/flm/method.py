"""FLM as a `Method`: flow matching of one-hot vectors (arXiv 2602.16813).

No array [B, L, V] exists. Noise and logits are made for a part of the positions at a time, and the
backward pass makes them again; see `objective` and `sampler` for why x itself is not needed.

The published network caps its attention logits smoothly at 50. The backbone here has a norm on q
and k in each head instead: |logit| is at most sqrt(head width) (8 at the published 64) times the
two learned scales.
"""

import jax
import jax.numpy as jnp

from elf_jax.core import rng
from elf_jax.core.types import position_of
from elf_jax.methods.flm import objective, sampler
from elf_jax.methods.flm.time_map import share_of_signal, time_of
from elf_jax.methods.tokens import draws
from elf_jax.methods.tokens.method import Family, TokenMethod
from elf_jax.methods.watching import View


class FLM(TokenMethod):
    """See `methods.method.Method` and `TokenMethod`. There is no bound of the likelihood."""

    name = "flm"
    title = "flow matching of one-hot vectors"
    paper = ("FLM", "2602.16813")
    curves = {"cross_entropy": "cross-entropy of the clean tokens (nats per token)"}
    shown = {"cross_entropy": "CE"}

    def position_losses(self, params, rows, context):
        """The loss is the cross-entropy of the clean tokens. Given positions have no noise."""
        t = draws.stratified(rows.keys, rows.ids, rows.strata)
        text = self._noisy_text(params, rows, share_of_signal(t, self.vocab_size))
        read = self.training_predict(params, rows, context)(text, t)
        loss = read(objective.cross_entropy, rows.tokens)
        return {"loss": loss, "cross_entropy": loss}

    def _noisy_text(self, params, rows, gamma):
        """x E, [B, L, D]."""
        clean = self.predictor.embed(params, rows.tokens).astype(jnp.float32)
        first = position_of(self.first, rows.places)
        noise = self.noise(rows.keys, rows.tokens.shape[1], self._embed(params), first)
        text = objective.between(noise, clean, gamma)
        return jnp.where(rows.is_given[..., None], clean, text).astype(self.dtype)

    def _embed(self, params):
        """The function from tokens, or weights over the vocabulary, to the network's width."""
        return lambda inputs: self.predictor.embed(params, inputs)

    def noise(self, keys, length, embed, first=0):
        """Standard normal noise over the vocabulary times the table, [B, L, D] float32; [B] keys.
        There is none before the position `first`.

        Every position has a key of its own, so that a part of the positions can be drawn alone.
        """
        keys = draws.positions(jax.vmap(lambda key: rng.stream(key, "noise"))(keys), length)
        normal = jax.vmap(rng.normal, (0, None))

        def part(data):
            noise = normal(jax.random.wrap_key_data(data, impl=kind), (self.vocab_size,))
            return embed(noise).astype(jnp.float32)

        # Parts are cut from arrays of numbers, not of keys.
        kind = jax.random.key_impl(keys)
        return self.predictor.in_parts(part, jax.random.key_data(keys), first=first)

    def sampling_predict(self, params, given, scales, is_guided):
        """See `TokenMethod.sampling_predict`; the inputs are float32."""
        predict = super().sampling_predict(params, given, scales, is_guided)
        return lambda y, t: predict(y.astype(self.dtype), t)

    def making(self, settings, length, watch=None):
        """See `TokenMethod.making`."""
        is_guided = settings.cfg_scale != 1

        def run(params, keys, given, scales, begin):
            predict = self.sampling_predict(params, given, scales, is_guided)
            kept, embed = given if begin is None else None, self._embed(params)
            places = kept, keys, settings, scales, length, begin, watch
            return self.sample(predict, *places, embed=embed)

        return run

    def sample(
        self, predict, given, keys, settings, scales, length, begin=None, watch=None, embed=None
    ):
        """See `TokenMethod.making`. To rewrite, the share of the signal in x is 1 - strength.

        Args:
          embed: function from tokens, or weights over the vocabulary, to inputs of `predict`. None:
            these are the weights themselves, so that `predict` sees x.
        """
        del scales
        embed = embed or self._one_hot
        first = 0 if given is None else self.first
        y, start, view = self.noise(keys, length, embed, first), 0.0, View(watch, given)
        if begin is not None:
            start = time_of(1 - begin.strength, self.vocab_size)
            clean = embed(begin.tokens).astype(y.dtype)
            y = objective.between(y, clean, share_of_signal(start, self.vocab_size)[None])
        if given is None:
            places = settings.steps, self.vocab_size, embed
            return sampler.euler(predict, y, *places, start=start, view=view)
        clean, is_given = embed(given.tokens).astype(y.dtype), given.is_cond

        def keep(y):
            return jnp.where(is_given[..., None], clean, y)

        made = sampler.euler(predict, y, settings.steps, self.vocab_size, embed, keep, view=view)
        return view.keep_given(made)

    def _one_hot(self, inputs):
        if jnp.issubdtype(inputs.dtype, jnp.integer):
            return jax.nn.one_hot(inputs, self.vocab_size)
        return inputs


flm = Family(FLM)
