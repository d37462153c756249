"""A checkpoint to text: loads a trained model and samples from it.

Sample i depends on the seed and on i alone, not on the batch it is made in.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import transformers
from ml_collections import ConfigDict

from elf_jax.checkpoints.weights import (
    Source,
    load_config,
    load_weights,
    tokenizer_path,
    workdir_source,
)
from elf_jax.core import rng, sharding
from elf_jax.core.errors import UserError
from elf_jax.core.types import Batch
from elf_jax.data.tokenizer import decode, load_tokenizer, vocab_size
from elf_jax.methods.elf import flow
from elf_jax.methods.elf.build import Model, build_model
from elf_jax.methods.elf.decode import cut, decode_tokens
from elf_jax.methods.elf.predictor import Condition
from elf_jax.methods.elf.sampler import sample

SAMPLERS = ("ode", "sde")
SCALES = ("guidance_scale", "gamma", "cfg_scale")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model with all that sampling needs.

    Attributes:
      config: of its training. tokenizer, model: as built from it.
      params: the weights that the config's section `sample` names.
      progress: of its training. step: of the checkpoint.
      source: where the weights come from, by name.
    """

    config: ConfigDict
    tokenizer: transformers.PreTrainedTokenizerFast
    model: Model
    params: dict
    progress: dict
    step: int
    mesh: jax.sharding.Mesh
    source: str = ""


def load_trained(source, config=None):
    """The model of a workdir's newest checkpoint, of an export, or of a published checkpoint.

    Args:
      source: a workdir, or a `Source` from `weights.find_source`.
      config: its config, with other values in the section `sample` if wanted; None reads it from
        the source, unless that is a published checkpoint, which has none.

    Raises:
      UserError: no model there, or a damaged one.
    """
    source = source if isinstance(source, Source) else workdir_source(source)
    config = load_config(source) if config is None else config
    check_settings(config.sample)
    tokenizer = load_tokenizer(tokenizer_path(source, config.data))
    mesh = sharding.make_mesh(config.mesh)
    model = build_model(config, vocab_size(tokenizer), mesh, source.home)
    params, progress, step = load_weights(source, config, model, mesh, config.sample.weights)
    return Trained(config, tokenizer, model, params, progress, step, mesh, source.name)


def check_settings(sample_settings):
    """Raises UserError for a setting of the section `sample` that cannot be."""
    s = sample_settings
    if s.sampler not in SAMPLERS:
        raise UserError(f"sampler is {s.sampler!r}; use one of {', '.join(SAMPLERS)}")
    if s.time_grid not in flow.TIME_GRIDS:
        raise UserError(f"time grid is {s.time_grid!r}; use one of {', '.join(flow.TIME_GRIDS)}")
    for name in ("num_samples", "batch_size", "steps"):
        if s[name] < 1:
            raise UserError(f"sample.{name} is {s[name]}; it must be 1 or more")
    if s.gamma < 0:
        raise UserError(f"gamma is {s.gamma}; it must be 0 or more")
    if s.guidance_scale <= 0:
        raise UserError(f"the guidance scale is {s.guidance_scale}; it must be above 0 (1: none)")


def make_sampler(model, config):
    """The function (params, encoder_params, ids [B], batch or None, key, scales) -> tokens [B, L],
    to be jitted.

    Args:
      model: the `Model`. config: whole config; sections sample, objective and data are read. Of
        SCALES it reads only whether there is noise to put back and whether there is CFG: their
        values are arguments, so that trying others compiles nothing.
    """
    s, law = config.sample, config.objective
    shape = config.data.length, model.encoder.width

    def run(params, encoder_params, ids, batch, key, scales):
        w = scales["guidance_scale"]
        gamma = scales["gamma"] if s.sampler == "sde" else 0.0
        cfg_scale = scales["cfg_scale"] if s.cfg_scale != 1 else 1.0
        keys = rng.per_example(key, ids)
        condition = None
        if batch is not None:
            keep = jnp.zeros(len(ids), bool)
            # The encoder sees the condition alone: a condition token attends to nothing else.
            latents = model.encoder.encode(
                encoder_params, batch.tokens, batch.is_cond, batch.is_cond, keep
            )
            condition = Condition(jnp.where(batch.is_cond[..., None], latents, 0.0), batch.is_cond)

        def noise(name):
            return rng.normal(jax.vmap(lambda k: rng.stream(k, "sde", name))(keys), shape)

        start = rng.normal(jax.vmap(lambda k: rng.stream(k, "start"))(keys), shape)
        grid_key = rng.stream(key, "time_grid")
        z = sample(
            model.predictor.guided(params, w, condition, cfg_scale),
            law.noise_scale * start,
            flow.time_grid(s.time_grid, s.steps, law.time_mean, law.time_std, grid_key),
            gamma=gamma,
            noise=noise,
            noise_scale=law.noise_scale,
            t_eps=law.t_eps,
            condition=condition,
        )
        return decode_tokens(model.predictor, params, z, w)

    return run


