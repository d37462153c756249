"""A trained model that is ready for sampling, evaluation and export."""

import dataclasses

import jax
import transformers
from ml_collections import ConfigDict

from elf_jax.checkpoints.origins import Origin, load_config, tokenizer_path, workdir_origin
from elf_jax.checkpoints.weights import described_params, load_weights
from elf_jax.core import checks, sharding
from elf_jax.data.tokenizer import load_tokenizer, vocab_size
from elf_jax.methods.method import Method
from elf_jax.methods.registry import build_method


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained model.

    Attributes:
      config: the whole config. tokenizer: of its vocabulary.
      method, frozen: as built from the config.
      params: the weights that the config's section `sample` names.
      progress: of its training, {"train_seconds": seconds or None}. step: of the checkpoint.
      mesh: the devices. origin: where the weights come from, by name.
    """

    config: ConfigDict
    tokenizer: transformers.PreTrainedTokenizerFast
    method: Method
    frozen: dict
    params: dict
    progress: dict
    step: int
    mesh: jax.sharding.Mesh
    origin: str = ""

    def with_settings(self, sample):
        """The same model with another section `sample`."""
        config = self.config.copy_and_resolve_references()
        config.sample = sample
        return dataclasses.replace(self, config=config)


def load_trained(origin, config=None, meanwhile=None):
    """The model of a workdir's newest checkpoint, of an export, or of a published checkpoint.

    Args:
      origin: a workdir, or an `Origin` of `origins.find_origin`.
      config: its config; the section `sample` may have other values. None: that of the origin. A
        published checkpoint has no config, so it must be given.
      meanwhile: function of the model before its weights are read, with `described_params` in
        their place. It may begin to compile what the model is used for.

    Raises:
      UserError: there is no model, it is damaged, or the config has values that are not allowed.
    """
    origin = origin if isinstance(origin, Origin) else workdir_origin(origin)
    config = load_config(origin) if config is None else config
    checks.check_model(config)
    tokenizer = load_tokenizer(tokenizer_path(origin, config.data))
    mesh = sharding.make_mesh(config.mesh)
    size, eos = vocab_size(tokenizer), tokenizer.eos_token_id
    method, frozen = build_method(config, size, mesh, origin.home, eos_id=eos)
    target = described_params(config, method, mesh)
    model = TrainedModel(config, tokenizer, method, frozen, target, {}, 0, mesh, origin.name)
    if meanwhile is not None:
        meanwhile(model)
    weights = config.sample.weights
    params, progress, step = load_weights(origin, config, method, mesh, weights, target)
    return dataclasses.replace(model, params=params, progress=progress, step=step)
