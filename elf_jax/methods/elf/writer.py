"""From noise to latents to tokens: a start, N steps, and one pass in decode mode.

Samplers and rewriters of whole rows are one `Writer.write`. `left_to_right` does the same for each
block of a row. B batch, L row length, C latent width.
"""

import dataclasses

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

from elf_jax.core import rng
from elf_jax.latents.encoder import Encoder
from elf_jax.methods.elf import flow
from elf_jax.methods.elf.decode import decode_tokens, decode_with_entropy
from elf_jax.methods.elf.predictor import Condition, Predictor, Words
from elf_jax.methods.elf.sampler import sample


@dataclasses.dataclass(frozen=True)
class Writer:
    """Writes rows with an ELF network.

    Attributes:
      predictor, encoder, law: of the `ELFMethod`.
      settings: config section `sample`.
    """

    predictor: Predictor
    encoder: Encoder
    law: FrozenConfigDict
    settings: ConfigDict

    def encode(self, encoder_params, tokens, is_cond, is_valid, drop=False):
        """Clean latents [B, L, C] of tokens, see `Encoder.encode`. drop: all rows, or none."""
        drop = jnp.full(len(tokens), drop)
        return self.encoder.encode(encoder_params, tokens, is_cond, is_valid, drop)

    def condition(self, encoder_params, given):
        """The clean `Condition` of what is given, or None. The encoder gets only the condition. Its
        tokens do not attend to the target, so the result is the same as with the target.
        """
        if given is None:
            return None
        text = given.tokens, given.is_cond, given.is_cond & given.is_valid
        latents = self.encode(encoder_params, *text)
        return Condition(jnp.where(given.is_cond[..., None], latents, 0.0), given.is_cond)

    def predict(self, params, encoder_params, scales, condition, before=(None, None)):
        """See `Predictor.guided`. With cfg_scale=1 there is no guidance on the condition, and with
        token_temperature=0 the x-prediction is that of the x head.
        """
        cfg_scale = scales["cfg_scale"] if self.settings.cfg_scale != 1 else 1.0
        inputs, words = (params, scales["guidance_scale"], condition, cfg_scale, before), None
        if self.settings.token_temperature:
            tokens = jnp.arange(self.predictor.network.vocab_size)[None]
            text = tokens, jnp.zeros_like(tokens, bool), jnp.ones_like(tokens, bool)
            table = self.encode(encoder_params, *text)[0]
            words = Words(table, scales["token_temperature"])
        return self.predictor.guided(*inputs, words)

    def denoise(self, predict, length, ids, key, scales, condition, begin=None, see=None):
        """Latents [B, length, C] at t = 1.

        Args:
          predict: see `sampler.sample`. ids: [B]. key: JAX key. condition: a `Condition` or None.
          begin: None, for a start from noise, or (x, t0): the start is x with the noise of time t0,
            and the time grid is squeezed into the time that is left.
          see: as for `sampler.sample`.
        """
        law, settings, shape = self.law, self.settings, (length, self.encoder.width)
        keys = rng.per_example(key, ids)

        def draw(*name):
            normal = rng.normal(jax.vmap(lambda k: rng.stream(k, *name))(keys), shape)
            return scales["noise_temperature"] * normal

        start = draw("start")
        times = flow.time_grid(
            settings.time_grid,
            settings.steps,
            law.time_mean,
            law.time_std,
            rng.stream(key, "time_grid"),
        )
        if begin is None:
            z = law.noise_scale * start
        else:
            x, t0 = begin
            z = flow.interpolate(x, start, t0, law.noise_scale)
            times = flow.remaining(times, t0)
        return sample(
            predict,
            z,
            times,
            gamma=scales["gamma"] if settings.sampler == "sde" else 0.0,
            gamma_schedule=settings.gamma_schedule,
            noise=lambda step: draw("sde", step),
            noise_scale=law.noise_scale,
            t_eps=law.t_eps,
            condition=condition,
            see=see,
        )

    def write(
        self,
        params,
        predict,
        length,
        ids,
        key,
        scales,
        never,
        view,
        condition=None,
        begin=None,
        before=None,
    ):
        """What `View.result` returns of rows, or of a block of them.

        Args:
          params: of the network. predict, length, ids, key, scales, condition, begin: as for
            `denoise`. never: a `Never` or None. view: a `View`.
          before: of a block, the clean text `Before` it.
        """
        inputs = predict, length, ids, key, scales, condition, begin

        def read(decode, latents):
            w = scales["guidance_scale"]
            return decode(self.predictor, params, latents, w, never=never, before=before)

        def see(index, time, x_hat):
            return view.show(index, time, *read(decode_with_entropy, x_hat))

        if view.watch is None:
            return read(decode_tokens, self.denoise(*inputs))
        z, shown = self.denoise(*inputs, see)
        tokens, entropy = read(decode_with_entropy, z)
        last = view.show(self.settings.steps - 1, 1.0, tokens, entropy)
        return view.result(tokens, shown, last)
