"""ELF as a `Method`: it combines the network, the frozen encoder and the modules of this folder.

Source: ELF, Embedded Language Flows, arXiv 2605.10938.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

from elf_jax.core import rng, sharding, workdir
from elf_jax.latents.build import build_encoder, describe_encoder, kept_statistics, save_encoder
from elf_jax.latents.encoder import Encoder
from elf_jax.methods.elf import flow, objective, published, roles
from elf_jax.methods.elf.decode import decode_tokens, decode_with_entropy
from elf_jax.methods.elf.predictor import Condition, Predictor
from elf_jax.methods.elf.sampler import sample
from elf_jax.methods.network_settings import backbone_settings, dtype_of
from elf_jax.methods.watching import Rewriting, View
from elf_jax.networks.elf import ELF
from elf_jax.pretrained.t5 import copy_t5

PAPER = "https://arxiv.org/abs/2605.10938"
CURVES = {
    "denoise_loss": "denoise loss (squared error of velocities)",
    "decode_loss": "decode loss (cross-entropy, nats per token)",
    "decode_accuracy": "decode accuracy (share of the tokens)",
}
SHOWN = {"denoise_loss": "denoise", "decode_loss": "decode", "decode_accuracy": "accuracy"}
TOKEN_CURVE = {"token_loss": "loss of noisy tokens (cross-entropy, nats per token)"}


@dataclasses.dataclass(frozen=True)
class ELFMethod:
    """See `methods.method.Method`.

    Attributes:
      predictor: the network with its inputs. encoder: the frozen encoder, without its arrays.
      law: config section `objective`.
      groups: number of groups that a micro-batch is dealt in, see `objective`: one for each device
        along the row axes of the mesh.
      first: the place of the first position that can count in a loss.
    """

    predictor: Predictor
    encoder: Encoder
    law: FrozenConfigDict
    groups: int
    first: int

    name = "elf"
    tags = ("diffusion", "flow-matching", "elf", "arxiv:2605.10938")
    settings = {
        "time_grid": "grid",
        "sampler": "sampler",
        "gamma_schedule": "gamma(t)",
        "steps": "steps",
        "cfg_scale": "c",
        "gamma": "gamma",
        "guidance_scale": "w",
    }
    traced = ("guidance_scale", "gamma", "cfg_scale")
    scales = {
        "cfg_scale": "guidance on the condition, c",
        "guidance_scale": "self-conditioning guidance, w",
    }
    fills_anywhere = True
    has_exact_likelihood = False
    own_rates = {}
    sizes = (
        ("blocks/norm1/scale", 0, "model.depth"),
        ("x_out/kernel", 0, "model.width"),
        ("blocks/attn/q_norm/scale", 1, "model.heads"),
        ("x_out/kernel", 1, "encoder.width"),
        ("text_in/kernel", 1, "model.bottleneck"),
        ("time_token", 0, "model.time_tokens"),
        ("guidance_token", 0, "model.guidance_tokens"),
        ("mode_token", 0, "model.mode_tokens"),
        ("unembed/kernel", 1, "data.tokenizer"),
    )

    @property
    def curves(self):
        """See `Method`."""
        return CURVES | (TOKEN_CURVE if self.law.token_weight else {})

    @property
    def shown(self):
        """See `Method`."""
        return SHOWN | ({"token_loss": "tokens"} if self.law.token_weight else {})

    @property
    def vocab_size(self):
        """V."""
        return self.predictor.network.vocab_size

    @property
    def dtype(self):
        """Type of the computation."""
        return self.predictor.network.dtype

    def init(self, key, length):
        """See `Method.init`."""
        return self.predictor.init(key, length)

    def loss(self, params, frozen, batch, counted, ids, context):
        """The mixed loss, see `objective`. The rows are divided between both modes."""
        dealt = self.dealt(frozen, batch, counted, ids, context)
        has_dropout = context.is_training and self.predictor.network.dropout > 0
        dropout = rng.stream(context.key, "dropout") if has_dropout else None, dealt.ids
        inputs = dealt.x, dealt.batch, dealt.counted, dealt.draws, dealt.split
        sums = objective.mixed_loss(
            self.predictor, params, *inputs, self.law, *dropout, first=self.first
        )
        loss = sums.denoise + sums.decode
        if self.law.token_weight:
            loss = loss + self.law.token_weight * sums.tokens
        return loss, sums._asdict()

    def dealt(self, frozen, batch, counted, ids, context):
        """The rows of a batch in the dealt order, with their latents and draws, as a `Dealt`. The
        arguments are those of `Method.loss`.
        """
        law, rows = self.law, len(ids) // self.groups
        deck = rng.deck(context.rows or len(ids), rows)
        whole = roles.make_split(deck[0], law.decode_fraction, law.self_cond_fraction)
        split = roles.part_of(whole, deck[0] // rows)
        keys = rng.per_example(context.key, ids)
        deal_keys = jax.vmap(lambda k: rng.stream(k, "deal"))(keys)
        cards = rng.cards(rng.stream(context.key, "deal"), deal_keys, ids, *deck)
        order = roles.deal(deal_keys, split, cards)
        batch, counted, keys, ids, cards = jax.tree.map(
            lambda array: roles.permute(array, order), (batch, counted, keys, ids, cards)
        )
        drop = rng.uniform(jax.vmap(lambda k: rng.stream(k, "drop"))(keys)) < law.condition_dropout
        x = self.encoder.encode(
            frozen["encoder"], batch.tokens, batch.is_cond, batch.is_valid, drop
        )
        draws = objective.draw(keys, whole, *x.shape[1:], law, cards)
        return objective.Dealt(batch, counted, ids, keys, x, draws, split)

    def metrics(self, loss, sums, positions):
        """The mixed loss, its parts, and the accuracy of decode mode."""
        q = self.law.decode_fraction
        values = {
            "loss": loss,
            "denoise_loss": sums["denoise"] / positions / max(1 - q, 1e-9),
            "decode_loss": sums["decode"] / positions / max(q, 1e-9),
            "decode_accuracy": sums["correct"] / jnp.maximum(sums["decoded"], 1.0),
        }
        if self.law.token_weight:
            values["token_loss"] = sums["tokens"] / positions / max(1 - q, 1e-9)
        return values

    def sampler(self, settings, length, watch=None):
        """From noise to latents to tokens, see `Method.sampler`. What is seen of a step is its
        x-prediction in decode mode, and of the last step the sample.

        The traced settings are arguments of the sampler. Only one of them is read here: with
        cfg_scale=1 the sampler is built without guidance on the condition.
        """
        is_guided = settings.cfg_scale != 1
        make = self._making(settings, length)

        def run(params, frozen, ids, given, key, scales):
            condition = None if given is None else self._condition(frozen["encoder"], given)
            cfg_scale = scales["cfg_scale"] if is_guided else 1.0
            predict = self.predictor.guided(params, scales["guidance_scale"], condition, cfg_scale)
            never, view = None if given is None else given.never, View(watch, given)
            draws = ids, key, scales
            return view.keep_given(make(params, predict, *draws, never, view, condition=condition))

        return run

    def rewriter(self, settings, length, watch=None):
        """From the latents of a text, with noise, to tokens, see `Method.rewriter`."""
        make = self._making(settings, length)

        def run(params, frozen, ids, batch, key, scales, strength):
            nothing = jnp.zeros_like(batch.is_valid)
            x = self.encoder.encode(
                frozen["encoder"], batch.tokens, nothing, batch.is_valid, nothing[:, 0]
            )
            predict = self.predictor.guided(params, scales["guidance_scale"])
            rewriting = Rewriting(watch, batch, strength)
            places = batch.never, View(rewriting.watch), None, (x, 1 - strength)
            return rewriting.result(make(params, predict, ids, key, scales, *places))

        return run

    def _making(self, settings, length):
        """The function (params, predict, ids, key, scales, never, view, condition, begin) -> what
        `View.result` returns. condition, begin: as for `_denoise`.
        """
        denoise = self._denoise(settings, length)

        def run(params, predict, ids, key, scales, never, view, condition, begin=None):
            def read(decode, latents):
                w = scales["guidance_scale"]
                return decode(self.predictor, params, latents, w, never=never)

            def see(index, time, x_hat):
                return view.show(index, time, *read(decode_with_entropy, x_hat))

            if view.watch is None:
                z = denoise(predict, ids, key, scales, condition, begin)
                return read(decode_tokens, z)
            z, shown = denoise(predict, ids, key, scales, condition, begin, see)
            tokens, entropy = read(decode_with_entropy, z)
            last = view.show(settings.steps - 1, 1.0, tokens, entropy)
            return view.result(tokens, shown, last)

        return run

    def _denoise(self, settings, length):
        """The function (predict, ids, key, scales, condition, begin, see) -> latents at t = 1.

        `begin` is None, for a start from noise, or (x, t0): the start is x with the noise of time
        t0, and the time grid is squeezed into the time that is left. see: as for `sampler.sample`.
        """
        law, shape = self.law, (length, self.encoder.width)
        is_sde = settings.sampler == "sde"

        def run(predict, ids, key, scales, condition, begin=None, see=None):
            keys = rng.per_example(key, ids)

            def noise(name):
                return rng.normal(jax.vmap(lambda k: rng.stream(k, "sde", name))(keys), shape)

            start = rng.normal(jax.vmap(lambda k: rng.stream(k, "start"))(keys), shape)
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
                gamma=scales["gamma"] if is_sde else 0.0,
                gamma_schedule=settings.gamma_schedule,
                noise=noise,
                noise_scale=law.noise_scale,
                t_eps=law.t_eps,
                condition=condition,
                see=see,
            )

        return run

    def _condition(self, encoder_params, given):
        """The clean condition. The encoder gets only the condition. Its tokens do not attend to the
        target, so the result is the same as with the target.
        """
        keep = jnp.zeros(len(given.tokens), bool)
        latents = self.encoder.encode(
            encoder_params, given.tokens, given.is_cond, given.is_cond & given.is_valid, keep
        )
        return Condition(jnp.where(given.is_cond[..., None], latents, 0.0), given.is_cond)

    def effective(self, settings):
        """The settings of the sampler. For the ODE, gamma is 0. A constant gamma has no schedule
        here, so that records of versions without schedules are found again.
        """
        used = {name: settings[name] for name in self.settings}
        if settings.sampler != "sde":
            used |= {"gamma": 0.0, "gamma_schedule": "constant"}
        if used["gamma_schedule"] == "constant":
            del used["gamma_schedule"]
        return used

    def compiled_for(self, settings):
        """The settings that are not traced, and whether there is guidance on the condition."""
        fixed = tuple(settings[name] for name in self.settings if name not in self.traced)
        return *fixed, settings.cfg_scale == 1

    def evaluations(self, settings, length):
        """One pass for each step, two with guidance on the condition, and one to decode."""
        del length
        return settings.steps * (2 if settings.cfg_scale != 1 else 1) + 1

    def costs(self, settings, length):
        """The prediction of each step is decoded by one more pass."""
        del length
        passes = 2 if settings.cfg_scale != 1 else 1
        return [passes * step + 1 for step in range(1, settings.steps + 1)]

    def constants(self):
        """Constants of the path, and of the distribution of t, which the time grid also uses."""
        names = ("noise_scale", "time_mean", "time_std", "t_eps")
        return {name: self.law[name] for name in names}

    def loss_settings(self):
        """The distributions and the weights of both losses."""
        return self.law.to_dict()

    def meaning(self):
        """The latent space, and the noise scale at the start of the path."""
        return {
            "method": self.name,
            "encoder.kind": self.encoder.kind,
            "encoder.mean": self.encoder.mean,
            "encoder.std": self.encoder.std,
            "objective.noise_scale": self.law.noise_scale,
        }

    def save_frozen(self, frozen, directory):
        """Writes the embedding, or the measured statistics of a T5."""
        save_encoder(self.encoder, frozen["encoder"], directory)

    def export_frozen(self, frozen, config, directory):
        """See `Method.export_frozen`. A T5 in a local directory is copied."""
        self.save_frozen(frozen, directory)
        config = config.copy_and_resolve_references()
        here = pathlib.Path(config.encoder.path)
        if config.encoder.kind == "t5" and here.is_dir():
            copy_t5(here, directory / workdir.ENCODER)
            config.encoder.path = workdir.ENCODER
        return config

    def from_published(self, flat):
        """See `published.from_published`."""
        return published.from_published(flat)

    def described(self, config):
        """For the model card."""
        settings = config.encoder
        frozen = f"frozen {settings.kind} embedding, width {settings.width}"
        if settings.kind == "t5":
            frozen = f"frozen T5, {settings.path}"
        return {
            "summary": f"A text diffusion model, ELF ([Embedded Language Flows]({PAPER})). It "
            "denoises text in the embedding space of a frozen encoder and turns the latents into "
            "words in the last step.",
            "encoder": frozen,
        }


def build(config, vocab_size, mesh, home=None, rows=None, eos_id=None):
    """See `registry.build_method`."""
    del eos_id
    dtype = dtype_of(config, mesh)
    encoder, params = build_encoder(
        config.encoder, vocab_size, config.seed, dtype, home, rows, mesh
    )
    frozen = {"encoder": jax.device_put(params, sharding.replicated(mesh))}
    return _method(config, vocab_size, mesh, encoder), frozen


def describe(config, mesh):
    """See `registry.describe_method`. The sizes of a T5 come from its config.json, or from its name
    if that is a published one.
    """
    vocab_size, encoder, params = describe_encoder(config, dtype_of(config, mesh), mesh)
    return _method(config, vocab_size, mesh, encoder), {"encoder": params}


def kept_meaning(config, home):
    """See `registry.kept_meaning`."""
    mean, std = kept_statistics(config.encoder, home)
    return {
        "method": ELFMethod.name,
        "encoder.kind": config.encoder.kind,
        "encoder.mean": mean,
        "encoder.std": std,
        "objective.noise_scale": config.objective.noise_scale,
    }


def resolve_paths(config, home):
    """See `registry.resolve_paths`."""
    copied = home / workdir.ENCODER
    if config.encoder.kind == "t5" and config.encoder.path == workdir.ENCODER and copied.is_dir():
        config.encoder.path = str(copied)
    return config


def _method(config, vocab_size, mesh, encoder):
    model = config.model
    network = ELF(
        latent_width=encoder.width,
        vocab_size=vocab_size,
        bottleneck=model.bottleneck,
        time_tokens=model.time_tokens,
        guidance_tokens=model.guidance_tokens,
        mode_tokens=model.mode_tokens,
        **backbone_settings(config, mesh),
    )
    law = FrozenConfigDict(ConfigDict(config.objective.to_dict()))
    first = config.data.source_length if config.data.pad_source else 0
    return ELFMethod(Predictor(network), encoder, law, sharding.row_shards(mesh), first)
