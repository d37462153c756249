"""MDLM and LLaDA as `Method`s. They have the same network and, but for a constant, the same loss;
each can sample with the other's sampler.

Source: MDLM, arXiv 2406.07524; LLaDA, arXiv 2502.09992.
"""

import jax
import jax.numpy as jnp

from elf_jax.core import rng
from elf_jax.methods.mdlm import objective, sampler
from elf_jax.methods.tokens.draws import categorical, nucleus, stratified, uniforms
from elf_jax.methods.tokens.method import COLDEST, Family, TokenMethod
from elf_jax.methods.watching import View

BOUND = "bound of the negative log-likelihood (nats per token)"


class MDLM(TokenMethod):
    """See `methods.method.Method` and `TokenMethod`. The mask is the token V."""

    name = "mdlm"
    family = "mdlm"
    title = "masked diffusion"
    paper = ("MDLM", "2406.07524")
    section = "mdlm"
    extra_tokens = 1
    curves = {"nll_bound": BOUND}
    shown = {"nll_bound": "bound"}
    settings = {
        "sampler": "sampler",
        "block_length": "block",
        "steps": "steps",
        "cfg_scale": "c",
        "top_p": "p",
        "temperature": "T",
    }
    traced = ("cfg_scale", "top_p", "temperature")

    @property
    def mask_id(self):
        """Id of the mask."""
        return self.vocab_size

    def position_losses(self, params, rows, context):
        """The loss is the bound itself. Dropped conditions are masks."""
        t, probability = self._times(rows)
        z, tau = self._noisy(rows, probability), objective.sigma(t)
        read = self.training_predict(params, rows, context)(z, self._time(tau))
        weight = jnp.broadcast_to(1 / t[:, None], z.shape)
        bound = read(self._loss, rows.tokens, z, weight)
        return {"loss": bound, "nll_bound": bound}

    def _times(self, rows):
        """(t, probability of a mask), each [B]."""
        t = objective.time_of(stratified(rows.keys, rows.ids, rows.strata))
        return t, objective.mask_probability(t)

    def _noisy(self, rows, probability):
        is_noise = rows.uniforms("mask", rows.tokens.shape[1:]) < probability[:, None]
        is_mask = rows.is_dropped | (is_noise & ~rows.is_cond)
        return jnp.where(is_mask, self.mask_id, rows.tokens)

    def _time(self, tau):
        """The time that the network sees: always 0, as published, unless the config asks for tau.

        The control tokens stay, and not only because the published network has a constant there.
        With rotary embeddings alone, a network that attends both ways cannot tell the positions of
        equal tokens apart, such as those of a row of masks. Control tokens are not rotated, so each
        position sees them at its own angle.
        """
        return tau if self.law.time_conditioning else jnp.zeros_like(tau)

    def _loss(self, logits, x, z, weight):
        return objective.masked_loss(logits, x, z, weight, self.mask_id)

    def without(self, is_given):
        """The condition is masked."""
        return lambda z: jnp.where(is_given, self.mask_id, z)

    def sampling_predict(self, params, given, scales, is_guided):
        """The confidence of a token is its probability at temperature 1, so the samplers apply the
        temperature themselves.
        """
        scales = {**scales, "temperature": 1.0}
        predict = super().sampling_predict(params, given, scales, is_guided)
        return lambda z, t: predict(z, self._time(objective.sigma(t)))

    def sample(self, predict, given, keys, settings, scales, length, begin=None, watch=None):
        """See `TokenMethod.making`. To rewrite, each token is masked with the probability
        `strength`.
        """
        z = jnp.full((len(keys), length), self.mask_id, jnp.int32)
        if given is not None:
            z = jnp.where(given.is_cond, given.tokens, z)
        if begin is not None:
            is_noise = uniforms(keys, (length,), "rewrite") < begin.strength
            z = jnp.where(is_noise, z, begin.tokens)
        start = 1.0 if begin is None else begin.strength
        temperature = jnp.maximum(scales["temperature"], COLDEST)

        def streams(name, step):
            return jax.vmap(lambda key: rng.stream(key, name, step))(keys)

        def law(log_p):
            """Logarithms of the probabilities that tokens are drawn with, not normalised."""
            tempered = log_p / temperature
            return nucleus(tempered, scales["top_p"]) if settings.top_p < 1 else tempered

        view = View(watch, given, self.mask_id, law)

        def token(step, read):
            """(tokens drawn from the prediction, their probability at temperature 1)."""
            u = rng.uniform(streams("token", step), (length, 2))

            def draw(logits, u):
                log_p = jax.nn.log_softmax(logits)
                tokens = categorical(law(log_p), u)
                return tokens, jnp.exp(
                    jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
                )

            return read(draw, u)

        free = jnp.maximum(jnp.sum(z == self.mask_id, axis=1), 1)

        def at_share(z, t):
            """The prediction at the time that is the share of masks that are left."""
            del t
            return predict(z, start * jnp.sum(z == self.mask_id, axis=1) / free)

        if settings.sampler == "confidence":
            blocks = settings.steps, settings.block_length
            return sampler.by_confidence(at_share, z, *blocks, token, self.mask_id, view)

        def unmask(step, read, z, t, s):
            u = rng.uniform(streams("unmask", step), (length,))
            is_new = (z == self.mask_id) & (u < (t - s) / t)
            return jnp.where(is_new, token(step, read)[0], z)

        def last(read, z, t):
            del t
            if settings.sampler == "greedy_tail":
                tokens = read(lambda logits: jnp.argmax(logits, axis=-1).astype(jnp.int32))
            else:
                tokens = token(settings.steps, read)[0]
            return jnp.where(z == self.mask_id, tokens, z)

        uses_time = self.law.time_conditioning
        return sampler.ancestral(
            predict, z, settings.steps, unmask, last, self.mask_id, uses_time, start, view
        )

    def effective(self, settings):
        """The blocks are those of the sampler by confidence."""
        used = super().effective(settings)
        return used if settings.sampler == "confidence" else used | {"block_length": 0}

    def draws(self, settings):
        """The sampler by confidence chooses the places, so at temperature 0 nothing is drawn."""
        return settings.sampler != "confidence" or settings.temperature > 0

    def evaluations(self, settings, length):
        """At most so many: a prediction is used again while no token changes. The ancestral sampler
        has a last prediction after its steps.
        """
        passes = self.passes(settings)
        if settings.sampler == "confidence":
            return passes * sampler.confidence_steps(settings.steps, settings.block_length, length)
        return passes * (settings.steps + 1)

    def compiled_for(self, settings):
        """See `Method.compiled_for`."""
        return *super().compiled_for(settings), settings.top_p < 1

    def meaning(self):
        """Whether the network sees the time."""
        return super().meaning() | {"mdlm.time_conditioning": self.law.time_conditioning}


class LLaDA(MDLM):
    """MDLM with independent times, and with the probability of a mask as weight."""

    name = "llada"
    title = "masked diffusion with sampling by confidence"
    paper = ("LLaDA", "2502.09992")

    def _times(self, rows):
        """The probability of a mask is the time."""
        p_mask = objective.time_of(rows.uniforms("time"))
        return p_mask, p_mask


mdlm, llada = Family(MDLM), Family(LLaDA)
