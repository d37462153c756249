"""What the methods on tokens have in common. A subclass adds a loss and a sampler.

The condition of a row is given: its tokens never have noise and never count in the loss. A learned
vector tells the network which positions are given. In a share of the rows of training the network
does not see the condition (`condition_dropout`), so that samplers can guide on it.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from elf_jax.core import rng, sharding
from elf_jax.core.errors import UserError
from elf_jax.core.types import position_of
from elf_jax.latents.build import described_vocab_size
from elf_jax.methods.network_settings import backbone_settings, first_target
from elf_jax.methods.tokens.draws import uniforms
from elf_jax.methods.tokens.predictor import TokenPredictor, restricted
from elf_jax.methods.watching import Rewriting
from elf_jax.networks.tokens import TokenNetwork

COLDEST = 1e-6  # a temperature of 0 means this: the likeliest token


class Begin(NamedTuple):
    """Where a sampler begins that rewrites texts.

    Attributes:
      tokens: [B, L], the texts. strength: scalar in (0, 1], how much noise they get, see
        `Method.rewriter`. At 1 nothing of the texts may be left.
    """

    tokens: jax.Array
    strength: jax.Array


@flax.struct.dataclass
class TrainingRows:
    """The rows of a training batch, as a loss needs them.

    Attributes:
      tokens: [B, L] int32.
      is_given, is_dropped: [B, L] bool: positions of the condition, where the network sees it and
        where it must not.
      keys: [B] JAX keys, one for each row. ids: [B], places of the rows in the whole batch.
      count: number of rows of the whole batch.
      strata: int32 scalar, number of equal parts of the range of times: one for each row of the
        whole batch that is real, see `Context`.
      source_padding: [B, L] bool, the padding between a source and its target.
      places: [L] integers, see `Batch`; None: they count from 0.
    """

    tokens: jax.Array
    is_given: jax.Array
    is_dropped: jax.Array
    keys: jax.Array
    ids: jax.Array
    count: int = flax.struct.field(pytree_node=False)
    strata: jax.Array
    source_padding: jax.Array
    places: tuple[int, ...] | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def is_cond(self):
        """[B, L] bool, all positions of the condition."""
        return self.is_given | self.is_dropped

    def uniforms(self, name, shape=()):
        """[B, *shape] uniforms of the stream `name`."""
        return uniforms(self.keys, shape, name)


def training_rows(batch, ids, context, condition_dropout):
    """The `TrainingRows` of a `Batch`. A held-out likelihood is that of text given its condition,
    so conditions are dropped in training only.
    """
    keys = rng.per_example(context.key, ids)
    share = condition_dropout if context.is_training else 0.0
    drop = uniforms(keys, (), "drop")[:, None] < share
    is_given, is_dropped = batch.is_cond & ~drop, batch.is_cond & drop
    count = context.rows or len(ids)
    strata = jnp.asarray(count if context.real is None else context.real)
    rows = batch.tokens, is_given, is_dropped, keys, ids, count, strata
    return TrainingRows(*rows, batch.source_padding, batch.places)


@dataclasses.dataclass(frozen=True)
class TokenMethod:
    """The members of `methods.method.Method` that all methods on tokens share.

    A subclass has the class attributes of the protocol, and these methods:
      position_losses(params, rows, context) -> {name: [B, L]}; "loss" is what is minimised, the
        others are shown; `rows` are `TrainingRows`.
      sample(predict, given, keys, settings, scales, length, begin, watch) -> tokens [B, L] int32;
        see `making`.

    Attributes:
      predictor: the network. law: the config's section of this method.
      condition_dropout: share of the training rows that lose their condition.
      eos_id: id of the end-of-sequence token, or None if it is not known.
      first: the place at which all targets begin; before it everything is condition.
      hides_padding: whether the padding between a source and its target is hidden from all
        positions.
    """

    predictor: TokenPredictor
    law: FrozenConfigDict
    condition_dropout: float
    eos_id: int | None = dataclasses.field(default=None, kw_only=True)
    first: int = dataclasses.field(default=0, kw_only=True)
    hides_padding: bool = dataclasses.field(default=False, kw_only=True)

    # Of the network: input tokens after the vocabulary, whether it has control tokens for the
    # time, and whether it is causal.
    extra_tokens: ClassVar[int] = 0
    has_time: ClassVar[bool] = True
    causal: ClassVar[bool] = False
    # The section of the config, and the method whose parameters this one can use.
    section: ClassVar[str] = ""
    family: ClassVar[str] = ""
    paper: ClassVar[tuple[str, str]] = ("", "")
    settings = {"sampler": "sampler", "steps": "steps", "cfg_scale": "c", "temperature": "T"}
    traced = ("cfg_scale", "temperature")
    scales = {"cfg_scale": "guidance on the condition, c", "temperature": "temperature, T"}
    fills_anywhere = True
    has_exact_likelihood = False
    # {pattern of parameter paths: learning rate} of parameters with a rate of their own.
    own_rates: ClassVar[dict[str, float]] = {}
    sizes = (
        ("blocks/norm1/scale", 0, "model.depth"),
        ("final_norm/scale", 0, "model.width"),
        ("blocks/attn/q_norm/scale", 1, "model.heads"),
        ("time_token", 0, "model.time_tokens"),
        ("unembed/kernel", 1, "data.tokenizer"),
    )

    @classmethod
    def create(cls, config, vocab_size, mesh):
        """The method of a whole config on a mesh, for V tokens."""
        law = FrozenConfigDict(ConfigDict(config[cls.section].to_dict() if cls.section else {}))
        network = cls.network(config, law, vocab_size, mesh)
        predictor = TokenPredictor(network, sharding.row_shards(mesh))
        places = dict(first=first_target(config), hides_padding=config.model.hide_padding)
        return cls(predictor, law, config.tokens.condition_dropout, **places)

    @classmethod
    def network(cls, config, law, vocab_size, mesh):
        """The network of the method."""
        del law
        return TokenNetwork(
            vocab_size=vocab_size,
            extra_tokens=cls.extra_tokens,
            time_tokens=config.model.time_tokens if cls.has_time else 0,
            causal=cls.causal,
            **backbone_settings(config, mesh),
        )

    @property
    def vocab_size(self):
        """V."""
        return self.predictor.network.vocab_size

    @property
    def dtype(self):
        """Type of the computation."""
        return self.predictor.network.dtype

    @property
    def tags(self):
        """Of a model card."""
        return ("text-generation", self.name, f"arxiv:{self.paper[1]}")

    def init(self, key, length):
        """See `Method.init`."""
        return self.predictor.init(key, length)

    def loss(self, params, frozen, batch, counted, ids, context):
        """See `Method.loss`."""
        del frozen
        rows = training_rows(batch, ids, context, self.condition_dropout)
        losses = self.position_losses(params, rows, context)
        sums = {name: jnp.sum(jnp.where(counted, one, 0.0)) for name, one in losses.items()}
        return sums.pop("loss"), sums

    def training_predict(self, params, rows, context):
        """The function (inputs, t) -> read of a training step, see `TokenPredictor.predict`."""
        has_dropout = context.is_training and self.predictor.network.dropout > 0
        key = rng.stream(context.key, "dropout") if has_dropout else None
        flags = rows.is_given, rows.is_dropped
        return self.predictor.predict(
            params, *flags, dropout_key=key, ids=rows.ids, **self.where(rows)
        )

    def where(self, rows):
        """The arguments of `TokenPredictor.predict` that tell of the places of rows, which are
        `TrainingRows`, or of whole rows, which are a `Batch`.
        """
        how = {} if rows.places is None else {"places": np.asarray(rows.places)}
        first = position_of(self.first, rows.places)
        return how | {"is_key": self.which_keys(rows), "first": first}

    def which_keys(self, rows):
        """[B, L] bool, which inputs of the network may be attended to; None: all of them.

        Args:
          rows: see `where`.
        """
        return ~rows.source_padding if self.hides_padding else None

    def metrics(self, loss, sums, positions):
        """The loss, and the means of the other sums over the counted positions."""
        return {"loss": loss} | {name: value / positions for name, value in sums.items()}

    def sampler(self, settings, length, watch=None):
        """See `Method.sampler`."""
        make = self.making(settings, length, watch)

        def run(params, frozen, ids, given, key, scales):
            del frozen
            return make(params, rng.per_example(key, ids), given, scales, None)

        return run

    def rewriter(self, settings, length, watch=None):
        """See `Method.rewriter`."""

        def run(params, frozen, ids, batch, key, scales, strength):
            del frozen
            rewriting = Rewriting(watch, batch, strength)
            make = self.making(settings, length, rewriting.watch)
            nothing = batch.replace(is_cond=None)
            begin = Begin(batch.tokens, strength)
            return rewriting.result(make(params, rng.per_example(key, ids), nothing, scales, begin))

        return run

    def making(self, settings, length, watch=None):
        """The function (params, keys [B], given, scales, begin) -> tokens [B, L] int32, or what
        `Method.sampler` returns with `watch`.

        `begin` is a `Begin`, or None for a start from noise alone. With it nothing is given:
        `given.is_cond` is None. `sample` gets the function (inputs, t) -> read; the given tokens as
        a `Batch` or None; a key for each row; the section `sample`; its traced values; L; `begin`;
        `watch`.
        """
        is_guided = settings.cfg_scale != 1

        def run(params, keys, given, scales, begin):
            predict = self.sampling_predict(params, given, scales, is_guided)
            kept = given if begin is None else None
            return self.sample(predict, kept, keys, settings, scales, length, begin, watch)

        return run

    def sampling_predict(self, params, given, scales, is_guided):
        """The function (inputs, t) -> read of a sampler. given: see `making`."""
        is_given = None if given is None else given.is_cond
        how = {"temperature": jnp.maximum(scales["temperature"], COLDEST)}
        if is_given is not None:
            how |= self.where(given)
        if is_given is None or not is_guided:
            predict = self.predictor.predict(params, is_given, **how)
        else:
            without, scale = self.without(is_given), scales["cfg_scale"]
            predict = self.predictor.guided(params, is_given, scale, without, **how)
        return restricted(predict, None if given is None else given.never)

    def without(self, is_given):
        """The function from inputs of the network to inputs without the condition. The network does
        not see the dropped positions, so by default there is nothing to do.
        """
        del is_given
        return lambda inputs: inputs

    def effective(self, settings):
        """See `Method.effective`."""
        return {name: settings[name] for name in self.settings}

    def draws(self, settings):
        """See `Method.draws`."""
        del settings
        return True

    def compiled_for(self, settings):
        """See `Method.compiled_for`."""
        fixed = tuple(settings[name] for name in self.settings if name not in self.traced)
        return *fixed, settings.cfg_scale == 1

    def evaluations(self, settings, length):
        """See `Method.evaluations`."""
        del length
        return settings.steps * self.passes(settings)

    def costs(self, settings, length):
        """See `Method.costs`. Every state is that of one more prediction."""
        passes = self.passes(settings)
        return list(range(passes, self.evaluations(settings, length) + 1, passes))

    def passes(self, settings):
        """How often the network runs for one prediction."""
        return 2 if settings.cfg_scale != 1 else 1

    def constants(self):
        """See `Method.constants`."""
        return {}

    def loss_settings(self):
        """See `Method.loss_settings`."""
        return {"method": self.name, **self.law.to_dict()}

    def meaning(self):
        """See `Method.meaning`."""
        return {"method": self.family or self.name, "model.hide_padding": self.hides_padding}

    def save_frozen(self, frozen, directory):
        """There is nothing frozen."""

    def export_frozen(self, frozen, config, directory):
        """There is nothing frozen."""
        del frozen, directory
        return config

    def from_published(self, flat):
        """Raises UserError: only ELF has published checkpoints that are read here."""
        raise UserError(
            f"config.method is {self.name}, and published checkpoints are read for elf only"
        )

    def described(self, config):
        """For the model card."""
        del config
        name, number = self.paper
        return {
            "summary": f"A language model, {self.title} ([{name}](https://arxiv.org/abs/{number}))."
        }


@dataclasses.dataclass(frozen=True)
class Family:
    """The functions of a module in `registry.METHODS`, for a class of token methods."""

    kind: type

    def build(self, config, vocab_size, mesh, home=None, rows=None, eos_id=None):
        """See `registry.build_method`. Nothing is frozen."""
        del home, rows
        method = self.kind.create(config, vocab_size, mesh)
        return dataclasses.replace(method, eos_id=eos_id), {}

    def describe(self, config, mesh):
        """See `registry.describe_method`."""
        return self.kind.create(config, described_vocab_size(config.data), mesh), {}

    def kept_meaning(self, config, home):
        """See `registry.kept_meaning`."""
        del home
        return self.kind.create(config, 1, _one_device()).meaning()

    def resolve_paths(self, config, home):
        """See `registry.resolve_paths`. There are no paths."""
        del home
        return config


def _one_device():
    return sharding.make_mesh(ConfigDict({"data": 1, "fsdp": 1, "tensor": 1}), jax.devices()[:1])