def jit_sampler(trained):
    """`make_sampler`, jitted: one for all settings that differ in SCALES or in the seed only."""
    return jax.jit(
        make_sampler(trained.model, trained.config),
        out_shardings=sharding.replicated(trained.mesh),
        compiler_options=sharding.compiler_options(trained.mesh),
    )


def scales(sample_settings):
    """The SCALES of a section `sample` as arrays."""
    return {name: np.float32(sample_settings[name]) for name in SCALES}


def generate(trained, num_samples, seed, rows=None, progress=lambda count: None, run=None):
    """Token ids of samples, each cut at its EOS.

    Args:
      trained: a `Trained` model.
      num_samples: how many. seed: of all their randomness.
      rows: `Rows` whose conditions are sampled for, at least num_samples of them; None for
        unconditional text.
      progress: called with the number of samples made after each batch.
      run: of `jit_sampler`, to compile once for several calls; None makes one.

    Returns:
      A list of num_samples integer arrays.
    """
    size = batch_rows(trained, num_samples)
    starts = range(0, num_samples, size)
    conditions = ({} if rows is None else take(rows, start, size) for start in starts)
    out = []
    for tokens in stream(trained, conditions, size, seed, run):
        # What only filled up the last batch is dropped.
        tokens = tokens[: num_samples - len(out)]
        out += tokens
        progress(len(tokens))
    return out


def batch_rows(trained, num_samples):
    """Rows of every batch for so many samples: config.sample.batch_size or fewer, and a multiple of
    what the mesh splits rows into.
    """
    shards = sharding.row_shards(trained.mesh)
    return -(-min(trained.config.sample.batch_size, num_samples) // shards) * shards


def take(rows, start, size):
    """The fields of a `Batch` for `size` rows from `start`; the last row fills up the end."""
    return rows.take(np.minimum(np.arange(start, start + size), len(rows) - 1))


def stream(trained, conditions, size, seed, run=None):
    """Samples batch by batch, each as soon as it is made, all by one compilation.

    Args:
      trained: a `Trained` model.
      conditions: for each batch the fields of a `Batch` of `size` rows, or {} for unconditional
        text. Sample i is that of row i, counted over all batches.
      size: rows of every batch. seed: of all randomness. run: as for `generate`.

    Yields:
      A list of `size` integer arrays, each cut at its EOS.
    """
    run = jit_sampler(trained) if run is None else run
    eos = trained.tokenizer.eos_token_id
    for index, fields in enumerate(conditions):
        ids = np.arange(index * size, (index + 1) * size, dtype=np.int32)
        tokens = run(
            trained.params,
            trained.model.encoder.params,
            sharding.share_rows(ids, trained.mesh),
            sharding.share_rows(Batch(**fields), trained.mesh) if fields else None,
            jax.random.key(seed),
            scales(trained.config.sample),
        )
        yield cut(jax.device_get(tokens), eos, fields.get("is_cond"))


def generate_texts(trained, num_samples, seed, rows=None, progress=lambda count: None):
    """`generate`, as text: (list of texts, list of token rows)."""
    tokens = generate(trained, num_samples, seed, rows, progress)
    return decode(trained.tokenizer, tokens), tokens
