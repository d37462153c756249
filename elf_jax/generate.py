"""A checkpoint to text: loads a workdir's model and samples from it.

Sample i depends on the seed and on i alone, not on the batch it is made in.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import transformers
from ml_collections import ConfigDict

from elf_jax import flow, rng, settings, sharding
from elf_jax.build import Model, build_model
from elf_jax.checkpoint import Checkpoints, abstract
from elf_jax.data.tokenizer import decode, load_tokenizer, vocab_size
from elf_jax.decode import cut, decode_tokens
from elf_jax.errors import UserError
from elf_jax.predictor import Condition
from elf_jax.sampler import sample
from elf_jax.types import Batch

SAMPLERS = ("ode", "sde")
TOKENIZER = "tokenizer"  # directory in the workdir


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model with all that sampling needs.

    Attributes:
      config: of its training. tokenizer, model: as built from it.
      params: the weights that the config's section `sample` names.
      progress: of its training. step: of the checkpoint.
    """

    config: ConfigDict
    tokenizer: transformers.PreTrainedTokenizerFast
    model: Model
    params: dict
    progress: dict
    step: int
    mesh: jax.sharding.Mesh


def load_trained(workdir, config=None):
    """The newest checkpoint of a workdir.

    Args:
      workdir: of the training run.
      config: its config, with other values in the section `sample` if wanted; None reads it from
        the workdir.

    Raises:
      UserError: no model there, or a damaged one.
    """
    config = settings.load(workdir) if config is None else config
    check_settings(config.sample)
    checkpoints = Checkpoints(workdir, create=False)
    if checkpoints.latest() is None:
        raise UserError(
            f"no checkpoint in {str(workdir)!r}: train first, or name another --workdir"
        )
    tokenizer = load_tokenizer(pathlib.Path(workdir) / TOKENIZER)
    mesh = sharding.make_mesh(config.mesh)
    model = build_model(config, vocab_size(tokenizer), mesh, workdir)
    shapes = jax.eval_shape(
        lambda key: model.predictor.init(key, config.data.length), jax.random.key(0)
    )
    target = abstract(shapes, sharding.of_tree(shapes, mesh))
    params, progress, step = checkpoints.restore_params(target, config.sample.weights)
    checkpoints.close()
    return Trained(config, tokenizer, model, params, progress, step, mesh)


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
    """The function (params, encoder_params, ids [B], batch or None, key) -> tokens [B, L], to be
    jitted.

    Args:
      model: the `Model`. config: whole config; sections sample, objective and data are read.
    """
    s, law = config.sample, config.objective
    shape = config.data.length, model.encoder.width
    gamma = s.gamma if s.sampler == "sde" else 0.0

    def run(params, encoder_params, ids, batch, key):
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
            model.predictor.guided(params, s.guidance_scale, condition, s.cfg_scale),
            law.noise_scale * start,
            flow.time_grid(s.time_grid, s.steps, law.time_mean, law.time_std, grid_key),
            gamma=gamma,
            noise=noise,
            noise_scale=law.noise_scale,
            t_eps=law.t_eps,
            condition=condition,
        )
        return decode_tokens(model.predictor, params, z, s.guidance_scale)

    return run


def generate(trained, num_samples, seed, rows=None, progress=lambda count: None):
    """Token ids of samples, each cut at its EOS.

    Args:
      trained: a `Trained` model.
      num_samples: how many. seed: of all their randomness.
      rows: `Rows` whose conditions are sampled for, at least num_samples of them; None for
        unconditional text.
      progress: called with the number of samples made after each batch.

    Returns:
      A list of num_samples integer arrays.
    """
    shards = sharding.row_shards(trained.mesh)
    # Every batch has the same size, so there is one compilation; what only fills up the last one
    # is dropped.
    size = -(-min(trained.config.sample.batch_size, num_samples) // shards) * shards
    run = jax.jit(
        make_sampler(trained.model, trained.config),
        out_shardings=sharding.replicated(trained.mesh),
    )
    eos, out = trained.tokenizer.eos_token_id, []
    for start in range(0, num_samples, size):
        ids = np.arange(start, start + size)
        batch = is_cond = None
        if rows is not None:
            fields = rows.take(np.minimum(ids, len(rows) - 1))
            is_cond = fields["is_cond"]
            batch = sharding.put_rows(Batch(**fields), trained.mesh)
        tokens = run(
            trained.params,
            trained.model.encoder.params,
            sharding.put_rows(ids.astype(np.int32), trained.mesh),
            batch,
            jax.random.key(seed),
        )
        count = min(size, num_samples - start)
        out += cut(jax.device_get(tokens), eos, is_cond)[:count]
        progress(count)
    return out


def generate_texts(trained, num_samples, seed, rows=None, progress=lambda count: None):
    """`generate`, as text: (list of texts, list of token rows)."""
    tokens = generate(trained, num_samples, seed, rows, progress)
    return decode(trained.tokenizer, tokens), tokens
