"""ELF as a `Method`: it combines the network, the frozen encoder and the modules of this folder.

Source: ELF, Embedded Language Flows, arXiv 2605.10938.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

from elf_jax.core import checks, rng, sharding, workdir
from elf_jax.core.errors import UserError
from elf_jax.core.types import nothing_given, position_of
from elf_jax.latents.build import build_encoder, describe_encoder, kept_statistics, save_encoder
from elf_jax.latents.encoder import Encoder
from elf_jax.methods.elf import objective, published, roles
from elf_jax.methods.elf.blocks import Blocks, readable
from elf_jax.methods.elf.left_to_right import LeftToRight
from elf_jax.methods.elf.predictor import Predictor
from elf_jax.methods.elf.writer import Writer
from elf_jax.methods.network_settings import backbone_settings, dtype_of, first_target
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
NEXT_CURVE = {"next_loss": "loss of the next token (cross-entropy, nats per token)"}
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
      blocks: how rows are divided into blocks; None: they are written as a whole.
    """

    predictor: Predictor
    encoder: Encoder
    law: FrozenConfigDict
    groups: int
    first: int
    blocks: Blocks | None

    name = "elf"
    tags = ("diffusion", "flow-matching", "elf", "arxiv:2605.10938")
    settings = {
        "time_grid": "grid",
        "sampler": "sampler",
        "gamma_schedule": "gamma(t)",
        "steps": "steps",
        "cfg_scale": "c",
        "gamma": "gamma",
        "noise_temperature": "tau",
        "token_temperature": "tau_x",
        "guidance_scale": "w",
    }
    traced = ("guidance_scale", "noise_temperature", "token_temperature", "gamma", "cfg_scale")
    scales = {
        "cfg_scale": "guidance on the condition, c",
        "guidance_scale": "self-conditioning guidance, w",
    }
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
        ("token_table", 0, "data.tokenizer"),
    )

    @property
    def curves(self):
        """See `Method`."""
        curves = CURVES | (TOKEN_CURVE if self.law.token_weight else {})
        return curves | (NEXT_CURVE if self.blocks else {})

    @property
    def shown(self):
        """See `Method`."""
        shown = SHOWN | ({"token_loss": "tokens"} if self.law.token_weight else {})
        return shown | ({"next_loss": "next"} if self.blocks else {})

    @property
    def fills_anywhere(self):
        """See `Method`."""
        return self.blocks is None

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
        first = position_of(self.first, batch.places)
        sums = objective.mixed_loss(
            self.predictor, params, *inputs, self.law, *dropout, first, self.blocks
        )
        loss = sums.denoise + sums.decode
        if self.law.token_weight:
            loss = loss + self.law.token_weight * sums.tokens
        if self.blocks:
            loss = loss + self.law.next_weight * sums.next
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
        batch = batch.replace(tokens=readable(batch.tokens, batch.is_cond, drop))
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
        if self.blocks:
            values["next_loss"] = sums["next"] / positions
        return values

    def sampler(self, settings, length, watch=None):
        """From noise to latents to tokens, see `Method.sampler`. What is seen of a step is its
        x-prediction in decode mode, and of the last step the sample.

        The traced settings are arguments of the sampler. Only one of them is read here: with
        cfg_scale=1 the sampler is built without guidance on the condition. The same is true of
        token_temperature=0.
        """
        make = self._in_blocks if self.blocks else self._whole_rows
        return make(self._writer(settings), length, watch)

    def _whole_rows(self, writer, length, watch):
        """The sampler of a model that writes whole rows."""

        def run(params, frozen, ids, given, key, scales):
            condition = writer.condition(frozen["encoder"], given)
            predict = writer.predict(params, frozen["encoder"], scales, condition)
            never, view = None if given is None else given.never, View(watch, given)
            draws = length, ids, key, scales
            made = writer.write(params, predict, *draws, never, view, condition)
            return view.keep_given(made)

        return run

    def _in_blocks(self, writer, length, watch):
        """The sampler of a model that writes in blocks."""

        def run(params, frozen, ids, given, key, scales):
            rows = nothing_given(len(ids), length) if given is None else given
            arrays = params, frozen["encoder"], rows, given is not None
            return LeftToRight(writer, self.blocks, *arrays).write(ids, key, scales, watch)

        return run

    def rewriter(self, settings, length, watch=None):
        """From the latents of a text, with noise, to tokens, see `Method.rewriter`."""
        if self.blocks:
            raise UserError(
                f"config.model.block_length is {self.blocks.size}, and a model that writes in "
                "blocks cannot rewrite: use one that was trained with 0"
            )
        writer = self._writer(settings)

        def run(params, frozen, ids, batch, key, scales, strength):
            nothing = jnp.zeros_like(batch.is_valid)
            x = writer.encode(frozen["encoder"], batch.tokens, nothing, batch.is_valid)
            rewriting = Rewriting(watch, batch, strength)
            predict = writer.predict(params, frozen["encoder"], scales, None)
            inputs = predict, length, ids, key, scales
            places = batch.never, View(rewriting.watch), None, (x, 1 - strength)
            return rewriting.result(writer.write(params, *inputs, *places))

        return run

    def _writer(self, settings):
        law = self.encoder.kind, self.law.token_weight
        checks.check_token_temperature(settings.token_temperature, *law)
        return Writer(self.predictor, self.encoder, self.law, settings)

    def effective(self, settings):
        """The settings of the sampler. For the ODE, gamma is 0. A constant gamma has no schedule
        here, and temperatures that change nothing are not named, so that records of versions
        without these settings are found again.
        """
        used = {name: settings[name] for name in self.settings}
        if settings.sampler != "sde":
            used |= {"gamma": 0.0, "gamma_schedule": "constant"}
        if used["gamma_schedule"] == "constant":
            del used["gamma_schedule"]
        if used["noise_temperature"] == 1:
            del used["noise_temperature"]
        if not used["token_temperature"]:
            del used["token_temperature"]
        return used

    def draws(self, settings):
        """Noise is drawn, and the times of one grid."""
        return settings.noise_temperature > 0 or settings.time_grid == "logit_normal"

    def compiled_for(self, settings):
        """The settings that are not traced, and what is built only where it is used: guidance on
        the condition, and an x-prediction by token probabilities.
        """
        fixed = tuple(settings[name] for name in self.settings if name not in self.traced)
        return *fixed, settings.cfg_scale == 1, settings.token_temperature == 0

    def evaluations(self, settings, length):
        """One pass for each step, two with guidance on the condition, and one to decode. A block
        has as many, of its length only.
        """
        return self.costs(settings, length)[-1]

    def costs(self, settings, length):
        """The prediction of each step is decoded by one more pass."""
        passes = 2 if settings.cfg_scale != 1 else 1
        block = passes * settings.steps + 1
        count = len(self.blocks.starts(length)) if self.blocks else 1
        steps = range(1, settings.steps + 1)
        return [block * index + passes * step + 1 for index in range(count) for step in steps]

    def constants(self):
        """Constants of the path, and of the distribution of t, which the time grid also uses."""
        names = ("noise_scale", "time_mean", "time_std", "t_eps")
        return {name: self.law[name] for name in names}

    def loss_settings(self):
        """The distributions and the weights of both losses."""
        return self.law.to_dict()

    def meaning(self):
        """The latent space, the blocks, and the noise scale at the start of the path."""
        return {
            "method": self.name,
            "encoder.kind": self.encoder.kind,
            "encoder.mean": self.encoder.mean,
            "encoder.std": self.encoder.std,
            "model.block_length": self.blocks.size if self.blocks else 0,
            "model.token_table": self.predictor.network.has_table,
            "model.hide_padding": bool(self.blocks and self.blocks.hides_padding),
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
        "model.block_length": config.model.block_length,
        "model.token_table": _has_table(config),
        "model.hide_padding": config.model.block_length > 0 and config.model.hide_padding,
        "objective.noise_scale": config.objective.noise_scale,
    }


def resolve_paths(config, home):
    """See `registry.resolve_paths`."""
    copied = home / workdir.ENCODER
    if config.encoder.kind == "t5" and config.encoder.path == workdir.ENCODER and copied.is_dir():
        config.encoder.path = str(copied)
    return config


def _has_table(config):
    return config.model.block_length > 0 and config.model.token_table


def _method(config, vocab_size, mesh, encoder):
    model = config.model
    network = ELF(
        latent_width=encoder.width,
        vocab_size=vocab_size,
        bottleneck=model.bottleneck,
        time_tokens=model.time_tokens,
        guidance_tokens=model.guidance_tokens,
        mode_tokens=model.mode_tokens,
        blocks=model.block_length > 0,
        has_table=_has_table(config),
        **backbone_settings(config, mesh),
    )
    law = FrozenConfigDict(ConfigDict(config.objective.to_dict()))
    first, blocks = first_target(config), None
    if model.block_length:
        blocks = Blocks(first, model.block_length, model.hide_padding)
    return ELFMethod(Predictor(network), encoder, law, sharding.row_shards(mesh), first, blocks)
