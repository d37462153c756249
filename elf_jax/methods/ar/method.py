"""Autoregression as a `Method`: each token is predicted from the tokens before it.

Source: arXiv 1706.03762 (the causal Transformer); arXiv 2406.07524 (the rival of the diffusion
methods).
"""

from functools import partial

import jax
import jax.numpy as jnp

from elf_jax.core import rng
from elf_jax.core.errors import UserError
from elf_jax.methods.ar import beam, objective, sampler
from elf_jax.methods.tokens.draws import categorical, nucleus
from elf_jax.methods.tokens.method import COLDEST, Family, TokenMethod
from elf_jax.methods.watching import View
from elf_jax.networks.attention import Cache

EXACT = "negative log-likelihood (nats per token), exact"


class AR(TokenMethod):
    """See `methods.method.Method` and `TokenMethod`. The start token is the token V.

    A condition must be a prefix of the row to be seen by all that is sampled. A given position that
    comes later stays as it is: tokens after it depend on it, and tokens before it do not.
    """

    name = "ar"
    title = "autoregression"
    paper = ("Transformer", "1706.03762")
    extra_tokens = 1
    has_time = False
    causal = True
    fills_anywhere = False
    # The likelihood is exact. It has the name of the bounds of other methods, to be compared.
    has_exact_likelihood = True
    curves = {"nll_bound": EXACT}
    shown = {"nll_bound": "nll"}
    settings = {
        "sampler": "sampler",
        "beams": "beams",
        "length_penalty": "penalty",
        "top_p": "p",
        "temperature": "T",
    }
    traced = ("length_penalty", "top_p", "temperature")
    scales = {"temperature": "temperature, T"}

    @property
    def start_id(self):
        """Id of the start token."""
        return self.vocab_size

    def position_losses(self, params, rows, context):
        """The network does not see a dropped condition. The flags move with the inputs."""
        inputs = rows.replace(
            is_given=objective.shifted(rows.is_given, False),
            is_dropped=objective.shifted(rows.is_dropped, False),
        )
        predict = self.training_predict(params, inputs, context)
        nll = objective.losses(predict, rows.tokens, self.start_id)
        return {"loss": nll, "nll_bound": nll}

    def sampler(self, settings, length, watch=None):
        """See `Method.sampler`."""

        def run(params, frozen, ids, given, key, scales):
            del frozen
            is_key = None if given is None else self.which_keys(given)
            decoder, keys = self.decoder(params, length, is_key), rng.per_example(key, ids)
            decoder = sampler.restricted(decoder, None if given is None else given.never)
            return self.sample(decoder, given, keys, settings, scales, length, watch)

        return run

    def rewriter(self, settings, length, watch=None):
        """Raises UserError: there is no noise."""
        raise UserError("config.method is ar, which cannot rewrite: use elf, or another method")

    def which_keys(self, rows):
        """See `TokenMethod.which_keys`. Each input is the token before its place."""
        is_key = super().which_keys(rows)
        return None if is_key is None else objective.shifted(is_key, True)

    def decoder(self, params, length, is_key=None):
        """The network as a `Decoder`, for rows of `length` positions. is_key: see `which_keys`."""
        network = self.predictor.network
        apply = partial(network.apply, {"params": params})

        def start(rows):
            head_width = network.width // network.heads
            sizes = network.depth, rows, length, network.heads, head_width
            return Cache.empty(*sizes, network.dtype, network.mesh, is_key is not None)

        def step(cache, inputs, is_given, position):
            text, shown = apply(inputs, method="embed"), is_key
            if is_key is not None and position is not None:
                shown = jax.lax.dynamic_slice_in_dim(is_key, position, inputs.shape[1], axis=1)
                shown = jnp.repeat(shown, len(inputs) // len(is_key), axis=0)  # for all beams
            how = dict(cache=cache, position=position, is_key=shown)
            hidden, cache = apply(text, None, is_given, **how)
            return apply(hidden[:, -1:], method="logits")[:, 0], cache

        return sampler.Decoder(start, step, row_axis=1)

    def sample(self, decoder, given, keys, settings, scales, length, watch=None):
        """Tokens [B, L] int32; see `TokenMethod.making`."""
        rows = given, len(keys), length, self.start_id
        if settings.sampler == "beam":
            penalty, view = scales["length_penalty"], View(watch, given)
            return beam.search(decoder, *rows, settings.beams, penalty, self.eos_id, view)

        def likeliest(logits, position):
            del position
            return jnp.argmax(logits, axis=-1)

        def law(logits):
            logits = logits / jnp.maximum(scales["temperature"], COLDEST)
            return nucleus(logits, scales["top_p"]) if settings.top_p < 1 else logits

        def draw(logits, position):
            logits = law(logits)
            streams = jax.vmap(lambda key: rng.stream(key, "token", position))(keys)
            return categorical(logits, rng.uniform(streams, (2,)))

        if settings.sampler == "greedy":
            return sampler.sample(decoder, *rows, likeliest, self.eos_id, View(watch, given))
        view = View(watch, given, law=law)
        return sampler.sample(decoder, *rows, draw, self.eos_id, view)

    def effective(self, settings):
        """Temperature and nucleus are those of drawing, beams and length penalty of the search."""
        used = super().effective(settings)
        if settings.sampler != "sample":
            used |= {"temperature": 1.0, "top_p": 1.0}
        return used if settings.sampler == "beam" else used | {"beams": 1, "length_penalty": 0.0}

    def draws(self, settings):
        """Only the sampler `sample` draws."""
        return settings.sampler == "sample" and settings.temperature > 0

    def compiled_for(self, settings):
        """See `Method.compiled_for`."""
        used = self.effective(settings)
        return used["sampler"], used["beams"], used["top_p"] < 1

    def evaluations(self, settings, length):
        """One pass for each position."""
        return length * self.passes(settings)

    def passes(self, settings):
        """There is no guidance."""
        del settings
        return 1


ar = Family(AR)
