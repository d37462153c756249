"""A config to a model, for training and for sampling alike: there is no second way to build one."""

import dataclasses

import jax
import jax.numpy as jnp

from elf_jax.core import sharding
from elf_jax.core.errors import UserError
from elf_jax.latents.encoder import Encoder, build_encoder
from elf_jax.methods.elf.predictor import Predictor
from elf_jax.networks.attention import IMPLEMENTATIONS, choose
from elf_jax.networks.elf import ELF, REMAT

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Model:
    """The trained network and the frozen encoder it works in the latent space of."""

    predictor: Predictor
    encoder: Encoder


def build_model(config, vocab_size, mesh, workdir=None, rows=None, encoder=None):
    """The model of a whole config.

    Args:
      config: as in configs/base.py.
      vocab_size: V, of the tokenizer (`data.tokenizer.vocab_size`).
      mesh: the devices; each gets the whole frozen encoder, once.
      workdir, rows: see `encoder.build_encoder`.
      encoder: an `Encoder` that is used as it is, in place of the config's (it may be abstract).

    Raises:
      UserError: a setting that no network can have, or an encoder that does not load.
    """
    settings = config.model
    platform = mesh.devices.flat[0].platform
    dtype = compute_dtype(settings.dtype, platform)
    _check(settings)
    given = encoder is not None
    if not given:
        encoder = build_encoder(config.encoder, vocab_size, config.seed, dtype, workdir, rows, mesh)
    network = ELF(
        latent_width=encoder.width,
        vocab_size=vocab_size,
        depth=settings.depth,
        width=settings.width,
        heads=settings.heads,
        bottleneck=settings.bottleneck,
        time_tokens=settings.time_tokens,
        guidance_tokens=settings.guidance_tokens,
        mode_tokens=settings.mode_tokens,
        dropout=settings.dropout,
        remat=settings.remat,
        unroll=settings.unroll,
        attention=choose(
            settings.attention,
            platform,
            dtype,
            settings.heads,
            settings.width // settings.heads,
            mesh.shape["tensor"],
        ),
        dtype=dtype,
        mesh=mesh,
    )
    if not given:
        params = jax.device_put(encoder.params, sharding.replicated(mesh))
        encoder = dataclasses.replace(encoder, params=params)
    return Model(Predictor(network), encoder)


def compute_dtype(name, platform=None, key="config.model.dtype"):
    """The dtype of the name that is the value of the config key `key`; "auto" is bfloat16 on
    accelerators and float32 on CPUs, which have no fast bfloat16. `platform` is that of the
    devices; None: those that are there.
    """
    if name == "auto":
        name = "float32" if (platform or jax.default_backend()) == "cpu" else "bfloat16"
    if name not in DTYPES:
        raise UserError(f"{key} is {name!r}; use auto, {' or '.join(DTYPES)}")
    return DTYPES[name]


def _check(settings):
    sizes = ("depth", "width", "heads", "bottleneck", "time_tokens", "guidance_tokens")
    for name in (*sizes, "mode_tokens", "unroll"):
        if settings[name] < 1:
            raise UserError(f"config.model.{name} is {settings[name]}; it must be 1 or more")
    if settings.width % (2 * settings.heads):
        raise UserError(
            f"config.model.width={settings.width} with heads={settings.heads}: the width of a head "
            "must be a whole even number, for the rotary embedding"
        )
    if not 0 <= settings.dropout < 1:
        raise UserError(f"config.model.dropout is {settings.dropout}; use 0 or more, below 1")
    for name, known in (("remat", REMAT), ("attention", IMPLEMENTATIONS)):
        if settings[name] not in known:
            raise UserError(
                f"config.model.{name} is {settings[name]!r}; use one of {', '.join(known)}"
            )
