"""Duo as a `Method`: uniform-state diffusion. In the first steps of training, the curriculum, the
network sees soft tokens: Gaussian noise that becomes the discrete noise by argmax.

Source: Duo, arXiv 2506.10892.
"""

import dataclasses

import jax
import jax.numpy as jnp

from elf_jax.core import rng
from elf_jax.core.types import position_of
from elf_jax.methods.duo import objective, sampler, transform
from elf_jax.methods.mdlm.objective import EPS, mask_probability, sigma, time_of
from elf_jax.methods.tokens.draws import nucleus, positions, stratified, uniforms
from elf_jax.methods.tokens.method import Family, TokenMethod
from elf_jax.methods.watching import View

BOUND = "bound of the negative log-likelihood (nats per token)"


@dataclasses.dataclass(frozen=True)
class Duo(TokenMethod):
    """See `methods.method.Method` and `TokenMethod`.

    Attributes:
      curriculum_steps: the training steps before this one belong to the curriculum.
    """

    curriculum_steps: int = 0

    name = "duo"
    title = "uniform-state diffusion"
    paper = ("Duo", "2506.10892")
    section = "duo"
    curves = {"nll_bound": BOUND}
    shown = {"nll_bound": "bound"}
    settings = {
        "sampler": "sampler",
        "steps": "steps",
        "cfg_scale": "c",
        "top_p": "p",
        "temperature": "T",
    }
    traced = ("cfg_scale", "top_p", "temperature")

    @classmethod
    def create(cls, config, vocab_size, mesh):
        """See `TokenMethod.create`. Raises UserError: there is no noise, or nothing else, at an end
        of the curriculum's range.
        """
        curriculum = config.duo.curriculum
        steps = curriculum.steps or round(curriculum.examples / config.train.batch_size)
        method = super().create(config, vocab_size, mesh)
        if steps and vocab_size > 1:
            transform.check_range(*method.gammas, vocab_size)
        return dataclasses.replace(method, curriculum_steps=steps)

    @property
    def gammas(self):
        """(gamma_min, gamma_max) of the curriculum."""
        if self.law.gamma_min == self.law.gamma_max == 0:
            return transform.gamma_range(self.vocab_size)
        return self.law.gamma_min, self.law.gamma_max

    def position_losses(self, params, rows, context):
        """The loss is the bound itself. In the curriculum it has the same formula, but is no bound:
        the soft tokens tell the network more.
        """
        if context.is_training and self.curriculum_steps:
            # Only the input differs, so that the network is compiled once.
            in_curriculum = context.step < self.curriculum_steps
            noise = jax.lax.cond(in_curriculum, self._soft, self._embedded, params, rows)
        else:
            noise = self._noisy(rows)
        inputs, z, complement, slope = noise
        # -log alpha
        read = self.training_predict(params, rows, context)(inputs, -jnp.log1p(-complement))
        complement, slope = (jnp.broadcast_to(a[:, None], z.shape) for a in (complement, slope))
        bound = read(objective.uniform_loss, rows.tokens, z, complement, slope)
        return {"loss": bound, "nll_bound": bound}

    def _time(self, rows):
        return time_of(stratified(rows.keys, rows.ids, rows.strata))

    def _noisy(self, rows):
        """(z as the input, z [B, L], 1 - alpha [B], alpha' [B])."""
        complement = mask_probability(self._time(rows))
        shape = rows.tokens.shape[1:]
        tokens = _uniform_tokens(_streams(rows.keys, "tokens"), shape, self.vocab_size)
        z = objective.noisy(rows.tokens, rows.uniforms("move", shape), tokens, complement)
        z = jnp.where(rows.is_cond, rows.tokens, z)
        return z, z, complement, jnp.full_like(complement, EPS - 1)

    def _embedded(self, params, rows):
        """`_noisy` with text [B, L, D] as the input."""
        z, *others = self._noisy(rows)
        return self.predictor.embed(params, z), *others

    def _soft(self, params, rows):
        """`_embedded` of the curriculum."""
        low, high = self.gammas
        gamma = low + (high - low) * self._time(rows)
        complement, slope = transform.schedule(gamma, self.vocab_size)
        x, temperature = rows.tokens, self.law.temperature
        keys = positions(_streams(rows.keys, "soft"), x.shape[1])
        kind = jax.random.key_impl(keys)

        def part(x, gamma, keys):
            # A key for each position, so that the noise of all positions is never there at once.
            keys = jax.random.wrap_key_data(keys, impl=kind)
            noise = jax.vmap(lambda row: rng.normal(row, (self.vocab_size,)))(keys)
            soft, z = objective.soft_tokens(x, noise, gamma, temperature)
            return self.predictor.embed(params, soft), z

        gamma = jnp.broadcast_to(gamma[:, None], x.shape)
        first = position_of(self.first, rows.places)
        text, z = self.predictor.in_parts(part, x, gamma, jax.random.key_data(keys), first=first)
        text = jnp.where(rows.is_cond[..., None], self.predictor.embed(params, x), text)
        return text, jnp.where(rows.is_cond, x, z), complement, (high - low) * slope

    def sampling_predict(self, params, given, scales, is_guided):
        """The network sees -log alpha(t)."""
        predict = super().sampling_predict(params, given, scales, is_guided)
        return lambda z, t: predict(z, sigma(t))

    def sample(self, predict, given, keys, settings, scales, length, begin=None, watch=None):
        """See `TokenMethod.making`. To rewrite, each token is replaced by a uniform one with the
        probability `strength`.
        """

        def keep(z):
            return z if given is None else jnp.where(given.is_cond, given.tokens, z)

        def uniform_tokens(name, step=None):
            return _uniform_tokens(_streams(keys, name, step), (length,), self.vocab_size)

        def law(logits):
            return nucleus(logits, scales["top_p"]) if settings.top_p < 1 else logits

        def update(step, read, z, complement_t, complement_s):
            u = rng.uniform(_streams(keys, "update", step), (length, 3))

            def draw(logits, z, u, tokens):
                return sampler.draw(law(logits), z, u, tokens, complement_t, complement_s)

            return keep(read(draw, z, u, uniform_tokens("tokens", step)))

        def last(step, read, z, complement_t):
            if settings.sampler == "greedy_tail":
                return keep(read(lambda logits: jnp.argmax(logits, axis=-1).astype(jnp.int32)))
            return update(step, read, z, complement_t, 0.0)

        z, start = keep(uniform_tokens("start")), 1.0
        if begin is not None:
            start = begin.strength
            z = jnp.where(uniforms(keys, (length,), "rewrite") < start, z, begin.tokens)
        view = View(watch, given, law=law)
        return sampler.ancestral(predict, z, settings.steps, update, last, start, view)

    def compiled_for(self, settings):
        """See `Method.compiled_for`."""
        return *super().compiled_for(settings), settings.top_p < 1

    def evaluations(self, settings, length):
        """The last update is an evaluation more."""
        del length
        return self.passes(settings) * (settings.steps + 1)


def _streams(keys, name, step=None):
    return jax.vmap(lambda key: rng.stream(key, name, step))(keys)


def _uniform_tokens(keys, shape, vocab_size):
    """[B, *shape] int32 tokens of keys [B]."""
    return jax.vmap(lambda key: jax.random.randint(key, shape, 0, vocab_size))(keys)


duo = Family(Duo)
